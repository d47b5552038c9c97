package operator

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	"github.com/tokenbroker/tokenbroker/provider/transport"
)

// tryMost bounds a try.
const tryMost = 30 * time.Second

type providerTryCommand struct {
	selectionFlags
	secretFlags
	console.Format
	File  string   `arg:"" help:"A definition's file, or the name of a built-in."`
	Input []string `sep:"none" placeholder:"NAME=VALUE" help:"An input that is not secret; repeat for several."`

	Config               string            `env:"TOKENBROKER_CONFIG" type:"path" help:"The broker's settings file, for what it says of upstreams."`
	UpstreamConnectTo    map[string]string `type:"given" name:"upstream-connect-to" env:"TOKENBROKER_UPSTREAM_CONNECT_TO" mapsep:"," help:"As for serve."`
	UpstreamCAFile       string            `type:"place" name:"upstream-ca-file" env:"TOKENBROKER_UPSTREAM_CA_FILE" help:"As for serve."`
	UpstreamAllowHTTP    []string          `type:"given" name:"upstream-allow-http" env:"TOKENBROKER_UPSTREAM_ALLOW_HTTP" help:"As for serve."`
	UpstreamAllowPrivate []netip.Prefix    `type:"given" name:"upstream-allow-private" env:"TOKENBROKER_UPSTREAM_ALLOW_PRIVATE" help:"As for serve."`
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
	sel, err := c.selection()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(p.Context, tryMost)
	defer cancel()
	rep, _, err := catalog.Try(ctx, cred, sel, seed)
	if err != nil {
		return asFlags(err)
	}
	return c.print(p, rep)
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
