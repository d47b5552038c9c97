package operator

import (
	"context"
	"slices"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

type credentialRotateCommand struct {
	remote
	secretFlags
	Name       string        `arg:"" names:"credential" help:"The credential."`
	KeepFormer time.Duration `help:"How long the former secret stays, for where the upstream refuses the new one; 0: until it is retired."`
}

// Run sets new secrets; where none is named it asks for each, and an empty answer leaves one as it is.
func (c *credentialRotateCommand) Run(p *console.Process) error {
	secrets, err := c.read(p)
	if err != nil {
		return err
	}
	return c.with(p.Context, func(ctx context.Context, cl *client) error {
		if len(secrets) == 0 && !canPrompt(p) {
			return console.BadInput("which secret? --secret NAME=@FILE or --secret-stdin NAME")
		}
		there, err := cl.credentials.GetCredential(ctx, &tokenbrokerv1.GetCredentialRequest{Name: c.Name})
		if err != nil {
			return err
		}
		if len(secrets) == 0 {
			for _, s := range there.GetCredential().GetSecrets() {
				if secrets[s.GetName()], err = prompt(p, s.GetName()); err != nil {
					return err
				}
				if secrets[s.GetName()] == "" {
					delete(secrets, s.GetName())
				}
			}
		}
		res, err := cl.credentials.RotateSecret(ctx, &tokenbrokerv1.RotateSecretRequest{Name: c.Name, Secrets: secrets, KeepFormer: durationpb.New(c.KeepFormer)})
		if err != nil {
			return err
		}
		if after := res.GetCredential(); after.GetVersion() == there.GetCredential().GetVersion() {
			what := "nothing has changed: that is the present secret"
			if after.GetEtag() != there.GetCredential().GetEtag() {
				what = "that is the present secret; how long the former one stays has changed"
			}
			console.Println(p.Stderr, what)
		}
		return showCredential(p.Stdout, c.Format, res.GetCredential())
	})
}

type credentialRetireCommand struct {
	remote
	Name    string   `arg:"" names:"credential" help:"The credential."`
	Secrets []string `arg:"" optional:"" help:"The secrets whose former values are forgotten; none: all."`
	Yes     bool     `help:"Forget them also where it was a former one that worked last."`
}

// Run forgets former secrets, unless one of them is the only one that works.
func (c *credentialRetireCommand) Run(p *console.Process) error {
	return c.with(p.Context, func(ctx context.Context, cl *client) error {
		if !c.Yes {
			used, err := formerWorked(ctx, cl, c.Name)
			if err != nil {
				return err
			}
			if used {
				return status.Error(codes.FailedPrecondition,
					"the former secret is the one that worked last, and the upstream refuses the new one: set that in the upstream, or rotate again, and see with `credential test`; --yes forgets the former one all the same")
			}
		}
		res, err := cl.credentials.RetireSecret(ctx, &tokenbrokerv1.RetireSecretRequest{Name: c.Name, Secrets: c.Secrets})
		if err != nil {
			return err
		}
		return showCredential(p.Stdout, c.Format, res.GetCredential())
	})
}

// formerWorked reports whether the last exchange that worked was made with a former secret.
func formerWorked(ctx context.Context, cl *client, name string) (bool, error) {
	c, err := cl.credentials.GetCredential(ctx, &tokenbrokerv1.GetCredentialRequest{Name: name})
	if err != nil {
		return false, err
	}
	how, err := cl.credentials.GetCredentialStatus(ctx, &tokenbrokerv1.GetCredentialStatusRequest{Name: name})
	if err != nil {
		return false, err
	}
	last := how.GetLastSuccessTime().AsTime()
	return slices.ContainsFunc(c.GetCredential().GetSecrets(), func(s *tokenbrokerv1.SecretInput) bool {
		return s.GetFormerKept() && s.GetFormerUsedTime() != nil && !s.GetFormerUsedTime().AsTime().Before(last)
	}), nil
}

type credentialTestCommand struct {
	remote
	selectionFlags
	Name string `arg:"" names:"credential" help:"The credential."`
	Keep bool   `help:"Serve the token that the test brings."`
}

// A testFailure is what a test has found: the command ends as GetToken would.
type testFailure struct {
	found *tokenbrokerv1.TestCredentialResponse
}

func (f *testFailure) Error() string { return f.GRPCStatus().Message() }

// GRPCStatus says how the command ends (console.ExitCode). A broker of before has no code.
func (f *testFailure) GRPCStatus() *status.Status {
	code, text := codes.Code(f.found.GetCode()), f.found.GetMessage() //nolint:gosec // codes are not negative
	if code == codes.OK {
		code = codes.Unknown
	}
	s := status.New(code, strings.TrimSuffix("the test failed: "+text, ": "))
	if with, err := s.WithDetails(&errdetails.ErrorInfo{Reason: f.found.GetReason(), Domain: "tokenbroker"}); err == nil {
		return with
	}
	return s
}

// madeBefore reports whether a test was made before it was asked for: by whoever asked just before.
func madeBefore(all []*tokenbrokerv1.Attempt, asked time.Time) bool {
	return len(all) > 0 && asked.Sub(all[len(all)-1].GetStartTime().AsTime()) > time.Second
}

// Run makes an exchange and prints each request.
func (c *credentialTestCommand) Run(p *console.Process) error {
	return c.with(p.Context, func(ctx context.Context, cl *client) error {
		began := time.Now()
		res, err := cl.credentials.TestCredential(ctx, &tokenbrokerv1.TestCredentialRequest{
			Name: c.Name, Scopes: c.Scope, Audience: c.Audience, Parameters: c.Parameter, Resources: c.Resource, Keep: c.Keep,
		})
		if err != nil {
			return err
		}
		if c.Output == "json" {
			res.Exchanges = nil //nolint:staticcheck // attempts by its former name
			if err := printJSON(p.Stdout, res); err != nil {
				return err
			}
		} else if err := printAttempts(p.Stdout, c.Format, res.GetAttempts()); err != nil {
			return err
		}
		if res.GetReason() != "" && madeBefore(res.GetAttempts(), began) {
			console.Printf(p.Stderr, "tokenbroker: that is what a test a moment ago has found: one that failed is not repeated for five seconds\n")
		}
		if res.GetReason() != "" {
			return &testFailure{res}
		}
		if res.GetFormerSecret() {
			console.Printf(p.Stderr, "tokenbroker: it works with the former secret alone: the upstream refuses the new one; set that in the upstream, or rotate again, and retire none\n")
		}
		if c.Output != "json" {
			console.Printf(p.Stdout, "it works: the token expires %s\n", c.When(res.GetExpireTime().AsTime()))
		}
		return nil
	})
}
