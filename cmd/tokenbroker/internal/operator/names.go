package operator

import (
	"context"
	"regexp"
	"time"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
)

// NamesCommand prints the names that a shell completes, a line each. A flag or an argument that takes such names has the tag names.
type NamesCommand struct {
	remote
	Kind string `arg:"" enum:"credential,provider" help:"credential or provider."`
}

// namesMost bounds how long somebody who has pressed a key waits.
const namesMost = time.Second

// plainName is a name that no shell takes for anything else: whoever answers at an address chooses what is printed.
var plainName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

// Run prints what there is within its time. That there is nothing to complete is no failure, whatever the reason.
func (c *NamesCommand) Run(p *console.Process) error {
	ctx, cancel := context.WithTimeout(p.Context, namesMost)
	defer cancel()
	var names []string
	_ = c.with(ctx, func(ctx context.Context, cl *client) error {
		if c.Kind == "provider" {
			all, err := cl.allProviders(ctx)
			for _, x := range all {
				names = append(names, x.GetName())
			}
			return err
		}
		all, err := cl.list(ctx, "")
		for _, x := range all {
			names = append(names, x.GetName())
		}
		return err
	})
	for _, n := range names {
		if plainName.MatchString(n) {
			console.Println(p.Stdout, n)
		}
	}
	return nil
}
