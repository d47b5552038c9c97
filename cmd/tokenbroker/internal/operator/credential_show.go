package operator

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

type credentialGetCommand struct {
	remote
	Name string `arg:"" names:"credential" help:"The credential."`
}

// Run shows one.
func (c *credentialGetCommand) Run(p *console.Process) error {
	return c.with(p.Context, func(ctx context.Context, cl *client) error {
		res, err := cl.credentials.GetCredential(ctx, &tokenbrokerv1.GetCredentialRequest{Name: c.Name})
		if err != nil {
			return err
		}
		return showCredential(p.Stdout, c.Format, res.GetCredential())
	})
}

func showCredential(w io.Writer, f console.Format, c *tokenbrokerv1.Credential) error {
	if f.JSON() {
		return printJSON(w, c)
	}
	rows := [][]string{
		{"name", c.GetName()}, {"provider", c.GetProvider()}, {"state", stateWord(c.GetState())},
	}
	for _, k := range slices.Sorted(maps.Keys(c.GetInputs())) {
		rows = append(rows, []string{"input " + k, c.GetInputs()[k]})
	}
	for _, s := range c.GetSecrets() {
		text := "set " + f.When(s.GetSetTime().AsTime())
		if s.GetFormerKept() {
			text += "; the former one is kept"
			if s.GetFormerUsedTime() != nil {
				text += ", and was the one that worked " + f.When(s.GetFormerUsedTime().AsTime())
			}
		}
		rows = append(rows, []string{"secret " + s.GetName(), text})
	}
	for _, d := range c.GetDestinations() {
		if formerHow(d) {
			continue
		}
		note := ""
		switch {
		case !d.GetAccepted():
			note = ", which nobody has accepted"
		case !d.GetCurrent():
			note = ", formerly"
		}
		rows = append(rows, []string{destinationWord(d), d.GetPlace() + note})
	}
	if n := formerHows(c); n > 0 {
		rows = append(rows, []string{"it may also say", "what " + console.Counted(n, "former definition") + " said"})
	}
	if len(c.GetDefaultScopes()) > 0 {
		rows = append(rows, []string{"default scopes", strings.Join(c.GetDefaultScopes(), " ")})
	}
	if c.GetDefaultAudience() != "" {
		rows = append(rows, []string{"default audience", c.GetDefaultAudience()})
	}
	for _, k := range slices.Sorted(maps.Keys(c.GetLabels())) {
		rows = append(rows, []string{"label " + k, c.GetLabels()[k]})
	}
	rows = append(rows, []string{"version", fmt.Sprint(c.GetVersion())}, []string{"changed", f.When(c.GetUpdateTime().AsTime())})
	return f.Table(w, "", rows)
}

func stateWord(s tokenbrokerv1.CredentialState) string {
	return strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(s.String(), "CREDENTIAL_STATE_"), "_", " "))
}

type credentialListCommand struct {
	remote
	Filter string `help:"FIELD = VALUE, != or :, joined by AND; fields: name (may end in *), provider, state, labels.KEY."`
}

// Run shows all pages.
func (c *credentialListCommand) Run(p *console.Process) error {
	return c.with(p.Context, func(ctx context.Context, cl *client) error {
		all, err := cl.list(ctx, c.Filter)
		if err != nil {
			return err
		}
		if c.JSON() {
			return printJSON(p.Stdout, &tokenbrokerv1.ListCredentialsResponse{Credentials: all})
		}
		if len(all) == 0 {
			console.Println(p.Stderr, "no credentials; make one with credential create")
			return nil
		}
		return c.print(p.Stdout, all)
	})
}

// print prints a line each. The provider's name is cut where there is no room: state and name are what one looks for.
func (c *credentialListCommand) print(w io.Writer, all []*tokenbrokerv1.Credential) error {
	header, rows := "NAME\tSTATE\tPROVIDER", [][]string{}
	if c.Wide() {
		header += "\tCHANGED"
	}
	for _, x := range all {
		row := []string{x.GetName(), stateWord(x.GetState()), x.GetProvider()}
		if c.Wide() {
			row = append(row, c.When(x.GetUpdateTime().AsTime()))
		}
		rows = append(rows, row)
	}
	return c.Table(w, header, rows)
}

// list reads all pages.
func (cl *client) list(ctx context.Context, filter string) ([]*tokenbrokerv1.Credential, error) {
	var all []*tokenbrokerv1.Credential
	for token := ""; ; {
		res, err := cl.credentials.ListCredentials(ctx, &tokenbrokerv1.ListCredentialsRequest{PageSize: 1000, PageToken: token, Filter: filter})
		if err != nil {
			return nil, err
		}
		all = append(all, res.GetCredentials()...)
		if token = res.GetNextPageToken(); token == "" {
			return all, nil
		}
	}
}
