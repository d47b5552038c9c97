package operator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

type credentialAcceptCommand struct {
	remote
	Name     string `arg:"" optional:"" names:"credential" help:"The credential; or --provider."`
	Provider string `names:"provider" help:"All credentials of this provider."`
	Yes      bool   `help:"Do not ask."`

	ForgetFormer bool `name:"forget-former" help:"Where they went before, and go no more, they may go no more: once all brokers have the new definition."`
}

// Run shows where the credentials went and would go, asks, and accepts what it has shown.
func (c *credentialAcceptCommand) Run(p *console.Process) error {
	if (c.Name == "") == (c.Provider == "") {
		return console.BadInput("which credential? Give its name, or --provider for all of a provider")
	}
	return c.with(p.Context, func(ctx context.Context, cl *client) error {
		all, err := c.named(ctx, cl)
		if err != nil {
			return err
		}
		held := slices.DeleteFunc(all, func(x *tokenbrokerv1.Credential) bool {
			return len(unaccepted(x)) == 0 && !(c.ForgetFormer && len(former(x)) > 0)
		})
		if len(held) == 0 {
			console.Println(p.Stderr, "nothing to accept: they go where they were given for")
			if c.Output == "json" {
				return printJSON(p.Stdout, &tokenbrokerv1.ListCredentialsResponse{})
			}
			return nil
		}
		for _, x := range held {
			console.Printf(p.Stderr, "%s (%s)\n", x.GetName(), x.GetProvider())
			for _, d := range x.GetDestinations() {
				if d.GetAccepted() == d.GetCurrent() || formerHow(d) {
					continue
				}
				sign := "+"
				if d.GetAccepted() {
					sign = "-"
				}
				console.Printf(p.Stderr, "    %s %s %s\n", sign, destinationWord(d), console.Visible(d.GetPlace()))
			}
			if n := formerHows(x); n > 0 && c.ForgetFormer {
				console.Printf(p.Stderr, "    - %s\n", console.Counted(n, "former definition"))
			}
			if to := unaccepted(x); len(to) > 0 {
				console.Printf(p.Stderr, "    %s\n", console.Visible(news(to)))
			}
		}
		if !c.Yes {
			switch sure, err := confirmed(p, fmt.Sprintf("may the secrets and tokens of %s go there, as the definition says?", console.Counted(len(held), "credential"))); {
			case err != nil:
				return err
			case !sure:
				return errors.New("nothing was accepted")
			}
		}
		done := &tokenbrokerv1.ListCredentialsResponse{}
		for _, x := range held {
			res, err := cl.credentials.AcceptCredential(ctx, &tokenbrokerv1.AcceptCredentialRequest{Name: x.GetName(), Destinations: unaccepted(x), Etag: x.GetEtag(), ForgetFormer: c.ForgetFormer})
			if err != nil {
				return err
			}
			if c.Output != "json" {
				console.Printf(p.Stdout, "accepted %s\n", x.GetName())
			}
			done.Credentials = append(done.Credentials, res.GetCredential())
		}
		if c.Output == "json" {
			return printJSON(p.Stdout, done)
		}
		return nil
	})
}

func (c *credentialAcceptCommand) named(ctx context.Context, cl *client) ([]*tokenbrokerv1.Credential, error) {
	if c.Provider != "" {
		all, err := cl.list(ctx, fmt.Sprintf("provider = %q", c.Provider))
		if err == nil && len(all) == 0 {
			err = status.Errorf(codes.NotFound, "there is no credential of a provider %q", c.Provider)
		}
		return all, err
	}
	res, err := cl.credentials.GetCredential(ctx, &tokenbrokerv1.GetCredentialRequest{Name: c.Name})
	return []*tokenbrokerv1.Credential{res.GetCredential()}, err
}

// unaccepted are the places where a credential would go, and nobody has accepted it.
func unaccepted(c *tokenbrokerv1.Credential) []*tokenbrokerv1.Destination {
	var out []*tokenbrokerv1.Destination
	for _, d := range c.GetDestinations() {
		if d.GetCurrent() && !d.GetAccepted() {
			out = append(out, d)
		}
	}
	return out
}

// usesOf are the uses of which it is told what is new.
var usesOf = map[tokenbrokerv1.Destination_Use]broker.Use{
	tokenbrokerv1.Destination_USE_REQUESTS: broker.Requests, tokenbrokerv1.Destination_USE_API: broker.API,
	tokenbrokerv1.Destination_USE_CARRIED: broker.Carried, tokenbrokerv1.Destination_USE_CALLERS: broker.Callers,
}

// news says what is new about places that nobody has accepted.
func news(to []*tokenbrokerv1.Destination) string {
	var all []broker.Destination
	for _, d := range to {
		all = append(all, broker.Destination{Use: usesOf[d.GetUse()], Place: d.GetPlace()})
	}
	return broker.News(all)
}

// former are the places where a credential may go, and its definition leads no more.
func former(c *tokenbrokerv1.Credential) []*tokenbrokerv1.Destination {
	return slices.DeleteFunc(slices.Clone(c.GetDestinations()), (*tokenbrokerv1.Destination).GetCurrent)
}

// formerHow reports whether a destination is how a former definition did it: a digest, of which people need know only that there are some.
func formerHow(d *tokenbrokerv1.Destination) bool {
	return d.GetUse() == tokenbrokerv1.Destination_USE_HOW && !d.GetCurrent()
}

// formerHows counts them.
func formerHows(c *tokenbrokerv1.Credential) (n int) {
	for _, d := range c.GetDestinations() {
		if formerHow(d) {
			n++
		}
	}
	return n
}

// destinationWord says what goes to a destination.
func destinationWord(d *tokenbrokerv1.Destination) string {
	switch d.GetUse() {
	case tokenbrokerv1.Destination_USE_REQUESTS:
		return "token requests go to"
	case tokenbrokerv1.Destination_USE_API:
		return "tokens are for"
	case tokenbrokerv1.Destination_USE_CARRIED:
		return "secrets go to"
	case tokenbrokerv1.Destination_USE_HOW:
		return "its definition says"
	case tokenbrokerv1.Destination_USE_CALLERS:
		return "callers get"
	case tokenbrokerv1.Destination_USE_RELEASE:
		return "its definition is"
	default:
		return "it goes to"
	}
}

// tellMove asks what a change would do, and says so where it sends secrets somewhere else.
func (cl *client) tellMove(ctx context.Context, w io.Writer, change *tokenbrokerv1.UpdateCredentialRequest) error {
	there, err := cl.credentials.GetCredential(ctx, &tokenbrokerv1.GetCredentialRequest{Name: change.GetCredential().GetName()})
	if err != nil {
		return err
	}
	planned, err := cl.credentials.UpdateCredential(ctx, &tokenbrokerv1.UpdateCredentialRequest{
		Credential: change.GetCredential(), UpdateMask: change.GetUpdateMask(), Secrets: change.GetSecrets(), ValidateOnly: true,
	})
	if err != nil {
		return err
	}
	printMove(w, there.GetCredential(), planned.GetCredential())
	return nil
}

// printMove says where a change sends a credential that is there, if that is somewhere else.
func printMove(w io.Writer, before, after *tokenbrokerv1.Credential) {
	from, to := accepted(before), accepted(after)
	if before == nil || before.GetProvider() == after.GetProvider() && slices.Equal(from, to) {
		return
	}
	console.Printf(w, "%s moves, and what was obtained before ends: refresh tokens, former secrets\n    from: %s\n    to:   %s\n",
		before.GetName(), strings.Join(from, "; "), strings.Join(to, "; "))
}

// accepted are the places where a credential may go, for people.
func accepted(c *tokenbrokerv1.Credential) []string {
	var out []string
	for _, d := range c.GetDestinations() {
		if d.GetAccepted() && d.GetUse() != tokenbrokerv1.Destination_USE_HOW {
			out = append(out, destinationWord(d)+" "+console.Visible(d.GetPlace()))
		}
	}
	return out
}
