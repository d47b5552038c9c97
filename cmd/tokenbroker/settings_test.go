package main

import (
	"slices"
	"testing"

	"github.com/alecthomas/kong"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/settings"
)

// TestASettingIsTheSameToEveryCommand that reads it: what serve refuses of it, all refuse.
func TestASettingIsTheSameToEveryCommand(t *testing.T) {
	var c cli
	k := kong.Must(&c, kong.Name("tokenbroker"), settings.Options(t.TempDir()), kong.Exit(func(int) {}))
	of := map[string]*kong.Flag{}
	serve := k.Model.Leaves(false)[slices.IndexFunc(k.Model.Leaves(false), func(n *kong.Node) bool { return n.Name == "serve" })]
	for _, f := range serve.Flags {
		for _, name := range f.Tag.Envs {
			of[name] = f
		}
	}
	seen := 0
	for _, command := range k.Model.Leaves(false) {
		for _, f := range command.Flags {
			for _, name := range f.Tag.Envs {
				want := of[name]
				if want == nil {
					continue
				}
				if seen++; f.Name != want.Name || f.Tag.Type != want.Tag.Type || f.Tag.Get("off") != want.Tag.Get("off") || f.Default != want.Default {
					t.Errorf("%s --%s: it has type %q, off %q, default %q; of serve it is --%s, with %q, %q, %q", command.Path(), f.Name,
						f.Tag.Type, f.Tag.Get("off"), f.Default, want.Name, want.Tag.Type, want.Tag.Get("off"), want.Default)
				}
			}
		}
	}
	if len(of) < 30 || seen < 100 {
		t.Errorf("got %d settings, in %d places", len(of), seen)
	}
}
