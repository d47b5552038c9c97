package policy

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/tokenbroker/tokenbroker/broker"
)

// An entry is callers that have something in common: all that it says.
type entry struct {
	kind broker.CallerKind
	// authority is empty for Unix and Local.
	authority string
	// name is what a caller's is held against; of a Local one it is its listener.
	name patterns
	// via is the proxy that calls for them; empty: they call themselves.
	via string
	// anyWay: it does not matter who calls for them.
	anyWay bool
	// proof, listener and gid are empty where they do not matter.
	proof    broker.Proof
	listener string
	gid      string
	// claims are those of a JWT that it must have.
	claims []claim
}

// A claim is one that a token has, with a value that matches: of a list, one of its texts.
type claim struct {
	name   string
	values patterns
}

func (c *claim) matches(values []string) bool {
	return c.values.any && len(values) > 0 || slices.ContainsFunc(values, c.values.matches)
}

func (e *entry) matches(c *broker.Caller) bool {
	if c.Kind != e.kind || c.Authority != e.authority || c.Via != e.via && !e.anyWay || e.proof != "" && c.Proof != e.proof || e.listener != "" && c.Listener != e.listener {
		return false
	}
	if e.gid != "" && !slices.Contains(c.Attributes["gid"], e.gid) {
		return false
	}
	for i := range e.claims {
		if !e.claims[i].matches(c.Attributes[e.claims[i].name]) {
			return false
		}
	}
	name := c.Name
	switch c.Kind {
	case broker.DNS:
		name = lower(name)
	case broker.Local:
		name = c.Listener
	default:
	}
	return name != "" && e.name.matches(name)
}

// A group is callers under one name: any of its entries.
type group struct {
	name    string
	entries []entry
	at      position
	used    bool
}

// A view is what the policy has for one caller.
type view struct {
	blocked bool
	// rules are those whose callers it is one of, as they stand in the file.
	rules []*rule
}

func (p *Policy) look(c *broker.Caller) *view {
	v := &view{}
	matched := func(e entry) bool { return e.matches(c) }
	for on := c; on != nil; on = on.Proxy { // a proxy that is blocked calls for nobody
		v.blocked = v.blocked || slices.ContainsFunc(p.blocked, func(e entry) bool { return e.matches(on) })
	}
	if v.blocked {
		return v
	}
	in := make([]bool, len(p.groups))
	for i := range p.groups {
		in[i] = slices.ContainsFunc(p.groups[i].entries, matched)
	}
	for _, r := range p.rules {
		if slices.ContainsFunc(r.callers, func(g int) bool { return in[g] }) {
			v.rules = append(v.rules, r)
		}
	}
	return v
}

// A who is all of a caller that entries look at. Two callers with the same have the same rules.
type who struct {
	kind                           broker.CallerKind
	authority, name, via, listener string
	proof                          broker.Proof
	// proxies are the identities of those that call for them.
	proxies string
	// attributes are those that entries of this policy look at, each with its values, every text with its length.
	attributes string
}

func (p *Policy) whoIs(c *broker.Caller) who {
	w := who{kind: c.Kind, authority: c.Authority, name: c.Name, via: c.Via, listener: c.Listener, proof: c.Proof}
	for by := c.Proxy; by != nil; by = by.Proxy {
		w.proxies += by.Identity + " "
	}
	if len(c.Attributes) == 0 {
		return w
	}
	if gids := c.Attributes["gid"]; c.Kind == broker.Unix && len(gids) == 1 {
		w.attributes = gids[0]
		return w
	}
	var b strings.Builder
	for _, name := range p.attributes {
		for _, v := range c.Attributes[name] {
			fmt.Fprintf(&b, "%d:%s", len(v), v)
		}
		b.WriteByte(';')
	}
	w.attributes = b.String()
	return w
}

// mostViews bounds the callers that are remembered. Beyond it all are forgotten, and looked at again.
const mostViews = 4096

// views remember what the policy has for a caller. They hold no caller, so that one that is gone is.
type views struct {
	mu  sync.RWMutex
	all map[who]*view
}

func (p *Policy) viewOf(c *broker.Caller) *view {
	w := p.whoIs(c)
	p.views.mu.RLock()
	v := p.views.all[w]
	p.views.mu.RUnlock()
	if v != nil {
		return v
	}
	v = p.look(c)
	p.views.mu.Lock()
	defer p.views.mu.Unlock()
	if p.views.all == nil || len(p.views.all) >= mostViews {
		p.views.all = map[who]*view{}
	}
	p.views.all[w] = v
	return v
}
