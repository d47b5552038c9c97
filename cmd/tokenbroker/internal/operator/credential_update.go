package operator

import (
	"context"
	"maps"
	"slices"

	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

type credentialUpdateCommand struct {
	remote
	credentialFlags
	Name        string   `arg:"" names:"credential" help:"The credential."`
	Provider    string   `names:"provider" help:"Another provider; every secret has to be given again."`
	RemoveInput []string `help:"Remove an optional input."`
	RemoveLabel []string `help:"Remove a label."`
	Disable     bool     `xor:"able" help:"Stop issuing its tokens."`
	Enable      bool     `xor:"able" help:"Issue its tokens again."`
	Etag        string   `help:"Change it only if it still has this etag."`
}

// Run changes what the flags name.
func (c *credentialUpdateCommand) Run(p *console.Process) error {
	inputs, err := c.inputs()
	if err != nil {
		return err
	}
	secrets, err := c.read(p)
	if err != nil {
		return err
	}
	m := &tokenbrokerv1.Credential{
		Name: c.Name, Provider: c.Provider, Inputs: inputs, DefaultScopes: c.DefaultScope, DefaultAudience: c.DefaultAudience,
		Labels: c.Label, Disabled: c.Disable, Etag: c.Etag,
	}
	var mask []string
	add := func(set bool, path string) {
		if set {
			mask = append(mask, path)
		}
	}
	add(c.Provider != "", "provider")
	add(len(c.DefaultScope) > 0, "default_scopes")
	add(c.DefaultAudience != "", "default_audience")
	add(c.Disable || c.Enable, "disabled")
	for _, k := range slices.Concat(slices.Sorted(maps.Keys(inputs)), c.RemoveInput) {
		add(true, "inputs."+k)
	}
	for _, k := range slices.Concat(slices.Sorted(maps.Keys(c.Label)), c.RemoveLabel) {
		add(true, "labels."+k)
	}
	for k := range secrets {
		add(true, "secrets."+k)
	}
	if len(mask) == 0 {
		return console.BadInput("nothing to change: see tokenbroker credential update --help")
	}
	return c.with(p.Context, func(ctx context.Context, cl *client) error {
		req := &tokenbrokerv1.UpdateCredentialRequest{Credential: m, UpdateMask: &fieldmaskpb.FieldMask{Paths: mask}, Secrets: secrets}
		if c.Provider != "" || len(inputs) > 0 || len(c.RemoveInput) > 0 {
			if err := cl.tellMove(ctx, p.Stderr, req); err != nil {
				return err
			}
		}
		res, err := cl.credentials.UpdateCredential(ctx, req)
		if err != nil {
			return err
		}
		return showCredential(p.Stdout, c.Format, res.GetCredential())
	})
}
