package provider

import (
	"maps"
	"slices"

	"github.com/tokenbroker/tokenbroker/broker"
)

// A flow is something that leaves the broker by a definition: what it is, and where it goes. Immutable.
type flow struct {
	use broker.Use
	// what is an input, a refresh token, or how all is done. Empty: that something goes there.
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
		c.Wrong(position{}, "definition: more than %d ways of secrets: each secret to each host is one; leave some out", mostFlows)
	}
}

// flowing finds which secrets leave by a definition, and where to. It depends on no credential: inputs stand in it by name. How that is done, and all
// else that is sent, taken and shown, is one flow, of all of the file that decides it.
func flowing(d *definition) (all []flow) {
	seen := map[[4]string]bool{}
	add := func(x flow) {
		key := [4]string{string(x.use), x.what}
		if x.to != nil {
			key[2] = writtenAs(x.to.origin())
		}
		if x.told {
			key[3] = writtenAs(x.to.written.parts)
		}
		if !seen[key] {
			seen[key] = true
			all = append(all, x)
		}
	}
	add(flow{use: broker.How, what: "what is sent, taken and shown, by " + d.how})
	for _, q := range slices.Concat(d.obtain, d.refresh) {
		to, told := q.target(), q.issuer != nil
		add(flow{use: broker.Requests, to: &to})
		add(flow{use: broker.Requests, to: &to, told: told})
		for _, n := range slices.Sorted(maps.Keys(d.named(d.sent(q)))) {
			switch in := d.inputs[n]; {
			case in != nil && in.secret:
				add(flow{use: broker.Carried, what: in.called(n), to: &to, told: told})
			case n == "refresh_token":
				add(flow{use: broker.Carried, what: n + d.seeded(), to: &to, told: told})
			}
		}
	}
	if d.baseURL != nil {
		add(flow{use: broker.API, to: d.baseURL})
	}
	for _, name := range slices.Sorted(maps.Keys(d.inputs)) {
		if in := d.inputs[name]; in.secret && in.handedOut {
			add(flow{use: broker.Callers, what: in.called(name)})
		}
	}
	return all
}

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
