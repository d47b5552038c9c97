package operator

import (
	"context"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

type credentialCreateCommand struct {
	remote
	credentialFlags
	Name         string `arg:"" help:"Its name, such as officernd-main."`
	Provider     string `required:"" names:"provider" help:"The provider; see provider list."`
	ValidateOnly bool   `help:"Check everything and store nothing."`
}

// Run stores the credential; secrets that are missing are asked for where somebody is there to be asked.
func (c *credentialCreateCommand) Run(p *console.Process) error {
	inputs, err := c.inputs()
	if err != nil {
		return err
	}
	secrets, err := c.read(p)
	if err != nil {
		return err
	}
	return c.with(p.Context, func(ctx context.Context, cl *client) error {
		req := &tokenbrokerv1.CreateCredentialRequest{
			Credential: &tokenbrokerv1.Credential{
				Name: c.Name, Provider: c.Provider, Inputs: inputs, DefaultScopes: c.DefaultScope, DefaultAudience: c.DefaultAudience, Labels: c.Label,
			},
			Secrets: secrets, ValidateOnly: c.ValidateOnly,
		}
		for {
			res, err := cl.credentials.CreateCredential(ctx, req)
			missing := missingSecrets(err)
			switch {
			case err == nil:
				return c.created(p, res.GetCredential())
			case len(missing) == 0:
				return err
			case !canPrompt(p):
				return console.BadInput("credential %s: missing: %s; there is no terminal to ask at: give each secret with --secret NAME=@FILE or --secret-stdin NAME",
					c.Name, strings.Join(missing, ", "))
			}
			for _, name := range missing {
				v, err := prompt(p, name)
				if err != nil {
					return err
				}
				if v == "" {
					return console.BadInput("%s is required", name)
				}
				req.Secrets[name] = v
			}
		}
	})
}

// created shows what was stored, and says what comes next.
func (c *credentialCreateCommand) created(p *console.Process, made *tokenbrokerv1.Credential) error {
	if err := showCredential(p.Stdout, c.Format, made); err != nil || c.JSON() {
		return err
	}
	if c.ValidateOnly {
		console.Println(p.Stderr, "nothing is wrong with it, and nothing was stored")
		return nil
	}
	console.Printf(p.Stderr, "next: tokenbroker credential test %s\n", c.Name)
	return nil
}

// violationRequired is the reason of a violation that a value would mend.
var violationRequired = strings.TrimPrefix(tokenbrokerv1.ViolationReason_VIOLATION_REASON_REQUIRED.String(), "VIOLATION_REASON_")

// missingSecrets are the secrets that a refusal says are required, if it says nothing else.
func missingSecrets(err error) []string {
	var names []string
	for _, d := range status.Convert(err).Details() {
		bad, ok := d.(*errdetails.BadRequest)
		if !ok {
			continue
		}
		for _, v := range bad.GetFieldViolations() {
			name, secret := strings.CutPrefix(v.GetField(), "secrets.")
			if !secret || v.GetReason() != violationRequired {
				return nil
			}
			names = append(names, name)
		}
	}
	return names
}
