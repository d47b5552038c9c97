package provider

import (
	"cmp"
	"maps"
	"slices"

	"github.com/tokenbroker/tokenbroker/broker"
)

// A flow is something that leaves the broker by a definition: what it is, and where it goes. Immutable.
type flow struct {
	use broker.Use
	// what is an input, or a value of an answer and all that it is taken by. Empty: that something goes there.
	what string
	// to is the URL that it goes to, of which the origin counts; told: an issuer, whose document says where, and of which all counts. Nil: callers.
	to   *urlTemplate
	told bool
}

// mostFlows bounds them: as many destinations one AcceptCredential may name.
const mostFlows = 128

// tooManyFlows finds what goes where, and says that it is more than somebody can accept.
func (c *checker) tooManyFlows() {
	if c.d.flows = flowing(c.d); len(c.d.flows) > mostFlows {
		c.Wrong(position{}, "definition: more than %d ways of secrets and values: each secret to each host, and each value that callers get, is one; leave some out", mostFlows)
	}
}

// flows are what leaves by a definition, while that is found. It depends on no credential: inputs stand in it by name.
type flows struct {
	d     *definition
	all   []flow
	seen  map[[4]string]bool
	takes map[string][]takenBy
}

// flowing finds all that leaves, or more than may.
func flowing(d *definition) []flow {
	f := &flows{d: d, seen: map[[4]string]bool{}, takes: map[string][]takenBy{}}
	qs := slices.Concat(d.obtain, d.refresh)
	for _, q := range qs {
		for _, t := range q.take {
			f.takes[t.name] = append(f.takes[t.name], takenBy{t, q})
		}
	}
	for _, q := range qs {
		for i, t := range q.take {
			q.take[i].by = f.digest(takenBy{t, q})
		}
	}
	shown := d.visibleToCallers()
	kept := false // the refresh token is that of a former exchange, by which file that ever was
	for i, q := range qs {
		kept = kept || i == len(d.obtain)
		to := q.target()
		f.add(flow{use: broker.Requests, to: &to})
		if q.issuer != nil {
			f.add(flow{use: broker.Requests, to: &to, told: true})
		}
		f.carried(q, kept)
		for _, t := range q.take {
			kept = kept && t.name != "refresh_token"
			if shown[t.name] {
				f.shown(takenBy{t, q})
			}
		}
	}
	if d.token != nil {
		f.add(flow{use: broker.TokenFrom, what: "token, made of inputs"})
	}
	if d.baseURL != nil {
		f.add(flow{use: broker.API, to: d.baseURL})
	}
	for _, name := range slices.Sorted(maps.Keys(d.inputs)) {
		if in := d.inputs[name]; in.secret && in.handedOut {
			f.add(flow{use: broker.Callers, what: in.called(name)})
		}
	}
	return f.all
}

func (f *flows) full() bool { return len(f.all) > mostFlows }

func (f *flows) add(x flow) {
	key := [4]string{string(x.use), x.what}
	if x.to != nil {
		key[2] = writtenAs(x.to.origin())
	}
	if x.told {
		key[3] = writtenAs(x.to.written.parts)
	}
	if !f.seen[key] && !f.full() {
		f.seen[key] = true
		f.all = append(f.all, x)
	}
}

// carried adds the secrets, grants and values of answers that a request brings to where it goes. What came from there is no news there, but
// for a refresh token that was kept.
func (f *flows) carried(q *request, kept bool) {
	to := q.target()
	add := func(what string) { f.add(flow{use: broker.Carried, what: what, to: &to, told: q.issuer != nil}) }
	names := f.d.named(f.d.sent(q))
	if q.withToken {
		names["token"] = true
	}
	address := map[string]bool{} // what an answer says of it is in the place itself
	for _, n := range q.ledBy() {
		f.d.behind(n, address)
	}
	for _, n := range slices.Sorted(maps.Keys(names)) {
		in := cmp.Or(f.d.inputs[n], f.d.parameters[n])
		switch {
		case in != nil && in.secret:
			add(in.called(n))
		case n == "refresh_token":
			add(n + f.d.seeded())
		}
		for _, t := range f.takes[n] {
			switch {
			case f.full() || address[n] || t.q.place() == q.place() && !(kept && n == "refresh_token"):
			case n == "token": // where that is taken is a flow of its own
				add(n)
			case n != "refresh_token" || !t.standard():
				add(f.taken(t))
			}
		}
	}
}

// shown adds a value of an answer that callers get.
func (f *flows) shown(t takenBy) {
	switch {
	case f.full():
	case !builtinNames[t.name]:
		f.add(flow{use: broker.Callers, what: f.taken(t)})
	case !slices.Contains([]string{"token", "token_type", "scope"}, t.name):
	case !t.standard(), t.name == "token" && len(f.takes["token"]) > f.brings():
		f.add(flow{use: broker.TokenFrom, what: f.taken(t)}) // of several answers that bring a token, callers get one: which, its place says
	case t.name == "token":
		f.add(flow{use: broker.TokenFrom, what: "token, as RFC 6749 has it"})
	}
}

// brings is how many answers bring a token where each exchange asks one.
func (f *flows) brings() int { return min(len(f.d.obtain), 1) + min(len(f.d.refresh), 1) }

// seeded is what the first refresh token is given as.
func (d *definition) seeded() string {
	for _, name := range slices.Sorted(maps.Keys(d.inputs)) {
		if d.inputs[name].seed {
			return ", first " + d.inputs[name].called(name)
		}
	}
	return ""
}

// called is what a secret input is called where it goes: what was kept as another one may come out of it.
func (in *input) called(name string) string {
	if in.was == "" {
		return name
	}
	return name + ", formerly " + in.was
}

// place is where a request goes, as it is written.
func (q *request) place() string {
	if q.issuer != nil {
		return "as told by " + writtenAs(q.issuer.written.parts)
	}
	return writtenAs(q.url.origin())
}
