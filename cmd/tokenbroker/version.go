package main

import (
	"runtime"
	"runtime/debug"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
)

type versionCommand struct{}

// version is set by the linker in a release.
var version = ""

// Run says what this is.
func (versionCommand) Run(p *console.Process) error { //nolint:unparam // kong wants one
	v, commit := version, ""
	if info, ok := debug.ReadBuildInfo(); ok {
		if v == "" {
			v = info.Main.Version
		}
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				commit = " " + s.Value
			}
		}
	}
	if v == "" {
		v = "(development)"
	}
	console.Printf(p.Stdout, "tokenbroker %s%s %s %s/%s\n", v, commit, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return nil
}
