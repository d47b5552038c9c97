package provider

import (
	"errors"
	"regexp"
	"strings"
)

// A text is a template: literals and names. `{{name}}` and `{{ name }}` stand for a value, `{{{{` for a literal `{{`. There
// are no functions and there is no logic.
type text struct {
	parts []part
	at    position
	// implied: nobody wrote it; a shorthand stands for it.
	implied bool
}

// A part is a name, or a literal where name is empty.
type part struct{ literal, name string }

var nameWord = regexp.MustCompile(`^[a-z][a-z0-9_]{0,63}$`)

// parseText reads a template. It fails with a sentence that says what is wrong.
func parseText(s string) ([]part, error) {
	var parts []part
	var lit strings.Builder
	for s != "" {
		i := strings.Index(s, "{{")
		if i < 0 {
			lit.WriteString(s)
			break
		}
		lit.WriteString(s[:i])
		s = s[i+2:]
		if strings.HasPrefix(s, "{{") {
			lit.WriteString("{{")
			s = s[2:]
			continue
		}
		j := strings.Index(s, "}}")
		if j < 0 {
			return nil, errors.New("{{ without }}; write {{{{ for a literal {{")
		}
		name := strings.TrimSuffix(strings.TrimPrefix(s[:j], " "), " ")
		if !nameWord.MatchString(name) {
			return nil, errors.New("what stands between {{ and }} is not a name: a template only names values, as in {{client_id}}; write {{{{ for a literal {{")
		}
		if lit.Len() > 0 {
			parts = append(parts, part{literal: lit.String()})
			lit.Reset()
		}
		parts = append(parts, part{name: name})
		s = s[j+2:]
	}
	if lit.Len() > 0 {
		parts = append(parts, part{literal: lit.String()})
	}
	return parts, nil
}

// names returns the names that the template uses, in order.
func (t text) names() []string {
	var out []string
	seen := map[string]bool{}
	for _, p := range t.parts {
		if p.name != "" && !seen[p.name] {
			seen[p.name] = true
			out = append(out, p.name)
		}
	}
	return out
}

// alone returns the name if the template is nothing else.
func (t text) alone() (string, bool) {
	if len(t.parts) == 1 && t.parts[0].name != "" {
		return t.parts[0].name, true
	}
	return "", false
}

// literalText is a template without names.
func literalText(s string) text {
	if s == "" {
		return text{}
	}
	return text{parts: []part{{literal: s}}}
}

// nameText is {{name}}.
func nameText(name string) text { return text{parts: []part{{name: name}}} }

// expand replaces names by their values; escaping is by the encoder of where the text stands. ok is false when a named value is absent: what the template
// stands in is then left out.
func (t text) expand(v *values) (s string, ok bool, err error) {
	var b strings.Builder
	for _, p := range t.parts {
		if p.name == "" {
			b.WriteString(p.literal)
			continue
		}
		x, err := v.get(p.name)
		if err != nil {
			return "", false, err
		}
		if x.absent() {
			return "", false, nil
		}
		b.WriteString(x.String())
	}
	return b.String(), true, nil
}
