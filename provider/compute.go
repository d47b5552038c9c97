package provider

import (
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // some APIs sign with it
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
)

// A compute is how a `let` value comes about.
type compute struct {
	at   position
	text *text
	op   string
	of   *compute
	// first and split, field, now, random have more
	any    []*compute
	by     string
	index  int
	path   *path
	add    time.Duration
	layout string
	bytes  int
}

var computeWords = []string{
	"base64", "base64url", "hex", "from_base64", "from_base64url", "from_hex", "lower", "upper", "sha1", "sha256", "sha512",
	"uuid", "random", "first", "now", "split", "field",
}

func (r *reader) compute(n *yaml.Node, what string) *compute {
	c := &compute{at: at(n)}
	if n.Kind != yaml.MappingNode {
		t := r.text(n, what)
		c.text = &t
		return c
	}
	words := r.words(n, what, computeWords...)
	if len(words) != 1 {
		if len(n.Content) <= 2 && len(r.problems) > 0 {
			return c // the unknown word has been said
		}
		r.wrong(at(n), "%s: exactly one of %s", what, strings.Join(computeWords, ", "))
		return c
	}
	for op, it := range words {
		c.op = op
		what += "." + op
		switch op {
		case "uuid":
			if it.value.Value != "4" {
				r.wrong(at(it.value), "%s: only version 4", what)
			}
		case "random":
			if _, err := fmt.Sscan(it.value.Value, &c.bytes); err != nil || c.bytes < 8 || c.bytes > 64 {
				r.wrong(at(it.value), "%s: a number of bytes from 8 to 64", what)
			}
		case "first":
			if it.value.Kind != yaml.SequenceNode || len(it.value.Content) == 0 {
				r.wrong(at(it.value), "%s: a list is wanted, not %s", what, kindName(it.value))
			}
			for _, e := range it.value.Content {
				c.any = append(c.any, r.compute(e, what))
			}
		case "now":
			w := r.words(it.value, what, "add", "layout")
			if a, ok := w["add"]; ok {
				s, negative := strings.CutPrefix(a.value.Value, "-")
				d, good := parseDuration(s)
				if !good {
					r.wrong(at(a.value), "%s.add: %q is no duration", what, clip(a.value.Value))
				}
				if c.add = d; negative {
					c.add = -d
				}
			}
			if l, ok := w["layout"]; ok {
				c.layout = r.layout(l.value, what+".layout")
			}
		case "split":
			w := r.words(it.value, what, "of", "by", "at")
			c.of = r.part(w, "of", it, what)
			if by, ok := w["by"]; ok && by.value.Value != "" {
				c.by = by.value.Value
			} else {
				r.wrong(it.at, "%s: by is missing", what)
			}
			if i, ok := w["at"]; ok {
				if _, err := fmt.Sscan(i.value.Value, &c.index); err != nil {
					r.wrong(at(i.value), "%s.at: a number is wanted", what)
				}
			} else {
				r.wrong(it.at, "%s: at is missing", what)
			}
		case "field":
			w := r.words(it.value, what, "of", "path")
			c.of = r.part(w, "of", it, what)
			if p, ok := w["path"]; ok {
				c.path = r.path(p.value, what+".path")
			} else {
				r.wrong(it.at, "%s: path is missing", what)
			}
		default:
			c.of = r.compute(it.value, what)
		}
	}
	return c
}

func (r *reader) part(w map[string]item, word string, it item, what string) *compute {
	if p, ok := w[word]; ok {
		return r.compute(p.value, what+"."+word)
	}
	r.wrong(it.at, "%s: %s is missing", what, word)
	return &compute{text: &text{}}
}

// names returns what the computation needs.
func (c *compute) names() []string {
	var out []string
	if c.text != nil {
		out = c.text.names()
	}
	if c.of != nil {
		out = append(out, c.of.names()...)
	}
	for _, a := range c.any {
		out = append(out, a.names()...)
	}
	return out
}

// changes reports whether it gives another value each time.
func (c *compute) changes() bool {
	return c.op == "uuid" || c.op == "random" || c.op == "now" || c.of != nil && c.of.changes() || slices.ContainsFunc(c.any, (*compute).changes)
}

// binary reports whether it gives bytes that are no text.
func (c *compute) binary() bool {
	switch c.op {
	case "sha1", "sha256", "sha512", "random":
		return true
	}
	return c.op == "first" && slices.ContainsFunc(c.any, (*compute).binary)
}

// run computes. ok is false when something that it needs is absent.
func (c *compute) run(v *values) (out []byte, ok bool, err error) {
	switch {
	case c.text != nil:
		s, ok, err := c.text.expand(v)
		return []byte(s), ok, err
	case c.op == "uuid":
		return newUUID(), true, nil
	case c.op == "random":
		b := make([]byte, c.bytes)
		_, _ = rand.Read(b) // never fails (crypto/rand)
		return b, true, nil
	case c.op == "now":
		return []byte(formatTime(time.Now().Add(c.add), c.layout)), true, nil
	case c.op == "first":
		for _, a := range c.any {
			if out, ok, err = a.run(v); err != nil || ok {
				return out, ok, err
			}
		}
		return nil, false, nil
	}
	in, ok, err := c.of.run(v)
	if err != nil || !ok {
		return nil, ok, err
	}
	out, err = c.apply(in)
	return out, err == nil, err
}

// apply is an operation on bytes. Its errors quote nothing.
func (c *compute) apply(in []byte) ([]byte, error) {
	switch c.op {
	case "base64":
		return []byte(base64.StdEncoding.EncodeToString(in)), nil
	case "base64url":
		return []byte(base64.RawURLEncoding.EncodeToString(in)), nil
	case "hex":
		return []byte(hex.EncodeToString(in)), nil
	case "from_base64":
		return decoded(base64.StdEncoding.DecodeString(string(in)))
	case "from_base64url":
		return decoded(base64.RawURLEncoding.DecodeString(strings.TrimRight(string(in), "=")))
	case "from_hex":
		return decoded(hex.DecodeString(string(in)))
	case "lower":
		return []byte(strings.ToLower(string(in))), nil
	case "upper":
		return []byte(strings.ToUpper(string(in))), nil
	case "sha1":
		s := sha1.Sum(in) //nolint:gosec // some APIs sign with it
		return s[:], nil
	case "sha256":
		s := sha256.Sum256(in)
		return s[:], nil
	case "sha512":
		s := sha512.Sum512(in)
		return s[:], nil
	case "split":
		parts := strings.Split(string(in), c.by)
		i := c.index
		if i < 0 {
			i += len(parts)
		}
		if i < 0 || i >= len(parts) {
			return nil, errors.New("split: there is no such part")
		}
		return []byte(parts[i]), nil
	case "field":
		doc, err := decodeJSON(in)
		if err != nil {
			return nil, errors.New("field: not JSON")
		}
		x, ok := c.path.find(doc)
		if !ok {
			return nil, fmt.Errorf("field: nothing at %s", c.path.as)
		}
		return []byte(textOf(x)), nil
	}
	return nil, fmt.Errorf("%s: unknown", c.op)
}

func decoded(b []byte, err error) ([]byte, error) {
	if err != nil {
		return nil, errors.New("cannot be decoded")
	}
	return b, nil
}

// newUUID is a version 4 UUID (RFC 9562 section 5.4).
func newUUID() []byte {
	var u [16]byte
	_, _ = rand.Read(u[:]) // never fails (crypto/rand)
	u[6], u[8] = u[6]&0x0f|0x40, u[8]&0x3f|0x80
	return fmt.Appendf(nil, "%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}
