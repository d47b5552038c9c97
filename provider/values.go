package provider

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/jsondoc"
)

// A value is what a name stands for. The zero value is absent.
type value struct {
	// v is a string, json.Number, bool, []any, map[string]any, or a json.RawMessage that stands for a large one of these two; nil: absent. A text that is
	// this name alone keeps the type in JSON.
	v any
	// secret: it is shown to nobody.
	secret bool
}

func (v value) absent() bool { return v.v == nil }

// String is the value as text. It reveals secrets: for the wire only.
func (v value) String() string { return jsondoc.Text(v.v) }

// Format implements fmt.Formatter: no verb reveals.
func (v value) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("[value]")) }

// values are the names that hold in one run: fixed ones, and those that are computed at first use.
type values struct {
	fixed map[string]value
	let   map[string]*compute
	busy  map[string]bool
	// users are the computations that name a name; nil: nobody has asked. former are values that names had before.
	users  map[string][]string
	former []valueOf
	// used are the bytes of the values that were used until now.
	used int
	// looked is how long answers were looked into until now; from longestLook on they are not any more, and over says that one was not. urgent: it is a
	// refresh token, which has a time of its own, looked for urgently.
	looked, urgently time.Duration
	urgent, over     bool
	// token is the last one whose claims were read, and claims are those.
	token  string
	claims claims
}

// mostUsed bounds what a run makes of values, in bytes: a few lines that name each other twice would be any number of them.
const mostUsed = 4 << 20

var errTooLong = fmt.Errorf("its values, as often as they are named, are together longer than %d bytes", mostUsed)

func (v *values) use(bytes int) error {
	if v.used += bytes; v.used > mostUsed {
		return errTooLong
	}
	return nil
}

// What looking for expressions and claims in answers may take, in a run; longestUrgent is for refresh tokens, and does not end with the exchange's time: what
// was presented for them may be spent. The search that is under way then ends by itself: an expression takes about a second in the largest answer.
const (
	longestLook   = 2 * time.Second
	longestUrgent = 10 * time.Second
)

// search looks for an expression in a value as text, unless the time for that is over; nil: it is not there.
func (v *values) search(x *regexp.Regexp, in any) (found []string) {
	v.timed(func() { found = x.FindStringSubmatch(jsondoc.Text(in)) })
	return found
}

// timed looks for something, unless the time for that is over.
func (v *values) timed(look func()) {
	took, most := &v.looked, longestLook
	if v.urgent {
		took, most = &v.urgently, longestUrgent
	}
	if *took >= most {
		v.over = true
		return
	}
	began := time.Now()
	look()
	*took += time.Since(began)
}

// claimsIn are those of a token, which is read once, unless the time for looking is over.
func (v *values) claimsIn(token string) (c claims) {
	if token == v.token {
		return v.claims
	}
	v.timed(func() { c = v.claimsOf(token) })
	return c
}

// claimsOf is claimsIn, whatever the time.
func (v *values) claimsOf(token string) claims {
	if token != v.token {
		v.token, v.claims = token, claimsOf(token)
	}
	return v.claims
}

func newValues(let map[string]*compute) *values {
	return &values{fixed: map[string]value{}, let: let, busy: map[string]bool{}}
}

func (v *values) set(name string, x any, secret bool) { v.fixed[name] = value{v: x, secret: secret} }

// take gives a name what an answer brought. What was computed of its former value is computed anew: a name has the value of the last answer that
// brought it, also where it goes by another name.
func (v *values) take(name string, x value) {
	if v.users == nil {
		v.users = map[string][]string{}
		for n, c := range v.let {
			for _, m := range c.names() {
				v.users[m] = append(v.users[m], n)
			}
		}
	}
	seen, next := map[string]bool{}, []string{name}
	for len(next) > 0 {
		n := next[0]
		if next = next[1:]; seen[n] {
			continue
		}
		seen[n] = true
		if was, there := v.fixed[n]; there {
			v.former = append(v.former, valueOf{n, was})
			delete(v.fixed, n)
		}
		next = append(next, v.users[n]...)
	}
	v.fixed[name] = x
}

// A valueOf is one that a name has, or had.
type valueOf struct {
	name string
	value
}

// all are the values that names have and had, the longest first.
func (v *values) all() []valueOf {
	all := slices.Clone(v.former)
	for name, x := range v.fixed {
		all = append(all, valueOf{name, x})
	}
	slices.SortFunc(all, func(a, b valueOf) int {
		x, y := a.String(), b.String()
		return cmp.Or(cmp.Compare(len(y), len(x)), cmp.Compare(a.name, b.name), cmp.Compare(x, y))
	})
	return all
}

// get returns the value of a name, for use. A name that nothing gives is absent: that every name is declared was checked when the
// definition was loaded.
func (v *values) get(name string) (value, error) {
	if x, ok := v.fixed[name]; ok {
		return x, v.use(len(x.String()))
	}
	c, ok := v.let[name]
	if !ok {
		return value{}, nil
	}
	if v.busy[name] {
		return value{}, fmt.Errorf("%s is computed from itself", name)
	}
	v.busy[name] = true
	defer delete(v.busy, name)
	b, ok, err := c.run(v)
	if errors.Is(err, errTooLong) {
		return value{}, err
	}
	if err != nil {
		return value{}, &badValue{fmt.Sprintf("compute %s: %v", name, err), []string{name}}
	}
	x := value{secret: true}
	if ok {
		x.v = string(b)
	}
	v.fixed[name] = x
	return x, v.use(len(b))
}

// give sets what a credential and a selection bring.
func (d *definition) give(v *values, c broker.Credential, sel broker.Selection) {
	for name, in := range d.inputs {
		s := in.affixed(in.stored(c, name))
		if s == "" {
			s = in.byDefault(v)
		}
		if s == "" {
			v.set(name, nil, in.secret)
			continue
		}
		v.set(name, in.typed(s), in.secret)
	}
	params := sel.Parameters.Map() // affixes were cut off when they were selected
	for name, in := range d.parameters {
		if s := params[name]; s != "" {
			v.set(name, in.typed(s), in.secret)
		} else {
			v.set(name, nil, in.secret)
		}
	}
	v.set("scope", nil, false)
	if d.scopes != nil && !sel.Scopes.Empty() {
		v.set("scope", joinSet(sel.Scopes, d.scopes.join), false)
	}
	v.set("audience", nil, false)
	if sel.Audience != "" {
		v.set("audience", sel.Audience, false)
	}
	v.set("resources", nil, false)
	if !sel.Resources.Empty() {
		var l []any
		for _, r := range sel.Resources.List() {
			l = append(l, r)
		}
		v.set("resources", l, false)
	}
}
