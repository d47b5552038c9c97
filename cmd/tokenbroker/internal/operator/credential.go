package operator

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

// CredentialCommands look after credentials.
type CredentialCommands struct {
	Create       credentialCreateCommand `cmd:"" help:"Store a new credential."`
	Get          credentialGetCommand    `cmd:"" help:"Show one, without its secrets."`
	List         credentialListCommand   `cmd:"" help:"Show all, or those that a filter chooses."`
	Update       credentialUpdateCommand `cmd:"" help:"Change what is given; everything else stays."`
	Delete       credentialDeleteCommand `cmd:"" help:"Delete one with its tokens and refresh tokens."`
	RotateSecret credentialRotateCommand `cmd:"" help:"Set a new secret; the former stays as a fallback until it is retired."`
	RetireSecret credentialRetireCommand `cmd:"" help:"Forget the former secret."`
	Accept       credentialAcceptCommand `cmd:"" help:"Let held credentials go where their definition sends them now."`
	Test         credentialTestCommand   `cmd:"" help:"Make one real exchange, whatever is remembered."`
	Status       credentialStatusCommand `cmd:"" help:"Show how it is doing and what to do about it."`
	Apply        credentialApplyCommand  `cmd:"" help:"Bring credentials in line with the files."`
}

type credentialFlags struct {
	Input           []string          `sep:"none" placeholder:"NAME=VALUE" help:"An input that is not secret; repeat for several."`
	DefaultScope    []string          `sep:"none" help:"A scope for callers who name none; repeat for several."`
	DefaultAudience string            `help:"The audience for callers who name none."`
	Label           map[string]string `mapsep:"none" placeholder:"KEY=VALUE" help:"A label; repeat for several."`
	secretFlags
}

// inputs reads NAME=VALUE.
func (f *credentialFlags) inputs() (map[string]string, error) {
	out := map[string]string{}
	for _, s := range f.Input {
		name, value, ok := strings.Cut(s, "=")
		if !ok || name == "" {
			return nil, console.BadInput("--input: write NAME=VALUE")
		}
		if _, twice := out[name]; twice {
			return nil, console.BadInput("input %s is given twice", name)
		}
		if !isText(value) {
			return nil, console.BadInput("input %s is %w", name, errNotText)
		}
		out[name] = value
	}
	return out, nil
}

type credentialCreateCommand struct {
	remote
	credentialFlags
	Name         string `arg:"" help:"Its name, such as officernd-main."`
	Provider     string `required:"" help:"The provider; see provider list."`
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
				return showCredential(p.Stdout, c.Output, res.GetCredential())
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

type credentialGetCommand struct {
	remote
	Name string `arg:"" help:"The credential."`
}

// Run shows one.
func (c *credentialGetCommand) Run(p *console.Process) error {
	return c.with(p.Context, func(ctx context.Context, cl *client) error {
		res, err := cl.credentials.GetCredential(ctx, &tokenbrokerv1.GetCredentialRequest{Name: c.Name})
		if err != nil {
			return err
		}
		return showCredential(p.Stdout, c.Output, res.GetCredential())
	})
}

func showCredential(w io.Writer, output string, c *tokenbrokerv1.Credential) error {
	if output == "json" {
		return printJSON(w, c)
	}
	rows := [][]string{
		{"name", c.GetName()}, {"provider", c.GetProvider()}, {"state", stateWord(c.GetState())},
	}
	for _, k := range slices.Sorted(maps.Keys(c.GetInputs())) {
		rows = append(rows, []string{"input " + k, c.GetInputs()[k]})
	}
	for _, s := range c.GetSecrets() {
		text := "set " + when(s.GetSetTime())
		if s.GetFormerKept() {
			text += "; the former one is kept"
			if s.GetFormerUsedTime() != nil {
				text += ", and was the one that worked " + when(s.GetFormerUsedTime())
			}
		}
		rows = append(rows, []string{"secret " + s.GetName(), text})
	}
	for _, d := range c.GetDestinations() {
		note := ""
		switch {
		case !d.GetAccepted():
			note = ", which nobody has accepted"
		case !d.GetCurrent():
			note = ", formerly"
		}
		rows = append(rows, []string{destinationWord(d), d.GetPlace() + note})
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
	rows = append(rows, []string{"version", fmt.Sprint(c.GetVersion())}, []string{"changed", when(c.GetUpdateTime())})
	return console.Table(w, "", rows)
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
		if c.Output == "json" {
			return printJSON(p.Stdout, &tokenbrokerv1.ListCredentialsResponse{Credentials: all})
		}
		if len(all) == 0 {
			console.Println(p.Stderr, "no credentials; make one with credential create")
			return nil
		}
		var rows [][]string
		for _, x := range all {
			rows = append(rows, []string{x.GetName(), x.GetProvider(), stateWord(x.GetState()), when(x.GetUpdateTime())})
		}
		return console.Table(p.Stdout, "NAME\tPROVIDER\tSTATE\tCHANGED", rows)
	})
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

type credentialUpdateCommand struct {
	remote
	credentialFlags
	Name        string   `arg:"" help:"The credential."`
	Provider    string   `help:"Another provider; every secret has to be given again."`
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
		return showCredential(p.Stdout, c.Output, res.GetCredential())
	})
}

type credentialDeleteCommand struct {
	remote
	Name         string `arg:"" help:"The credential."`
	Etag         string `help:"Delete it only if it still has this etag."`
	AllowMissing bool   `help:"Succeed even if it does not exist."`
}

// Run deletes it.
func (c *credentialDeleteCommand) Run(p *console.Process) error {
	return c.with(p.Context, func(ctx context.Context, cl *client) error {
		if _, err := cl.credentials.DeleteCredential(ctx, &tokenbrokerv1.DeleteCredentialRequest{Name: c.Name, Etag: c.Etag, AllowMissing: c.AllowMissing}); err != nil {
			return err
		}
		if c.Output != "json" {
			console.Printf(p.Stdout, "deleted %s\n", c.Name)
		}
		return nil
	})
}
