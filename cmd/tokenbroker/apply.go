package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/internal/suggest"
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

// declared is a credential as a file declares it.
type declared struct {
	at              string
	name, provider  string
	inputs, labels  map[string]string
	secrets         map[string]string
	defaultScopes   []string
	defaultAudience string
	disabled        bool
}

// Run reads and checks everything before it changes anything.
func (c *credentialApplyCommand) Run(p *process) error {
	r := &declarationReader{p: p, seen: map[string]string{}}
	for _, f := range c.File {
		data, err := readFile(p, f)
		if err != nil {
			return err
		}
		r.read(f, data)
	}
	if len(r.wrong) > 0 {
		return &inputError{errors.Join(r.wrong...)}
	}
	return c.with(p.ctx, func(ctx context.Context, cl *client) error {
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
			if _, err := cl.apply(ctx, d, byName[d.name], true); err != nil {
				failed = append(failed, fmt.Errorf("%s: credential %s: %w", d.at, d.name, sentence(err)))
			}
		}
		if len(failed) > 0 {
			return &inputError{errors.Join(failed...)}
		}
		for _, d := range r.all {
			after, err := cl.apply(ctx, d, byName[d.name], c.DryRun)
			if err != nil {
				return err
			}
			changed = difference(p.stdout, byName[d.name], after, d) || changed
		}
		pruned, err := c.prune(ctx, p, cl, r, there)
		if err == nil && !changed && !pruned {
			fmt.Fprintln(p.stdout, "nothing to change")
		}
		return err
	})
}

// sentence is a status as one line, with its violations.
func sentence(err error) error {
	d := describe(err)
	var b strings.Builder
	b.WriteString(d.Message)
	for _, v := range d.Violations {
		fmt.Fprintf(&b, "; %s %s", v.Field, v.Description)
	}
	return errors.New(b.String())
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
		fmt.Fprintf(w, "+ %s (%s)\n", d.name, d.provider)
		for _, k := range slices.Sorted(maps.Keys(d.inputs)) {
			fmt.Fprintf(w, "    + inputs.%s: %s\n", k, d.inputs[k])
		}
		for _, k := range slices.Sorted(maps.Keys(d.secrets)) {
			fmt.Fprintf(w, "    + secrets.%s: set\n", k)
		}
		return true
	}
	var lines []string
	one := func(field, a, b string) {
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
	fmt.Fprintf(w, "~ %s\n%s\n", d.name, strings.Join(lines, "\n"))
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
func (c *credentialApplyCommand) prune(ctx context.Context, p *process, cl *client, r *declarationReader, there []*tokenbrokerv1.Credential) (bool, error) {
	if !c.Prune {
		return false, nil
	}
	var gone []*tokenbrokerv1.Credential
	for _, x := range there {
		if _, declared := r.seen[x.GetName()]; !declared && x.GetLabels()[managedLabel] == managedValue {
			gone = append(gone, x)
			fmt.Fprintf(p.stdout, "- %s (%s)\n", x.GetName(), x.GetProvider())
		}
	}
	if len(gone) == 0 || c.DryRun {
		return len(gone) > 0, nil
	}
	if !c.Yes {
		if !canPrompt(p) {
			return true, badInput("deleting %d credentials needs --yes", len(gone))
		}
		fmt.Fprintf(p.stderr, "delete %d credentials with their refresh tokens? Type yes: ", len(gone))
		line, err := bufio.NewReader(p.stdin).ReadString('\n')
		if err != nil || strings.TrimSpace(line) != "yes" {
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

// A declarationReader reads files of credentials, and gathers everything that is wrong with them.
type declarationReader struct {
	p     *process
	file  string
	all   []declared
	seen  map[string]string
	wrong []error
}

func (r *declarationReader) bad(n *yaml.Node, format string, args ...any) {
	r.wrong = append(r.wrong, &misplaced{at(r.file, n), fmt.Sprintf(format, args...)})
}

// read reads the documents of a file: each is a credential, or a list of them.
func (r *declarationReader) read(file string, data []byte) {
	r.file = file
	dec := yaml.NewDecoder(strings.NewReader(string(data)))
	for {
		var doc yaml.Node
		err := dec.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			r.wrong = append(r.wrong, fmt.Errorf("%s: not YAML: %s", file, strings.TrimPrefix(err.Error(), "yaml: ")))
			return
		}
		if len(doc.Content) == 0 {
			continue
		}
		if root := doc.Content[0]; root.Kind == yaml.SequenceNode {
			for _, n := range root.Content {
				r.credential(n)
			}
		} else {
			r.credential(root)
		}
	}
}

var declaredWords = []string{"name", "provider", "inputs", "secrets", "default_scopes", "default_audience", "labels", "disabled"}

func (r *declarationReader) credential(n *yaml.Node) {
	if n.Kind != yaml.MappingNode {
		r.bad(n, "a credential is wanted: name, provider, inputs, secrets, …")
		return
	}
	d := declared{at: fmt.Sprintf("%s:%d", r.file, n.Line), inputs: map[string]string{}, secrets: map[string]string{}, labels: map[string]string{managedLabel: managedValue}}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		switch k.Value {
		case "name":
			d.name = r.text(v, "name")
		case "provider":
			d.provider = r.text(v, "provider")
		case "default_audience":
			d.defaultAudience = r.text(v, "default_audience")
		case "disabled":
			if v.Tag != "!!bool" {
				r.bad(v, "disabled: true or false")
			}
			d.disabled = v.Value == "true"
		case "default_scopes":
			if v.Kind != yaml.SequenceNode {
				r.bad(v, "default_scopes: a list is wanted")
			}
			for _, s := range v.Content {
				d.defaultScopes = append(d.defaultScopes, r.text(s, "default_scopes"))
			}
		case "inputs":
			r.texts(v, "inputs", d.inputs)
		case "labels":
			r.texts(v, "labels", d.labels)
		case "secrets":
			r.references(v, d.secrets)
		default:
			hint := ""
			if near := suggest.Nearest(k.Value, declaredWords); near != "" {
				hint = fmt.Sprintf("; did you mean %q?", near)
			}
			r.bad(k, "unknown word %q%s", k.Value, hint)
		}
	}
	if d.name == "" || d.provider == "" {
		r.bad(n, "a credential has a name and a provider")
		return
	}
	if first, twice := r.seen[d.name]; twice {
		r.bad(n, "credential %s is declared already at %s", d.name, first)
		return
	}
	r.seen[d.name] = d.at
	r.all = append(r.all, d)
}

func (r *declarationReader) text(n *yaml.Node, what string) string {
	if n.Kind != yaml.ScalarNode {
		r.bad(n, "%s: a text is wanted", what)
		return ""
	}
	return n.Value
}

func (r *declarationReader) texts(n *yaml.Node, what string, out map[string]string) {
	if n.Kind != yaml.MappingNode {
		r.bad(n, "%s: names with values are wanted", what)
		return
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		out[n.Content[i].Value] = r.text(n.Content[i+1], what+"."+n.Content[i].Value)
	}
}

// references reads where secrets are: file:PATH, env:NAME, or the same as {file: PATH}, {env: NAME}. A path is relative to the
// file that names it.
func (r *declarationReader) references(n *yaml.Node, out map[string]string) {
	if n.Kind != yaml.MappingNode {
		r.bad(n, "secrets: names with references are wanted")
		return
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, v := n.Content[i].Value, n.Content[i+1]
		kind, where := "", ""
		switch {
		case v.Kind == yaml.ScalarNode:
			kind, where, _ = strings.Cut(v.Value, ":")
		case v.Kind == yaml.MappingNode && len(v.Content) == 2:
			kind, where = v.Content[0].Value, v.Content[1].Value
		}
		switch kind {
		case "file":
			if !filepath.IsAbs(where) && r.file != "-" {
				where = filepath.Join(filepath.Dir(r.file), where)
			}
			s, err := readSecretFile(r.p, where)
			if err != nil {
				r.bad(v, "secrets.%s: %v", name, err)
			}
			out[name] = s
		case "env":
			s, ok := os.LookupEnv(where)
			if !ok || s == "" {
				r.bad(v, "secrets.%s: the environment variable %s is not set", name, where)
			}
			out[name] = s
		default:
			// What stands here may be the secret itself: it is not repeated.
			r.bad(v, "secrets.%s: a secret is given by reference, file:PATH or env:NAME, and never written here", name)
		}
	}
}
