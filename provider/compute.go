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
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/tokenbroker/tokenbroker/internal/jsondoc"
	"github.com/tokenbroker/tokenbroker/internal/yamldoc"
)

// A compute is how a `let` value comes about.
type compute struct {
	at   position
	text *text
	op   string
	of   *compute
	// first and split, field, query, now, random have more
	any    []*compute
	by     string
	index  int
	path   *path
	add    time.Duration
	layout string
	bytes  int
	name   string
	source string // of a let, all of it as it stands in the file
}

func (r *reader) compute(n *yaml.Node, what string) *compute {
	c := &compute{at: at(n)}
	if n.Kind != yaml.MappingNode {
		t := r.text(n, what)
		c.text = &t
		return c
	}
	words := r.words(n, what, &computeWords)
	if len(words) != 1 {
		if len(n.Content) <= 2 && len(r.Problems) > 0 {
			return c // the unknown word has been said
		}
		r.Wrong(at(n), "%s: write exactly one of %s", what, strings.Join(computeWords.names(), ", "))
		return c
	}
	for op, it := range words {
		c.op = op
		what += "." + op
		switch op {
		case "uuid":
			if it.Value.Value != "4" {
				r.Wrong(at(it.Value), "%s: only version 4; write uuid: 4", what)
			}
		case "random":
			var err error
			if c.bytes, err = strconv.Atoi(it.Value.Value); err != nil || c.bytes < 8 || c.bytes > 64 {
				r.Wrong(at(it.Value), "%s: write a number of bytes from 8 to 64, without a unit", what)
			}
		case "first":
			if it.Value.Kind != yaml.SequenceNode || len(it.Value.Content) == 0 {
				r.Wrong(at(it.Value), "%s: a list is wanted, not %s; write the alternatives, as [\"{{a}}\", b]", what, yamldoc.KindName(it.Value))
			}
			for _, e := range it.Value.Content {
				c.any = append(c.any, r.compute(e, what))
			}
		case "now":
			w := r.words(it.Value, what, &nowWords)
			if a, ok := w["add"]; ok {
				s, negative := strings.CutPrefix(a.Value.Value, "-")
				d, good := parseDuration(s)
				if !good {
					r.Wrong(at(a.Value), "%s.add: this is not a duration; write 1h30m or -5m", what)
				}
				if c.add = d; negative {
					c.add = -d
				}
			}
			if l, ok := w["layout"]; ok {
				c.layout = r.layout(l.Value, what+".layout")
			}
		case "split":
			w := r.words(it.Value, what, &splitWords)
			c.of = r.part(w, "of", it, what)
			if by, ok := w["by"]; ok && by.Value.Value != "" {
				c.by = by.Value.Value
			} else {
				r.Wrong(it.At, "%s: by is missing; write what stands between the parts, as by: \":\"", what)
			}
			if i, ok := w["at"]; ok {
				var err error
				if c.index, err = strconv.Atoi(i.Value.Value); err != nil {
					r.Wrong(at(i.Value), "%s.at: a number is wanted; write 0 for the first part, -1 for the last", what)
				}
			} else {
				r.Wrong(it.At, "%s: at is missing; write 0 for the first part, -1 for the last", what)
			}
		case "field":
			w := r.words(it.Value, what, &fieldWords)
			c.of = r.part(w, "of", it, what)
			if p, ok := w["path"]; ok {
				c.path = r.path(p.Value, what+".path")
			} else {
				r.Wrong(it.At, "%s: path is missing; write where it is, as path: a.b", what)
			}
		case "query":
			w := r.words(it.Value, what, &queryWords)
			c.of = r.part(w, "of", it, what)
			if n, ok := w["name"]; ok {
				c.name, _ = r.Text(n.Value, what+".name")
			} else {
				r.Wrong(it.At, "%s: name is missing; write which parameter, as name: code", what)
			}
		default:
			c.of = r.compute(it.Value, what)
		}
	}
	return c
}

func (r *reader) part(w map[string]item, word string, it item, what string) *compute {
	if p, ok := w[word]; ok {
		return r.compute(p.Value, what+"."+word)
	}
	r.Wrong(it.At, "%s: %s is missing; write of what, as %s: \"{{username}}\"", what, word, word)
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
	if out, err = c.apply(in); err == nil {
		err = v.use(len(out))
	}
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
	case "from_percent":
		s, err := url.PathUnescape(string(in))
		return decoded([]byte(s), err)
	case "quote":
		s, err := quote(string(in))
		return []byte(s), err
	case "query":
		return c.queryValue(string(in))
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
		doc, err := jsondoc.Read(in)
		if err != nil {
			return nil, errors.New("field: not JSON")
		}
		x, ok := c.path.find(doc)
		if !ok {
			return nil, fmt.Errorf("field: nothing at %s", c.path.as)
		}
		return []byte(jsondoc.Text(x)), nil
	}
	return nil, fmt.Errorf("%s: unknown", c.op)
}

// queryValue is the first value of a name in a URL's query.
func (c *compute) queryValue(s string) ([]byte, error) {
	u, err := url.Parse(s)
	if err != nil {
		return nil, errors.New("query: not a URL")
	}
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, errors.New("query: the URL's query cannot be read")
	}
	if !q.Has(c.name) {
		return nil, fmt.Errorf("query: the URL has no %s", c.name)
	}
	return []byte(q.Get(c.name)), nil
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
