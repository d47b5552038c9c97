package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/tokenbroker/tokenbroker/internal/suggest"
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
	words := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		r.once(words, k)
		switch k.Value {
		case "name":
			d.name = r.text(v, "name")
		case "provider":
			d.provider = r.text(v, "provider")
		case "default_audience":
			d.defaultAudience = r.text(v, "default_audience")
		case "disabled":
			if v.Tag != "!!bool" || v.Decode(&d.disabled) != nil {
				r.bad(v, "disabled: true or false")
			}
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

func (r *declarationReader) once(seen map[string]bool, k *yaml.Node) {
	if seen[k.Value] {
		r.bad(k, "%q is there twice", k.Value)
	}
	seen[k.Value] = true
}

func (r *declarationReader) text(n *yaml.Node, what string) string {
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
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
	names := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		r.once(names, n.Content[i])
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
	names := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		r.once(names, n.Content[i])
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
