package main

import (
	"cmp"
	"runtime"
	"runtime/debug"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
)

type versionCommand struct{ console.Format }

// version is set by the linker in a release.
var version = ""

// Run says what this is.
func (c versionCommand) Run(p *console.Process) error {
	v, commit := version, ""
	if info, ok := debug.ReadBuildInfo(); ok {
		v = cmp.Or(v, info.Main.Version)
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				commit = s.Value
			}
		}
	}
	v = cmp.Or(v, "(development)")
	text := v
	if commit != "" {
		text += " " + commit
	}
	return c.Print(p.Stdout, struct {
		Version  string `json:"version"`
		Commit   string `json:"commit,omitempty"`
		Go       string `json:"go"`
		Platform string `json:"platform"`
	}{v, commit, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}, "tokenbroker %s %s %s/%s\n", text, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
