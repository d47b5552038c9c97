package operator

import (
	"context"
	"io"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/internal/yamldoc"
	"github.com/tokenbroker/tokenbroker/provider"
	"github.com/tokenbroker/tokenbroker/provider/locoia"
	"github.com/tokenbroker/tokenbroker/provider/transport"
)

// ProviderCommands show definitions, check and try them.
type ProviderCommands struct {
	List    providerListCommand    `cmd:"" help:"Show all definitions, and those that do not load with their problems."`
	Show    providerShowCommand    `cmd:"" help:"Print a definition as it is written."`
	Check   providerCheckCommand   `cmd:"" help:"Say everything that is wrong with definition files. Needs no broker."`
	Explain providerExplainCommand `cmd:"" help:"Print the requests that a definition sends, secrets masked. Nothing is sent."`
	Try     providerTryCommand     `cmd:"" help:"Run a definition file for real and show what was taken from where. Needs no broker."`
	New     providerNewCommand     `cmd:"" help:"Ask how an API gives its tokens, and write a definition of it. Needs no broker."`
	Schema  providerSchemaCommand  `cmd:"" help:"Print the definition language as a JSON Schema, for editors."`
	Import  providerImportCommands `cmd:"" help:"Convert another product's configuration into a definition."`
}

type providerListCommand struct{ remote }

// Run lists.
func (c *providerListCommand) Run(p *console.Process) error {
	return c.with(p.Context, func(ctx context.Context, cl *client) error {
		all, err := cl.allProviders(ctx)
		if err != nil {
			return err
		}
		if c.Output == "json" {
			return printJSON(p.Stdout, &tokenbrokerv1.ListProvidersResponse{Providers: all})
		}
		var rows [][]string
		for _, x := range all {
			origin := strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(x.GetOrigin().String(), "ORIGIN_"), "_", " "))
			rows = append(rows, []string{x.GetName(), origin, orDash(x.GetTitle())})
		}
		if err := c.Table(p.Stdout, "NAME\tORIGIN\tTITLE", rows); err != nil {
			return err
		}
		for _, x := range all {
			for _, problem := range x.GetProblems() {
				console.Printf(p.Stdout, "problem: %s\n", console.Visible(problem))
			}
		}
		return nil
	})
}

func (cl *client) allProviders(ctx context.Context) ([]*tokenbrokerv1.Provider, error) {
	var all []*tokenbrokerv1.Provider
	for token := ""; ; {
		res, err := cl.providers.ListProviders(ctx, &tokenbrokerv1.ListProvidersRequest{PageSize: 1000, PageToken: token})
		if err != nil {
			return nil, err
		}
		all = append(all, res.GetProviders()...)
		if token = res.GetNextPageToken(); token == "" {
			return all, nil
		}
	}
}

type providerShowCommand struct {
	remote
	Name string `arg:"" names:"provider" help:"The provider."`
}

// Run prints the definition.
func (c *providerShowCommand) Run(p *console.Process) error {
	return c.with(p.Context, func(ctx context.Context, cl *client) error {
		res, err := cl.providers.GetProvider(ctx, &tokenbrokerv1.GetProviderRequest{Name: c.Name})
		if err != nil {
			return err
		}
		if c.Output == "json" {
			return printJSON(p.Stdout, res.GetProvider())
		}
		if _, err := io.WriteString(p.Stdout, res.GetProvider().GetDefinition()); err != nil {
			return err
		}
		for _, problem := range res.GetProvider().GetProblems() {
			console.Printf(p.Stderr, "problem: %s\n", console.Visible(problem))
		}
		if res.GetProvider().GetDefinition() == "" {
			return status.Errorf(codes.FailedPrecondition, "there is nothing to show of %s: its file is no definition", c.Name)
		}
		return nil
	})
}

type providerExplainCommand struct {
	remote
	selectionFlags
	Name  string   `arg:"" names:"provider" help:"A definition's file, which needs no broker, or the name of a definition."`
	Input []string `sep:"none" placeholder:"NAME=VALUE" help:"An input that is not secret; repeat for several."`
}

// Run prints the requests.
func (c *providerExplainCommand) Run(p *console.Process) error {
	inputs, err := (&credentialFlags{Input: c.Input}).inputs()
	if err != nil {
		return err
	}
	if isFile(c.Name) {
		return c.local(p, inputs)
	}
	err = c.with(p.Context, func(ctx context.Context, cl *client) error {
		res, err := cl.providers.ExplainProvider(ctx, &tokenbrokerv1.ExplainProviderRequest{
			Name: c.Name, Inputs: inputs, Scopes: c.Scope, Audience: c.Audience, Parameters: c.Parameter, Resources: c.Resource,
		})
		if err != nil {
			return err
		}
		return c.print(p, res)
	})
	if console.ExitCode(err) != console.ExitUnreachable {
		return err
	}
	if localErr := c.local(p, inputs); localErr != nil {
		return err // what no broker knows, and is not built in
	}
	console.Println(p.Stderr, "no broker answers: this is the definition that is built into this program")
	return nil
}

// local explains a file, or a built-in definition, without a broker.
func (c *providerExplainCommand) local(p *console.Process, inputs map[string]string) error {
	tr, err := transport.New(transport.Settings{})
	if err != nil {
		return err
	}
	defer tr.Close()
	catalog, name, err := loadDefinition(tr, c.Name)
	if err != nil {
		return err
	}
	sel, err := c.selection()
	if err != nil {
		return err
	}
	requests, problems, err := catalog.Explain(name, inputs, sel)
	if err != nil {
		return console.WrongInput(err)
	}
	res := &tokenbrokerv1.ExplainProviderResponse{Requests: requests}
	for _, problem := range problems {
		res.Problems = append(res.Problems, problem.String())
	}
	return c.print(p, res)
}

func (c *providerExplainCommand) print(p *console.Process, res *tokenbrokerv1.ExplainProviderResponse) error {
	if c.Output == "json" {
		return printJSON(p.Stdout, res)
	}
	for _, r := range res.GetRequests() {
		console.Println(p.Stdout, r)
	}
	for _, problem := range res.GetProblems() {
		console.Printf(p.Stdout, "note: %s\n", problem)
	}
	return nil
}

type providerSchemaCommand struct{ console.Format }

// Run prints the schema, which is JSON in any format.
func (providerSchemaCommand) Run(p *console.Process) error {
	_, err := p.Stdout.Write(provider.Schema())
	return err
}

type providerImportCommands struct {
	Locoia providerLocoiaCommand `cmd:"" help:"A \"Refreshable Token\" configuration of Locoia, in JSON."`
}

type providerLocoiaCommand struct {
	console.Format
	File string `arg:"" help:"The configuration; - for standard input."`
	Name string `help:"The definition's name, as its file is to be called; without it the configuration's own."`
}

// Run prints the definition on standard output and what had to be decided on standard error.
func (c *providerLocoiaCommand) Run(p *console.Process) error {
	data, err := console.ReadFile(p, c.File, yamldoc.MostBytes)
	if err != nil {
		return err
	}
	def, notes, err := locoia.Import(data, c.Name)
	if err != nil {
		return console.WrongInput(err)
	}
	if c.JSON() {
		return console.JSON(p.Stdout, struct {
			Definition string   `json:"definition"`
			Notes      []string `json:"notes"`
		}{string(def), append([]string{}, notes...)})
	}
	for _, n := range notes {
		console.Printf(p.Stderr, "note: %s\n", n)
	}
	_, err = p.Stdout.Write(def)
	return err
}
