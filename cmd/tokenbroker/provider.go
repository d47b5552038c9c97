package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tokenbroker/tokenbroker/broker"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/provider"
)

type providerCommands struct {
	List    providerListCommand    `cmd:"" help:"Show all definitions, and those that do not load with their problems."`
	Show    providerShowCommand    `cmd:"" help:"Print a definition as it is written."`
	Check   providerCheckCommand   `cmd:"" help:"Say everything that is wrong with definition files. Needs no broker."`
	Explain providerExplainCommand `cmd:"" help:"Print the requests that a definition sends, secrets masked. Nothing is sent."`
	Try     providerTryCommand     `cmd:"" help:"Run a definition file for real and show what was taken from where. Needs no broker."`
	Schema  providerSchemaCommand  `cmd:"" help:"Print the definition language as a JSON Schema, for editors."`
	Import  providerImportCommands `cmd:"" help:"Make a definition of another product's configuration."`
}

type providerListCommand struct{ remote }

// Run lists.
func (c *providerListCommand) Run(p *process) error {
	return c.with(p.ctx, func(ctx context.Context, cl *client) error {
		out := &tokenbrokerv1.ListProvidersResponse{}
		for token := ""; ; {
			res, err := cl.providers.ListProviders(ctx, &tokenbrokerv1.ListProvidersRequest{PageSize: 1000, PageToken: token})
			if err != nil {
				return err
			}
			out.Providers = append(out.Providers, res.GetProviders()...)
			if token = res.GetNextPageToken(); token == "" {
				break
			}
		}
		if c.Output == "json" {
			return printJSON(p.stdout, out)
		}
		var rows [][]string
		for _, x := range out.GetProviders() {
			origin := strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(x.GetOrigin().String(), "ORIGIN_"), "_", " "))
			rows = append(rows, []string{x.GetName(), origin, orDash(x.GetTitle())})
		}
		if err := table(p.stdout, "NAME\tORIGIN\tTITLE", rows); err != nil {
			return err
		}
		for _, x := range out.GetProviders() {
			for _, problem := range x.GetProblems() {
				printf(p.stdout, "problem: %s\n", problem)
			}
		}
		return nil
	})
}

type providerShowCommand struct {
	remote
	Name string `arg:"" help:"The provider."`
}

// Run prints the definition.
func (c *providerShowCommand) Run(p *process) error {
	return c.with(p.ctx, func(ctx context.Context, cl *client) error {
		res, err := cl.providers.GetProvider(ctx, &tokenbrokerv1.GetProviderRequest{Name: c.Name})
		if err != nil {
			return err
		}
		if c.Output == "json" {
			return printJSON(p.stdout, res.GetProvider())
		}
		printf(p.stdout, "%s", res.GetProvider().GetDefinition())
		for _, problem := range res.GetProvider().GetProblems() {
			printf(p.stderr, "problem: %s\n", problem)
		}
		return nil
	})
}

type providerCheckCommand struct {
	Files []string `arg:"" help:"The definition files; - for standard input."`
}

// Run says everything that is wrong.
func (c *providerCheckCommand) Run(p *process) error {
	n := 0
	for _, f := range c.Files {
		data, err := readFile(p, f)
		if err != nil {
			return err
		}
		for _, problem := range provider.Check(f, data) {
			printline(p.stdout, problem)
			n++
		}
	}
	if n > 0 {
		return badInput("%d %s", n, map[bool]string{true: "problem", false: "problems"}[n == 1])
	}
	printline(p.stderr, "no problems")
	return nil
}

type providerExplainCommand struct {
	remote
	Name     string   `arg:"" help:"The provider."`
	Input    []string `sep:"none" placeholder:"NAME=VALUE" help:"An input that is not secret; repeat for several."`
	Scope    []string `sep:"none" help:"A scope; repeat for several."`
	Audience string   `help:"The audience."`
}

// Run prints the requests.
func (c *providerExplainCommand) Run(p *process) error {
	inputs, err := (&credentialFlags{Input: c.Input}).inputs()
	if err != nil {
		return err
	}
	return c.with(p.ctx, func(ctx context.Context, cl *client) error {
		res, err := cl.providers.ExplainProvider(ctx, &tokenbrokerv1.ExplainProviderRequest{Name: c.Name, Inputs: inputs, Scopes: c.Scope, Audience: c.Audience})
		if err != nil {
			return err
		}
		if c.Output == "json" {
			return printJSON(p.stdout, res)
		}
		for _, r := range res.GetRequests() {
			printline(p.stdout, r)
		}
		for _, problem := range res.GetProblems() {
			printf(p.stdout, "note: %s\n", problem)
		}
		return nil
	})
}

type providerSchemaCommand struct{}

// Run prints the schema.
func (providerSchemaCommand) Run(p *process) error {
	_, err := p.stdout.Write(provider.Schema())
	return err
}

type providerImportCommands struct {
	Locoia providerLocoiaCommand `cmd:"" help:"A \"Refreshable Token\" configuration of Locoia, in JSON."`
}

type providerLocoiaCommand struct {
	File string `arg:"" help:"The configuration; - for standard input."`
}

// Run prints the definition on standard output and what had to be decided on standard error.
func (c *providerLocoiaCommand) Run(p *process) error {
	data, err := readFile(p, c.File)
	if err != nil {
		return err
	}
	def, notes, err := provider.ImportLocoia(data)
	if err != nil {
		return &inputError{err}
	}
	for _, n := range notes {
		printf(p.stderr, "note: %s\n", n)
	}
	_, err = p.stdout.Write(def)
	return err
}

type providerTryCommand struct {
	selectionFlags
	secretFlags
	File  string   `arg:"" help:"A definition's file, or the name of a built-in."`
	Input []string `sep:"none" placeholder:"NAME=VALUE" help:"An input that is not secret; repeat for several."`

	UpstreamConnectTo    map[string]string `name:"upstream-connect-to" env:"TOKENBROKER_UPSTREAM_CONNECT_TO" mapsep:"," help:"As for serve."`
	UpstreamCAFile       string            `name:"upstream-ca-file" env:"TOKENBROKER_UPSTREAM_CA_FILE" help:"As for serve."`
	UpstreamAllowHTTP    []string          `name:"upstream-allow-http" env:"TOKENBROKER_UPSTREAM_ALLOW_HTTP" help:"As for serve."`
	UpstreamAllowPrivate []string          `name:"upstream-allow-private" env:"TOKENBROKER_UPSTREAM_ALLOW_PRIVATE" help:"As for serve."`
}

// Run asks the upstream for real.
func (c *providerTryCommand) Run(p *process) error {
	inputs, err := (&credentialFlags{Input: c.Input}).inputs()
	if err != nil {
		return err
	}
	secrets, err := c.read(p)
	if err != nil {
		return err
	}
	prefixes, err := parsePrefixes(c.UpstreamAllowPrivate)
	if err != nil {
		return err
	}
	tr, err := provider.NewTransport(provider.Settings{
		ConnectTo: c.UpstreamConnectTo, CAFile: c.UpstreamCAFile, AllowHTTP: c.UpstreamAllowHTTP, AllowPrivate: prefixes,
	})
	if err != nil {
		return &inputError{err}
	}
	defer tr.Close()
	dir, name := "", c.File
	if strings.HasSuffix(c.File, ".yaml") {
		dir, name = filepath.Dir(c.File), strings.TrimSuffix(filepath.Base(c.File), ".yaml")
	}
	catalog, err := provider.Load(tr, dir)
	if err != nil {
		return badInput("read %s: %w", dir, err)
	}
	def, err := catalog.Definition(name)
	if err != nil {
		for _, e := range catalog.List() {
			if e.Name == name && len(e.Problems) > 0 {
				return badInput("%s", strings.Join(problemStrings(e.Problems), "\n"))
			}
		}
		return badInput("there is no definition %s", name)
	}
	cred, seed, err := tryCredential(p, name, def.Facts(), inputs, secrets)
	if err != nil {
		return err
	}
	scopes, err := broker.ParseSet("scope", c.Scope)
	if err != nil {
		return &inputError{err}
	}
	resources, err := broker.ParseSet("resource", c.Resource)
	if err != nil {
		return &inputError{err}
	}
	sel := broker.Selection{Scopes: scopes, Audience: c.Audience, Parameters: broker.NewPairs(c.Parameter), Resources: resources}
	rep, _, err := catalog.Try(p.ctx, cred, sel, seed)
	if err != nil {
		return &inputError{err}
	}
	return printTry(p, rep)
}

// tryCredential makes a credential of what was given, and asks for the secrets that are missing.
func tryCredential(p *process, name string, f *broker.Facts, inputs, secrets map[string]string) (broker.Credential, broker.Secret, error) {
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

// errTryFailed: what was found has been printed.
var errTryFailed = errors.New("it did not work")

func printTry(p *process, rep provider.TryReport) error {
	for _, r := range rep.Requests {
		code := "no answer"
		if r.Status != 0 {
			code = fmt.Sprint(r.Status)
		}
		printf(p.stdout, "%s %s: %s\n", r.Method, orDash(r.Host), code)
		var names []string
		for n := range r.Taken {
			names = append(names, n)
		}
		slices.Sort(names)
		for _, n := range names {
			printf(p.stdout, "  took %s from %s\n", n, r.Taken[n])
		}
		if r.Message != "" {
			printf(p.stdout, "  the upstream says: %s\n", r.Message)
		}
	}
	if f := rep.Failure; f != nil {
		return fmt.Errorf("%w: %w", errTryFailed, f)
	}
	switch {
	case rep.ExpiresIn != nil:
		printf(p.stdout, "it works: the token lives %s\n", *rep.ExpiresIn)
	case !rep.ExpiresAt.IsZero():
		printf(p.stdout, "it works: the token ends at %s\n", rep.ExpiresAt)
	default:
		printline(p.stdout, "it works; the answer does not say how long the token lives")
	}
	if rep.RefreshToken {
		printline(p.stdout, "the answer has a refresh token, which was thrown away: if the upstream rotates them, the one before is spent")
	}
	return nil
}
