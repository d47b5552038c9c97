package provider

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/tokenbroker/tokenbroker/internal/yamldoc"
)

// A path names one place in a JSON document: `a.b`, `a."b.c"[-1].@x`; `$` alone is the whole. It is the singular query of
// RFC 9535 in the spelling of grammar and vendors' documentation.
type path struct {
	steps []step
	as    string
}

// A step is a member's name or an element's index.
type step struct {
	member  string
	index   int
	indexed bool
}

var bareMember = regexp.MustCompile(`^@?[A-Za-z0-9_$:-]+`)

const pathMost = 64

// parsePath reads a path. It fails with a sentence that says what is wrong.
func parsePath(s string) (path, error) {
	p := path{as: s}
	if s == "$" {
		return p, nil
	}
	if s == "" {
		return p, errors.New("an empty path; write $ for the whole answer")
	}
	rest := strings.TrimPrefix(s, "$.")
	for first := true; rest != ""; first = false {
		if len(p.steps) == pathMost {
			return path{}, fmt.Errorf("path has more than %d steps", pathMost)
		}
		switch {
		case rest[0] == '[':
			end := strings.IndexByte(rest, ']')
			if end < 0 {
				return path{}, fmt.Errorf("path %q: [ without ]", yamldoc.Clip(s))
			}
			n, err := strconv.Atoi(rest[1:end])
			if err != nil || strings.HasPrefix(rest[1:end], "+") {
				return path{}, fmt.Errorf("path %q: %q is no index", yamldoc.Clip(s), yamldoc.Clip(rest[1:end]))
			}
			p.steps = append(p.steps, step{index: n, indexed: true})
			rest = rest[end+1:]
			continue
		case !first && rest[0] != '.':
			return path{}, fmt.Errorf("path %q: a dot or an index is missing before %q", yamldoc.Clip(s), yamldoc.Clip(rest))
		case !first:
			rest = rest[1:]
		}
		if strings.HasPrefix(rest, `"`) {
			end := strings.IndexByte(rest[1:], '"')
			if end <= 0 {
				return path{}, fmt.Errorf("path %q: a quoted name is empty or does not end", yamldoc.Clip(s))
			}
			p.steps = append(p.steps, step{member: rest[1 : 1+end]})
			rest = rest[end+2:]
			continue
		}
		m := bareMember.FindString(rest)
		if m == "" {
			return path{}, fmt.Errorf("path %q: %q is no member's name; quote it, as in a.\"b c\"", yamldoc.Clip(s), yamldoc.Clip(rest))
		}
		p.steps = append(p.steps, step{member: m})
		rest = rest[len(m):]
	}
	return p, nil
}

// find returns what is at the path; false: nothing, or null.
func (p path) find(doc any) (any, bool) {
	for _, s := range p.steps {
		if !s.indexed {
			m, ok := doc.(map[string]any)
			if !ok {
				return nil, false
			}
			if doc, ok = m[s.member]; !ok {
				return nil, false
			}
			continue
		}
		l, ok := doc.([]any)
		i := s.index
		if i < 0 {
			i += len(l)
		}
		if !ok || i < 0 || i >= len(l) {
			return nil, false
		}
		doc = l[i]
	}
	return doc, doc != nil
}

// jsonDeepest bounds the nesting of a document.
const jsonDeepest = 100

// decodeJSON reads one document with its numbers as they are spelled. It is strict where leniency would guess: a name that is
// there twice, what is no UTF-8, and anything after the document are no JSON (RFC 8259 sections 4 and 8.1).
func decodeJSON(b []byte) (any, error) {
	b = bytes.TrimPrefix(b, []byte("\xef\xbb\xbf"))
	if !utf8.Valid(b) {
		return nil, errNotJSON
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	doc, err := decodeValue(d, 0)
	if err != nil {
		return nil, errNotJSON
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errNotJSON
	}
	return doc, nil
}

func decodeValue(d *json.Decoder, depth int) (any, error) {
	t, err := d.Token()
	if err != nil || depth > jsonDeepest {
		return nil, errNotJSON
	}
	switch t {
	case json.Delim('{'):
		m := map[string]any{}
		for d.More() {
			k, err := d.Token()
			name, ok := k.(string)
			if _, twice := m[name]; err != nil || !ok || twice {
				return nil, errNotJSON
			}
			if m[name], err = decodeValue(d, depth+1); err != nil {
				return nil, err
			}
		}
		_, err = d.Token()
		return m, err
	case json.Delim('['):
		l := []any{}
		for d.More() {
			x, err := decodeValue(d, depth+1)
			if err != nil {
				return nil, err
			}
			l = append(l, x)
		}
		_, err = d.Token()
		return l, err
	}
	return t, nil
}

var errNotJSON = errors.New("not JSON")

// textOf is a JSON value as text: strings as they are, numbers and booleans as spelled, anything else as JSON.
func textOf(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	case json.Number:
		return v.String()
	case bool:
		return strconv.FormatBool(v)
	}
	b, err := json.Marshal(v)
	if err != nil {
		return ""
	}
	return string(b)
}

// jsonInt is a number as JSON spells it.
func jsonInt(n int) json.Number { return json.Number(strconv.Itoa(n)) }
