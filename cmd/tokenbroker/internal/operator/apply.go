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
	"github.com/tokenbroker/tokenbroker/internal/yamldoc"
)

// managedLabel marks the credentials that files declare: --prune deletes no others.
const managedLabel, managedValue = "managed-by", "apply"

type credentialApplyCommand struct {
	remote
	File   []string `short:"f" required:"" sep:"none" help:"File with credentials; - for standard input; repeat for several."`
	DryRun bool     `help:"Print the difference and change nothing."`
	Prune  bool     `help:"Delete credentials that were applied before and are in no file any more. Asks before anything is changed."`
	Yes    bool     `help:"Do not ask before deleting."`
}

// Run reads and checks everything, and asks, before it changes anything.
func (c *credentialApplyCommand) Run(p *console.Process) error {
	r := &declarations{seen: map[string]string{}}
	for _, f := range c.File {
		data, err := console.ReadFile(p, f, declarationsMost)
		if err != nil {
			return err
		}
		r.read(f, data)
	}
	if len(r.wrong) > 0 {
		return console.WrongInput(yamldoc.Together(r.wrong))
	}
	for _, d := range r.all {
		for _, name := range slices.Sorted(maps.Keys(d.secrets)) {
			warnAboutBlanks(p, name+" of "+d.name, d.secrets[name])
		}
	}
	if len(r.all) == 0 {
		return console.BadInput("%s: there is no credential in it", strings.Join(c.File, ", "))
	}
	return c.with(p.Context, func(ctx context.Context, cl *client) error {
		plan, err := c.plan(ctx, p, cl, r)
		if err != nil {
			return err
		}
		if err := c.ask(p, plan); err != nil {
			return err
		}
		done := &applied{DryRun: c.DryRun}
		err = c.carryOut(ctx, p.Stdout, cl, plan, done)
		return errors.Join(err, done.print(p.Stdout, c.Format)) // what was done before it failed is said too
	})
}

// A step makes one credential be as it is declared, or deletes it.
type step struct {
	declared      declared
	before, after *tokenbrokerv1.Credential // nil: it is not there
}

// mostRefusals is of how many credentials it is said why the broker refuses them.
const mostRefusals = 100

// plan has all of it checked by the broker before the first is changed.
func (c *credentialApplyCommand) plan(ctx context.Context, p *console.Process, cl *client, r *declarations) ([]step, error) {
	there, err := cl.list(ctx, "")
	if err != nil {
		return nil, err
	}
	byName := map[string]*tokenbrokerv1.Credential{}
	for _, x := range there {
		byName[x.GetName()] = x
	}
	var plan []step
	var failed []error
	for _, d := range r.all {
		s := step{declared: d, before: byName[d.name]}
		s.after, err = cl.apply(ctx, s, true)
		if code := console.ExitCode(err); code == console.ExitTemporary || code == console.ExitNotAllowed || code == console.ExitFailure {
			return nil, err // it is not about what the file says
		}
		if err != nil {
			if len(failed) == mostRefusals {
				failed = append(failed, errors.New("and perhaps more: what comes behind was not looked at"))
				break
			}
			failed = append(failed, fmt.Errorf("%s: %w", d.at, console.Sentence(err))) // which says the name, if it is about the credential
			continue
		}
		printMove(p.Stderr, s.before, s.after)
		plan = append(plan, s)
	}
	if len(failed) > 0 {
		return nil, console.WrongInput(errors.Join(failed...))
	}
	for _, x := range there {
		if _, declared := r.seen[x.GetName()]; c.Prune && !declared && x.GetLabels()[managedLabel] == managedValue {
			plan = append(plan, step{before: x})
		}
	}
	return plan, nil
}

// apply makes one credential be as it is declared.
func (cl *client) apply(ctx context.Context, s step, dry bool) (*tokenbrokerv1.Credential, error) {
	d := s.declared
	m := &tokenbrokerv1.Credential{
		Name: d.name, Provider: d.provider, Inputs: d.inputs, Labels: d.labels, DefaultScopes: d.defaultScopes,
		DefaultAudience: d.defaultAudience, Disabled: d.disabled, Etag: s.before.GetEtag(),
	}
	if s.before == nil {
		res, err := cl.credentials.CreateCredential(ctx, &tokenbrokerv1.CreateCredentialRequest{Credential: m, Secrets: d.secrets, ValidateOnly: dry})
		return res.GetCredential(), err
	}
	res, err := cl.credentials.UpdateCredential(ctx, &tokenbrokerv1.UpdateCredentialRequest{
		Credential: m, Secrets: d.secrets, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"*"}}, ValidateOnly: dry,
	})
	return res.GetCredential(), err
}

// ask asks before credentials are deleted.
func (c *credentialApplyCommand) ask(p *console.Process, plan []step) error {
	var gone []string
	for _, s := range plan {
		if s.after == nil {
			gone = append(gone, s.before.GetName())
		}
	}
	if len(gone) == 0 || c.DryRun || c.Yes {
		return nil
	}
	for _, name := range gone {
		console.Printf(p.Stderr, "- %s\n", name)
	}
	sure, err := confirmed(p, fmt.Sprintf("delete %s with their refresh tokens?", console.Counted(len(gone), "credential")))
	if err == nil && !sure {
		err = errors.New("nothing was changed")
	}
	return err
}

// carryOut does what is planned, and says each step when it is done.
func (c *credentialApplyCommand) carryOut(ctx context.Context, w io.Writer, cl *client, plan []step, done *applied) error {
	for _, s := range plan {
		if s.after == nil {
			if err := c.remove(ctx, cl, s.before); err != nil {
				return err
			}
		} else if lines := difference(s.before, s.after); s.before == nil || len(lines) > 0 {
			if !c.DryRun {
				after, err := cl.apply(ctx, s, false)
				if err != nil {
					return err
				}
				s.after = after
			}
		}
		sign, entry := done.add(s)
		if c.JSON() || sign == "" {
			continue
		}
		console.Println(w, sign+" "+entry.Name+entry.of)
		for _, l := range entry.Differences {
			console.Println(w, "    "+l)
		}
	}
	return nil
}

// remove deletes what was applied before and is declared no more.
func (c *credentialApplyCommand) remove(ctx context.Context, cl *client, x *tokenbrokerv1.Credential) error {
	if c.DryRun {
		return nil
	}
	_, err := cl.credentials.DeleteCredential(ctx, &tokenbrokerv1.DeleteCredentialRequest{Name: x.GetName(), Etag: x.GetEtag()})
	if status.Code(err) == codes.NotFound {
		return nil // somebody was quicker
	}
	return err
}

// applied is what was done, or would be; its JSON has stable names.
type applied struct {
	DryRun    bool           `json:"dry_run"`
	Created   []appliedEntry `json:"created"`
	Changed   []appliedEntry `json:"changed"`
	Deleted   []appliedEntry `json:"deleted"`
	Unchanged []appliedEntry `json:"unchanged"`
}

type appliedEntry struct {
	Name        string   `json:"name"`
	Provider    string   `json:"provider"`
	Differences []string `json:"differences,omitempty"`
	of          string
}

// add notes a step, and returns the sign that it is shown with; empty: nothing changes.
func (a *applied) add(s step) (string, appliedEntry) {
	if s.after == nil {
		e := appliedEntry{Name: s.before.GetName(), Provider: s.before.GetProvider(), of: " (" + s.before.GetProvider() + ")"}
		a.Deleted = append(a.Deleted, e)
		return "-", e
	}
	e := appliedEntry{Name: s.after.GetName(), Provider: s.after.GetProvider(), Differences: difference(s.before, s.after)}
	switch {
	case s.before == nil:
		e.of = " (" + e.Provider + ")"
		a.Created = append(a.Created, e)
		return "+", e
	case len(e.Differences) > 0:
		a.Changed = append(a.Changed, e)
		return "~", e
	}
	a.Unchanged = append(a.Unchanged, e)
	return "", e
}

// print ends with how many there are of each.
func (a *applied) print(w io.Writer, f console.Format) error {
	if f.JSON() {
		for _, list := range []*[]appliedEntry{&a.Created, &a.Changed, &a.Deleted, &a.Unchanged} {
			*list = append([]appliedEntry{}, *list...) // an empty list, and not null
		}
		return console.JSON(w, a)
	}
	format := "%d created, %d changed, %d deleted, %d unchanged\n"
	if a.DryRun {
		format = "a dry run, nothing was changed: %d to create, %d to change, %d to delete, %d unchanged\n"
	}
	console.Printf(w, format, len(a.Created), len(a.Changed), len(a.Deleted), len(a.Unchanged))
	return nil
}
