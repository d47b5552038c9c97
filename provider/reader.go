package provider

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/tokenbroker/tokenbroker/internal/suggest"
)

// A reader walks a file's nodes and gathers everything that is wrong.
type reader struct {
	file     string
	problems []Problem
	// namesUnknown: a word that declares names was not understood, so that every use of one would seem wrong.
	namesUnknown bool
}

func at(n *yaml.Node) position { return position{n.Line, n.Column} }

func (r *reader) wrong(p position, format string, args ...any) {
	r.problems = append(r.problems, Problem{File: r.file, Line: p.line, Column: p.column, Message: fmt.Sprintf(format, args...)})
}

func (r *reader) unknown(p position, what, written string, known []string) {
	r.problems = append(r.problems, Problem{
		File: r.file, Line: p.line, Column: p.column,
		Message: fmt.Sprintf("%s: unknown word %q", what, clip(written)), Suggestion: suggest.Nearest(written, known),
	})
}

// An item is a member of a mapping.
type item struct {
	key   string
	at    position
	value *yaml.Node
}

// items returns the members of a mapping, in order. A repeated key, an alias and anything but a mapping are problems.
func (r *reader) items(n *yaml.Node, what string) []item {
	if n.Kind != yaml.MappingNode {
		r.wrong(at(n), "%s: a mapping is wanted, not %s", what, kindName(n))
		return nil
	}
	var out []item
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if k.Kind != yaml.ScalarNode {
			r.wrong(at(k), "%s: a name is wanted, not %s", what, kindName(k))
			continue
		}
		if seen[k.Value] {
			r.wrong(at(k), "%s: %q is there twice", what, clip(k.Value))
			continue
		}
		seen[k.Value] = true
		out = append(out, item{k.Value, at(k), v})
	}
	return out
}

// words returns the members of a mapping whose keys are words of the language; others are problems.
func (r *reader) words(n *yaml.Node, what string, known ...string) map[string]item {
	out := map[string]item{}
	for _, it := range r.items(n, what) {
		ok := false
		for _, w := range known {
			ok = ok || w == it.key
		}
		switch {
		case ok:
			out[it.key] = it
		case laterWords[it.key]:
			r.wrong(it.at, "%s: this version does not know the word %q yet", what, it.key)
		default:
			r.unknown(it.at, what, it.key, known)
		}
	}
	return out
}

// laterWords belong to the language, and not to this version of it.
var laterWords = map[string]bool{
	"authorize": true, "redeem": true, "revoke": true, "tls": true, "xml": true, "jwt": true, "hmac_sha1": true, "hmac_sha256": true,
	"hmac_sha512": true, "spki_sha256": true, "callback": true, "certificate": true, "client_secret_jwt": true,
	"private_key_jwt": true, "tls_client_auth": true, "self_signed_tls_client_auth": true,
}

func kindName(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	default:
	}
	if isNull(n) {
		return "nothing"
	}
	return fmt.Sprintf("%q", clip(n.Value))
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

// scalar returns a scalar as it is spelled: 1.10 stays 1.10.
func (r *reader) scalar(n *yaml.Node, what string) (string, bool) {
	if n.Kind != yaml.ScalarNode || isNull(n) {
		r.wrong(at(n), "%s: a text is wanted, not %s", what, kindName(n))
		return "", false
	}
	return n.Value, true
}

// text reads a template.
func (r *reader) text(n *yaml.Node, what string) text {
	s, ok := r.scalar(n, what)
	if !ok {
		return text{at: at(n)}
	}
	parts, err := parseText(s)
	if err != nil {
		r.wrong(at(n), "%s: %v", what, err)
	}
	return text{parts: parts, at: at(n)}
}

// yes reads a flag that is written to be true.
func (r *reader) yes(it item, what string) bool {
	if it.value == nil {
		return false
	}
	if it.value.Value != "true" {
		r.wrong(at(it.value), "%s.%s: only true can be written; leave it out otherwise", what, it.key)
		return false
	}
	return true
}

var durationWord = regexp.MustCompile(`^([0-9]+(ms|s|m|h|d))+$`)
var durationPart = regexp.MustCompile(`[0-9]+(ms|s|m|h|d)`)

// parseDuration reads 90s, 1h30m, 5d.
func parseDuration(s string) (time.Duration, bool) {
	if !durationWord.MatchString(s) {
		return 0, false
	}
	var sum time.Duration
	for _, p := range durationPart.FindAllString(s, -1) {
		if d, ok := strings.CutSuffix(p, "d"); ok {
			n, err := strconv.ParseInt(d, 10, 32)
			if err != nil || n > 36500 {
				return 0, false
			}
			sum += time.Duration(n) * 24 * time.Hour
			continue
		}
		d, err := time.ParseDuration(p)
		if err != nil {
			return 0, false
		}
		sum += d
	}
	return sum, sum >= 0 && sum <= 36500*24*time.Hour
}

func (r *reader) duration(n *yaml.Node, what string) time.Duration {
	s, ok := r.scalar(n, what)
	if !ok {
		return 0
	}
	d, ok := parseDuration(s)
	if !ok {
		r.wrong(at(n), "%s: %q is no duration; write 90s, 1h30m or 5d", what, clip(s))
	}
	return d
}

func (r *reader) oneOf(n *yaml.Node, what string, known ...string) string {
	s, ok := r.scalar(n, what)
	if !ok {
		return ""
	}
	for _, k := range known {
		if s == k {
			return s
		}
	}
	if laterWords[s] {
		r.wrong(at(n), "%s: this version does not know %q yet", what, s)
		return ""
	}
	r.problems = append(r.problems, Problem{
		File: r.file, Line: n.Line, Column: n.Column, Suggestion: suggest.Nearest(s, known),
		Message: fmt.Sprintf("%s: %q is none of %s", what, clip(s), strings.Join(known, ", ")),
	})
	return ""
}

func (r *reader) strings(n *yaml.Node, what string) []string {
	if n.Kind != yaml.SequenceNode {
		r.wrong(at(n), "%s: a list is wanted, not %s", what, kindName(n))
		return nil
	}
	var out []string
	for _, c := range n.Content {
		if s, ok := r.scalar(c, what); ok {
			out = append(out, s)
		}
	}
	return out
}

func (r *reader) path(n *yaml.Node, what string) *path {
	s, ok := r.scalar(n, what)
	if !ok {
		return nil
	}
	p, err := parsePath(s)
	if err != nil {
		r.wrong(at(n), "%s: %v", what, err)
		return nil
	}
	return &p
}

func (r *reader) regexp(n *yaml.Node, what string, whole bool) (*regexp.Regexp, string) {
	s, ok := r.scalar(n, what)
	if !ok {
		return nil, ""
	}
	expr := s
	if whole {
		expr = `^(?:` + s + `)$`
	}
	re, err := regexp.Compile(expr)
	if err != nil {
		r.wrong(at(n), "%s: %q is no RE2 expression", what, clip(s))
		return nil, s
	}
	return re, s
}

// fields reads names with values.
func (r *reader) fields(n *yaml.Node, what string) []field {
	var out []field
	for _, it := range r.items(n, what) {
		f := field{name: it.key, at: it.at}
		where := what + "." + it.key
		switch {
		case isNull(it.value):
			f.remove = true
		case it.value.Kind == yaml.SequenceNode:
			for _, c := range it.value.Content {
				f.values = append(f.values, r.text(c, where))
			}
		default:
			f.values = []text{r.text(it.value, where)}
		}
		out = append(out, f)
	}
	return out
}

func (r *reader) cookies(n *yaml.Node, what string) cookies {
	if n.Kind == yaml.ScalarNode {
		t := r.text(n, what)
		return cookies{whole: &t}
	}
	return cookies{fields: r.fields(n, what)}
}

// tree reads a JSON body.
func (r *reader) tree(n *yaml.Node, what string) *tree {
	switch n.Kind {
	case yaml.MappingNode:
		t := &tree{kind: treeObject}
		for _, it := range r.items(n, what) {
			t.members = append(t.members, member{it.key, r.tree(it.value, what+"."+it.key)})
		}
		return t
	case yaml.SequenceNode:
		t := &tree{kind: treeList}
		for i, c := range n.Content {
			t.list = append(t.list, r.tree(c, fmt.Sprintf("%s[%d]", what, i)))
		}
		return t
	case yaml.ScalarNode:
		switch n.Tag {
		case "!!null":
			return &tree{kind: treeRaw}
		case "!!bool":
			return &tree{kind: treeRaw, raw: strings.EqualFold(n.Value, "true")}
		case "!!int", "!!float":
			if v, err := decodeJSON([]byte(n.Value)); err == nil {
				return &tree{kind: treeRaw, raw: v}
			}
		}
		t := r.text(n, what)
		return &tree{leaf: &t}
	default:
	}
	r.wrong(at(n), "%s: %s cannot be sent", what, kindName(n))
	return &tree{kind: treeRaw}
}
