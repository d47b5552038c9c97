package operator

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	"github.com/tokenbroker/tokenbroker/provider"
	"github.com/tokenbroker/tokenbroker/provider/transport"
)

// tryMost bounds a try.
const tryMost = 30 * time.Second

type providerTryCommand struct {
	selectionFlags
	secretFlags
	File  string   `arg:"" help:"A definition's file, or the name of a built-in."`
	Input []string `sep:"none" placeholder:"NAME=VALUE" help:"An input that is not secret; repeat for several."`

	UpstreamConnectTo    map[string]string `name:"upstream-connect-to" env:"TOKENBROKER_UPSTREAM_CONNECT_TO" mapsep:"," help:"As for serve."`
	UpstreamCAFile       string            `name:"upstream-ca-file" env:"TOKENBROKER_UPSTREAM_CA_FILE" help:"As for serve."`
	UpstreamAllowHTTP    []string          `name:"upstream-allow-http" env:"TOKENBROKER_UPSTREAM_ALLOW_HTTP" help:"As for serve."`
	UpstreamAllowPrivate []netip.Prefix    `name:"upstream-allow-private" env:"TOKENBROKER_UPSTREAM_ALLOW_PRIVATE" help:"As for serve."`
}

// Run asks the upstream for real.
func (c *providerTryCommand) Run(p *console.Process) error {
	inputs, err := (&credentialFlags{Input: c.Input}).inputs()
	if err != nil {
		return err
	}
	secrets, err := c.read(p)
	if err != nil {
		return err
	}
	tr, err := transport.New(transport.Settings{
		ConnectTo: c.UpstreamConnectTo, CAFile: c.UpstreamCAFile, AllowHTTP: c.UpstreamAllowHTTP, AllowPrivate: c.UpstreamAllowPrivate,
	})
	if err != nil {
		return console.WrongInput(err)
	}
	defer tr.Close()
	catalog, name, err := loadDefinition(tr, c.File)
	if err != nil {
		return err
	}
	def, err := catalog.Definition(name)
	if err != nil {
		return console.BadInput("there is no definition %s", name)
	}
	cred, seed, err := tryCredential(p, name, def.Facts(), inputs, secrets)
	if err != nil {
		return err
	}
	scopes, err := broker.ParseSet("scope", c.Scope)
	if err != nil {
		return console.WrongInput(err)
	}
	resources, err := broker.ParseSet("resource", c.Resource)
	if err != nil {
		return console.WrongInput(err)
	}
	sel := broker.Selection{Scopes: scopes, Audience: c.Audience, Parameters: broker.NewPairs(c.Parameter), Resources: resources}
	ctx, cancel := context.WithTimeout(p.Context, tryMost)
	defer cancel()
	rep, _, err := catalog.Try(ctx, cred, sel, seed)
	if err != nil {
		return console.WrongInput(err)
	}
	return printTry(p, rep)
}

// tryCredential makes a credential of what was given, and asks for the secrets that are missing.
func tryCredential(p *console.Process, name string, f *broker.Facts, inputs, secrets map[string]string) (broker.Credential, broker.Secret, error) {
	c := broker.Credential{Name: "try", Provider: name, Inputs: inputs, Secrets: map[string]broker.SecretInput{}, Seeds: map[string]broker.Seed{}}
	var seed broker.Secret
	var names []string
	for n, in := range f.Inputs {
		if in.Secret && !in.Optional {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	for _, n := range names {
		if secrets[n] == "" && canPrompt(p) {
			v, err := prompt(p, n)
			if err != nil {
				return c, seed, err
			}
			secrets[n] = v
		}
	}
	for n, v := range secrets {
		if f.Inputs[n].Seed {
			c.Seeds[n], seed = broker.Seed{Hash: broker.NewID()}, broker.NewSecret(v)
			continue
		}
		c.Secrets[n] = broker.SecretInput{Value: broker.NewSecret(v)}
	}
	return c, seed, nil
}

// sourceWords say what decided when a token ends.
var sourceWords = map[broker.ExpirySource]string{
	broker.ExpiryUpstream:   "as the answer says",
	broker.ExpiryToken:      "as the token itself says, which is a JWT",
	broker.ExpiryDefinition: "by the definition's lifetime, for the answer does not say",
	broker.ExpiryNone:       "a day from now: nobody knows, and it is kept until it is rejected",
	broker.ExpiryUnknown:    "ten minutes from now: neither the answer nor the definition says; write lifetime",
}

// errTryFailed: what was found has been printed.
var errTryFailed = errors.New("it did not work")

func printTry(p *console.Process, rep provider.TryReport) error {
	for _, r := range rep.Requests {
		code := "no answer"
		if r.Status != 0 {
			code = fmt.Sprint(r.Status)
		}
		console.Printf(p.Stdout, "%s %s: %s\n", r.Method, orDash(r.Host), code)
		var names []string
		for n := range r.Taken {
			names = append(names, n)
		}
		slices.Sort(names)
		for _, n := range names {
			what := ""
			if n == "token_type" {
				what = ": " + r.TokenType
			}
			console.Printf(p.Stdout, "  took %s from %s%s\n", n, r.Taken[n], what)
		}
		if r.Message != "" {
			console.Printf(p.Stdout, "  the upstream says: %s\n", r.Message)
		}
	}
	if f := rep.Failure; f != nil {
		return fmt.Errorf("%w: %w", errTryFailed, f)
	}
	if rep.Unread != "" {
		return fmt.Errorf("%w: %s", errTryFailed, broker.UnreadAdvice(rep.Unread))
	}
	console.Printf(p.Stdout, "it works: the token ends at %s, %s\n", rep.ExpiresAt.UTC().Format(time.RFC3339), sourceWords[rep.Source])
	console.Println(p.Stdout, "callers present it as")
	for _, line := range rep.Presented {
		console.Printf(p.Stdout, "  %s\n", line)
	}
	if len(rep.Refusals) > 0 {
		console.Println(p.Stdout, "a wrong secret would be told to callers as, for what the upstream may answer:")
		for _, line := range rep.Refusals {
			console.Printf(p.Stdout, "  %s\n", line)
		}
	}
	if rep.RefreshToken {
		console.Println(p.Stdout, "the answer has a refresh token, which was thrown away: if the upstream rotates them, the one before is spent")
	}
	return nil
}
