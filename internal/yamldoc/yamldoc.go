// Package yamldoc reads what people write in YAML, strictly: files of a bounded size, without aliases, with no key twice and no
// word that nobody knows. It gathers everything that is wrong, each with its place, and knows no file's words.
package yamldoc

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"

	"github.com/tokenbroker/tokenbroker/internal/suggest"
)

// MostBytes bounds a document of which there is one in a file.
const MostBytes = 1 << 20

// A Reader walks the nodes of a file and gathers what is wrong. One file, one Reader.
type Reader struct {
	// File is what problems call the file.
	File     string
	Problems []Problem
	// Later are words that are known to mean something, and not to this version.
	Later map[string]bool
}

// Wrong notes a problem.
func (r *Reader) Wrong(p Position, format string, args ...any) {
	r.Problems = append(r.Problems, r.problem(p, fmt.Sprintf(format, args...)))
}

// Warn notes something that is probably not what was meant.
func (r *Reader) Warn(p Position, format string, args ...any) {
	r.Wrong(p, format, args...)
	r.Problems[len(r.Problems)-1].Warning = true
}

// Unknown notes a word that is none of the known ones, and which of them was probably meant.
func (r *Reader) Unknown(p Position, message, written string, known []string) {
	found := r.problem(p, message)
	if len(r.Problems) < mostTold { // each guess compares with all that is known
		found.Suggestion = suggest.Nearest(written, known)
	}
	r.Problems = append(r.Problems, found)
}

// Document reads a file that is one document; nil: nothing is in it, or something is wrong.
func (r *Reader) Document(data []byte) *yaml.Node {
	all := r.Documents(data, MostBytes)
	switch len(all) {
	case 0:
		return nil
	case 1:
		return all[0]
	}
	r.Wrong(At(all[1]), "one document a file: this is a second one; write it into a file of its own")
	return nil
}

// Documents reads a file of several documents, of most bytes together. Empty ones are left out; with one that is wrong there is
// none at all.
func (r *Reader) Documents(data []byte, most int) []*yaml.Node {
	if len(data) > most {
		r.Wrong(Position{}, "larger than %d bytes; make several files of it, or leave something out", most)
		return nil
	}
	if !utf8.Valid(data) { // YAML may be UTF-16 too, and whoever shows the file would have to know
		r.Wrong(Position{}, "not UTF-8; write it in UTF-8")
		return nil
	}
	var all []*yaml.Node
	for dec := yaml.NewDecoder(bytes.NewReader(data)); ; {
		var doc yaml.Node
		err := dec.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			r.notYAML(err, data)
			return nil
		}
		if len(doc.Content) == 0 || isEmpty(doc.Content[0]) {
			continue
		}
		before := len(r.Problems)
		if r.aliases(doc.Content[0]); len(r.Problems) > before {
			return nil
		}
		all = append(all, doc.Content[0])
	}
}

// isEmpty reports whether there is nothing, not even the word null.
func isEmpty(n *yaml.Node) bool { return IsNull(n) && n.Value == "" }

func (r *Reader) notYAML(err error, data []byte) {
	var at *yaml.LoadError
	if !errors.As(err, &at) {
		r.Wrong(Position{}, "not YAML")
		return
	}
	p := Position{at.Mark.Line, max(at.Mark.Column, 1)}
	if at.Mark.Line == 0 {
		p = Position{}
	}
	r.Wrong(p, "not YAML: %s%s", clip(anchorName.ReplaceAllLiteralString(at.Message, "anchor"), 120), hint(data, p.Line))
}

var (
	tabIndents = regexp.MustCompile(`^ *\t`)
	quoted     = regexp.MustCompile(`"(\\.|[^"\\])*"|'[^']*'`)
)

// hint says what to write instead where a line of what is no YAML has what many take for some; empty: it has nothing of the kind.
func hint(data []byte, line int) string {
	lines := bytes.Split(data, []byte("\n"))
	if line < 1 || line > len(lines) {
		return ""
	}
	switch text := lines[line-1]; {
	case tabIndents.Match(text):
		return "; a tab is no indentation: write blanks"
	case bytes.Contains(quoted.ReplaceAll(text, nil), []byte("{{")):
		return "; " + braces
	}
	return ""
}

// braces is what to do about {{name}}, which is a mapping in YAML.
const braces = `what has {{ in it stands in quotes: write "{{name}}"`

// isBraces reports whether a node is {{name}} without quotes.
func isBraces(n *yaml.Node) bool {
	return n.Kind == yaml.MappingNode && len(n.Content) == 2 && n.Content[0].Kind == yaml.MappingNode
}

// anchorName is the only text of a file that the messages of the YAML library quote.
var anchorName = regexp.MustCompile(`(?s)anchor '.*'`)

// aliases finds them wherever they are: a few can stand for any number of nodes.
func (r *Reader) aliases(n *yaml.Node) {
	if n.Kind == yaml.AliasNode {
		r.Wrong(At(n), "an alias: aliases are not allowed, write it out")
	}
	for _, c := range n.Content {
		r.aliases(c)
	}
}

// An Item is a member of a mapping.
type Item struct {
	Key   string
	At    Position
	Value *yaml.Node
}

// Items returns the members of a mapping, in order; what names the mapping in problems. A repeated key and anything but a mapping
// are problems.
func (r *Reader) Items(n *yaml.Node, what string) []Item {
	if isBraces(n) {
		r.Wrong(At(n), "%s: %s", what, braces)
		return nil
	}
	if n.Kind != yaml.MappingNode {
		r.Wrong(At(n), "%s: a mapping is wanted, not %s; write {name: value}", what, KindName(n))
		return nil
	}
	var out []Item
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if k.Kind != yaml.ScalarNode {
			r.Wrong(At(k), "%s: a name is wanted, not %s; what begins with a brace stands in quotes, as \"{{name}}\"", what, KindName(k))
			continue
		}
		if seen[k.Value] {
			r.Wrong(At(k), "%s: %q is there twice; leave one out", what, Clip(k.Value))
			continue
		}
		seen[k.Value] = true
		out = append(out, Item{k.Value, At(k), v})
	}
	return out
}

// Words returns the members of a mapping whose keys are known words; others are problems.
func (r *Reader) Words(n *yaml.Node, what string, known ...string) map[string]Item {
	out := map[string]Item{}
	for _, it := range r.Items(n, what) {
		switch {
		case slices.Contains(known, it.Key):
			out[it.Key] = it
		case r.Later[it.Key]:
			r.Wrong(it.At, "%s: this version does not know the word %q yet; leave it out", what, it.Key)
		default:
			r.Unknown(it.At, fmt.Sprintf("%s: unknown word %q", what, Clip(it.Key)), it.Key, known)
			if last := &r.Problems[len(r.Problems)-1]; last.Suggestion == "" && len(r.Problems) <= mostTold {
				last.Message += "; write one of " + strings.Join(known, ", ")
			}
		}
	}
	return out
}

// Text returns a scalar as it is spelled: 1.10 stays 1.10.
func (r *Reader) Text(n *yaml.Node, what string) (string, bool) {
	if isBraces(n) {
		r.Wrong(At(n), "%s: %s", what, braces)
		return "", false
	}
	if n.Kind != yaml.ScalarNode || IsNull(n) {
		r.Wrong(At(n), "%s: a text is wanted, not %s; write one, in quotes", what, KindName(n))
		return "", false
	}
	return n.Value, true
}

// Texts returns the members of a list.
func (r *Reader) Texts(n *yaml.Node, what string) []string {
	if n.Kind != yaml.SequenceNode {
		r.Wrong(At(n), "%s: a list is wanted, not %s; write [value, value]", what, KindName(n))
		return nil
	}
	var out []string
	for _, c := range n.Content {
		if s, ok := r.Text(c, what); ok {
			out = append(out, s)
		}
	}
	return out
}

// KindName says for people what a node is, and never what is in it: where a mapping is wanted, somebody may have put a secret.
func KindName(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	default:
	}
	switch n.Tag {
	case "!!null":
		return "nothing"
	case "!!bool":
		return "true or false"
	case "!!int", "!!float":
		return "a number"
	}
	return "a text"
}

// IsNull reports whether the node is null, or nothing.
func IsNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }
