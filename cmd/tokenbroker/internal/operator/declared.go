package operator

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/tokenbroker/tokenbroker/internal/yamldoc"
)

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

// declarationsMost bounds a file of credentials in bytes.
const declarationsMost = 16 << 20

// declarations are what files declare.
type declarations struct {
	all   []declared
	seen  map[string]string
	wrong []yamldoc.Problem
}

// read reads the documents of a file: each is a credential, or a list of them.
func (d *declarations) read(file string, data []byte) {
	r := &declarationReader{Reader: yamldoc.Reader{File: file}, declarations: d}
	for _, root := range r.Documents(data, declarationsMost) {
		if root.Kind != yaml.SequenceNode {
			r.credential(root)
			continue
		}
		for _, n := range root.Content {
			r.credential(n)
		}
	}
	yamldoc.Sort(r.Problems)
	d.wrong = append(d.wrong, r.Problems...)
}

// A declarationReader reads one file of credentials.
type declarationReader struct {
	yamldoc.Reader
	*declarations
}

var declaredWords = []string{"name", "provider", "inputs", "secrets", "default_scopes", "default_audience", "labels", "disabled"}

func (r *declarationReader) credential(n *yaml.Node) {
	if n.Kind != yaml.MappingNode {
		r.Wrong(yamldoc.At(n), "a credential is wanted: name, provider, inputs, secrets, …")
		return
	}
	d := declared{at: fmt.Sprintf("%s:%d", r.File, n.Line), inputs: map[string]string{}, secrets: map[string]string{}, labels: map[string]string{managedLabel: managedValue}}
	for word, it := range r.Words(n, "credential", declaredWords...) {
		switch v := it.Value; word {
		case "name":
			d.name, _ = r.Text(v, word)
		case "provider":
			d.provider, _ = r.Text(v, word)
		case "default_audience":
			d.defaultAudience, _ = r.Text(v, word)
		case "disabled":
			if v.Tag != "!!bool" || v.Decode(&d.disabled) != nil {
				r.Wrong(yamldoc.At(v), "disabled: true or false")
			}
		case "default_scopes":
			d.defaultScopes = r.scopes(v, word)
		case "inputs":
			r.texts(v, word, d.inputs)
		case "labels":
			r.texts(v, word, d.labels)
		case "secrets":
			r.references(v, d.secrets)
		}
	}
	if d.name == "" || d.provider == "" {
		r.Wrong(yamldoc.At(n), "a credential has a name and a provider")
		return
	}
	if first, twice := r.seen[d.name]; twice {
		r.Wrong(yamldoc.At(n), "credential %s is declared already at %s", d.name, first)
		return
	}
	r.seen[d.name] = d.at
	r.all = append(r.all, d)
}

// scopes reads a list of them. What is a number or a yes for YAML is seldom what was meant: 1e3 is spelled otherwise than it is read.
func (r *declarationReader) scopes(n *yaml.Node, what string) []string {
	for _, c := range n.Content {
		if n.Kind == yaml.SequenceNode && c.Kind == yaml.ScalarNode && c.Tag != "!!str" && !yamldoc.IsNull(c) {
			r.Wrong(yamldoc.At(c), "%s: a text is wanted, not %s; if it is meant, write it in quotes", what, yamldoc.KindName(c))
		}
	}
	return r.Texts(n, what)
}

func (r *declarationReader) texts(n *yaml.Node, what string, out map[string]string) {
	for _, it := range r.Items(n, what) {
		out[it.Key], _ = r.Text(it.Value, what+"."+it.Key)
	}
}

// references reads where secrets are: file:PATH, env:NAME, or the same as {file: PATH}, {env: NAME}. A path is relative to the
// file that names it.
func (r *declarationReader) references(n *yaml.Node, out map[string]string) {
	if n.Kind != yaml.MappingNode { // what stands here may be a secret itself: it is not repeated
		r.Wrong(yamldoc.At(n), "secrets: names with references are wanted")
		return
	}
	for _, it := range r.Items(n, "secrets") {
		name, v := it.Key, it.Value
		kind, where := "", ""
		switch {
		case v.Kind == yaml.ScalarNode:
			kind, where, _ = strings.Cut(v.Value, ":")
		case v.Kind == yaml.MappingNode && len(v.Content) == 2:
			kind, where = v.Content[0].Value, v.Content[1].Value
		}
		switch kind {
		case "file":
			if !filepath.IsAbs(where) && r.File != "-" {
				where = filepath.Join(filepath.Dir(r.File), where)
			}
			s, err := readReference(where)
			if err != nil {
				r.Wrong(yamldoc.At(v), "secrets.%s: %v", name, err)
			}
			out[name] = s
		case "env":
			s, ok := os.LookupEnv(where)
			if !ok || s == "" {
				r.Wrong(yamldoc.At(v), "secrets.%s: the environment variable %s is not set", name, where)
			}
			if !isText(s) {
				r.Wrong(yamldoc.At(v), "secrets.%s: the environment variable %s is %v", name, where, errNotText)
			}
			out[name] = s
		default:
			// What stands here may be the secret itself: it is not repeated.
			r.Wrong(yamldoc.At(v), "secrets.%s: a secret is given by reference, file:PATH or env:NAME, and never written here", name)
		}
	}
}
