package operator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

// managedLabel marks the credentials that files declare: --prune deletes no others.
const managedLabel, managedValue = "managed-by", "apply"

type credentialApplyCommand struct {
	remote
	File   []string `short:"f" required:"" sep:"none" help:"File with credentials; - for standard input; repeat for several."`
	DryRun bool     `help:"Print the difference and change nothing."`
	Prune  bool     `help:"Delete credentials that were applied before and are in no file any more."`
	Yes    bool     `help:"Do not ask before deleting."`
}

// Run reads and checks everything before it changes anything.
func (c *credentialApplyCommand) Run(p *console.Process) error {
	r := &declarations{p: p, seen: map[string]string{}}
	for _, f := range c.File {
		data, err := console.ReadFile(p, f, declarationsMost)
		if err != nil {
			return err
		}
		r.read(f, data)
	}
	if len(r.wrong) > 0 {
		return console.WrongInput(errors.Join(r.wrong...))
	}
	if len(r.all) == 0 {
		return console.BadInput("%s: there is no credential in it", strings.Join(c.File, ", "))
	}
	return c.with(p.Context, func(ctx context.Context, cl *client) error {
		there, err := cl.list(ctx, "")
		if err != nil {
			return err
		}
		byName := map[string]*tokenbrokerv1.Credential{}
		for _, x := range there {
			byName[x.GetName()] = x
		}
		var failed []error
		changed := false
		// All of them are checked by the broker before the first is changed.
		for _, d := range r.all {
			planned, err := cl.apply(ctx, d, byName[d.name], true)
			if code := console.ExitCode(err); code == console.ExitTemporary || code == console.ExitNotAllowed || code == console.ExitFailure {
				return err // it is not about what the file says
			}
			if err != nil {
				failed = append(failed, fmt.Errorf("%s: credential %s: %w", d.at, d.name, console.Sentence(err)))
				continue
			}
			printMove(p.Stderr, byName[d.name], planned)
		}
		if len(failed) > 0 {
			return console.WrongInput(errors.Join(failed...))
		}
		for _, d := range r.all {
			after, err := cl.apply(ctx, d, byName[d.name], c.DryRun)
			if err != nil {
				return err
			}
			changed = difference(p.Stdout, byName[d.name], after, d) || changed
		}
		pruned, err := c.prune(ctx, p, cl, r, there)
		if err == nil && !changed && !pruned {
			console.Println(p.Stdout, "nothing to change")
		}
		return err
	})
}

// apply makes one credential be as it is declared.
func (cl *client) apply(ctx context.Context, d declared, there *tokenbrokerv1.Credential, dry bool) (*tokenbrokerv1.Credential, error) {
	m := &tokenbrokerv1.Credential{
		Name: d.name, Provider: d.provider, Inputs: d.inputs, Labels: d.labels, DefaultScopes: d.defaultScopes,
		DefaultAudience: d.defaultAudience, Disabled: d.disabled, Etag: there.GetEtag(),
	}
	if there == nil {
		res, err := cl.credentials.CreateCredential(ctx, &tokenbrokerv1.CreateCredentialRequest{Credential: m, Secrets: d.secrets, ValidateOnly: dry})
		return res.GetCredential(), err
	}
	res, err := cl.credentials.UpdateCredential(ctx, &tokenbrokerv1.UpdateCredentialRequest{
		Credential: m, Secrets: d.secrets, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"*"}}, ValidateOnly: dry,
	})
	return res.GetCredential(), err
}

// difference prints what changes, and reports whether anything does. A secret is "set" or "changed", never shown.
func difference(w io.Writer, before, after *tokenbrokerv1.Credential, d declared) bool {
	if before == nil {
		console.Printf(w, "+ %s (%s)\n", d.name, d.provider)
		for _, k := range slices.Sorted(maps.Keys(d.inputs)) {
			console.Printf(w, "    + inputs.%s: %s\n", k, console.Visible(d.inputs[k]))
		}
		for _, k := range slices.Sorted(maps.Keys(d.secrets)) {
			console.Printf(w, "    + secrets.%s: set\n", k)
		}
		return true
	}
	var lines []string
	one := func(field, a, b string) {
		a, b = console.Visible(a), console.Visible(b)
		switch {
		case a == b:
		case a == "":
			lines = append(lines, fmt.Sprintf("    + %s: %s", field, b))
		case b == "":
			lines = append(lines, fmt.Sprintf("    - %s: %s", field, a))
		default:
			lines = append(lines, fmt.Sprintf("    ~ %s: %s → %s", field, a, b))
		}
	}
	one("provider", before.GetProvider(), after.GetProvider())
	for _, k := range keysOf(before.GetInputs(), after.GetInputs()) {
		one("inputs."+k, before.GetInputs()[k], after.GetInputs()[k])
	}
	set := map[string]string{}
	for _, s := range before.GetSecrets() {
		set[s.GetName()] = s.GetSetTime().AsTime().String()
	}
	for _, s := range after.GetSecrets() {
		switch was, ok := set[s.GetName()]; {
		case !ok:
			lines = append(lines, fmt.Sprintf("    + secrets.%s: set", s.GetName()))
		case was != s.GetSetTime().AsTime().String():
			lines = append(lines, fmt.Sprintf("    ~ secrets.%s: changed", s.GetName()))
		}
		delete(set, s.GetName())
	}
	for _, name := range slices.Sorted(maps.Keys(set)) {
		lines = append(lines, fmt.Sprintf("    - secrets.%s: removed", name))
	}
	one("default_scopes", strings.Join(before.GetDefaultScopes(), " "), strings.Join(after.GetDefaultScopes(), " "))
	one("default_audience", before.GetDefaultAudience(), after.GetDefaultAudience())
	for _, k := range keysOf(before.GetLabels(), after.GetLabels()) {
		one("labels."+k, before.GetLabels()[k], after.GetLabels()[k])
	}
	one("disabled", fmt.Sprint(before.GetDisabled()), fmt.Sprint(after.GetDisabled()))
	if len(lines) == 0 {
		return false
	}
	console.Printf(w, "~ %s\n%s\n", d.name, strings.Join(lines, "\n"))
	return true
}

func keysOf(a, b map[string]string) []string {
	all := maps.Clone(a)
	if all == nil {
		all = map[string]string{}
	}
	maps.Copy(all, b)
	return slices.Sorted(maps.Keys(all))
}

// prune deletes what was applied before and is declared no more.
func (c *credentialApplyCommand) prune(ctx context.Context, p *console.Process, cl *client, r *declarations, there []*tokenbrokerv1.Credential) (bool, error) {
	if !c.Prune {
		return false, nil
	}
	var gone []*tokenbrokerv1.Credential
	for _, x := range there {
		if _, declared := r.seen[x.GetName()]; !declared && x.GetLabels()[managedLabel] == managedValue {
			gone = append(gone, x)
			console.Printf(p.Stdout, "- %s (%s)\n", x.GetName(), x.GetProvider())
		}
	}
	if len(gone) == 0 || c.DryRun {
		return len(gone) > 0, nil
	}
	if !c.Yes {
		switch sure, err := confirmed(p, fmt.Sprintf("delete %d credentials with their refresh tokens?", len(gone))); {
		case err != nil:
			return true, err
		case !sure:
			return true, errors.New("nothing was deleted")
		}
	}
	for _, x := range gone {
		_, err := cl.credentials.DeleteCredential(ctx, &tokenbrokerv1.DeleteCredentialRequest{Name: x.GetName(), Etag: x.GetEtag()})
		if err != nil && status.Code(err) != codes.NotFound {
			return true, err
		}
	}
	return true, nil
}
