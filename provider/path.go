package provider

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
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
			return path{}, fmt.Errorf("path has more than %d steps; take less deep, and look into it with field", pathMost)
		}
		switch {
		case rest[0] == '[':
			end := strings.IndexByte(rest, ']')
			if end < 0 {
				return path{}, errors.New("a path has [ without ]; write an index, as items[0]")
			}
			n, err := strconv.Atoi(rest[1:end])
			if err != nil || strings.HasPrefix(rest[1:end], "+") {
				return path{}, errors.New("what stands in [] of a path is not an index; write a number, as [0] or [-1]")
			}
			p.steps = append(p.steps, step{index: n, indexed: true})
			rest = rest[end+1:]
			continue
		case !first && rest[0] != '.':
			return path{}, errors.New("a dot or an index is missing in a path; write a.b or a[0]")
		case !first:
			rest = rest[1:]
		}
		if strings.HasPrefix(rest, `"`) {
			end := strings.IndexByte(rest[1:], '"')
			if end <= 0 {
				return path{}, errors.New("a quoted name in a path is empty or does not end; write a.\"b c\"")
			}
			p.steps = append(p.steps, step{member: rest[1 : 1+end]})
			rest = rest[end+2:]
			continue
		}
		m := bareMember.FindString(rest)
		if m == "" {
			return path{}, fmt.Errorf("path: no member's name begins at character %d; quote it, as in a.\"b c\"", len(s)-len(rest)+1)
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
