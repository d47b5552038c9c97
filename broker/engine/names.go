package engine

import (
	"math"
	"slices"
	"sync/atomic"

	"github.com/tokenbroker/tokenbroker/broker"
)

// A lead is what a name leads to, by the credential as it was then: by another one it may have other defaults, and be another token's.
type lead struct {
	*slot
	credential broker.ID // Credential.Revision
}

// A slot is where the current entry of one of a credential's tokens is, for all names that callers have for it. One that nothing leads to any more has
// none, or one that is not served by it.
type slot struct {
	entry atomic.Pointer[entry]
	// names are how many lead to it, and weighed is the weight of the entry when one was last led; guarded by cache.mu.
	names   int
	weighed uint32
}

// TokenBytes is what a token in the cache takes at most with all that is kept beside it, as most are: of 200 bytes it takes 4.2 KiB, of 1.5 KiB about twice that.
// Larger ones count for as many as there is room for in their place.
const TokenBytes = 8 << 10

// bytesOf is about what an offer takes: what the upstream gave, and what callers get, which is there by itself and as the bytes of three answers.
func bytesOf(a offer) (n int) {
	for name, v := range a.issued.Values {
		n += len(name) + len(v.Reveal())
	}
	const copies = 4
	n += copies * len(a.token.AccessToken.Reveal())
	for _, f := range slices.Concat(a.token.Headers, a.token.Cookies, a.token.Query) {
		n += copies * (len(f.Name) + len(f.Value.Reveal()))
	}
	return n
}

// weigh is for how many usual tokens a name counts, with what it leads to.
func weigh(name lookup, s lead) uint32 {
	bytes := len(name.name)
	for _, text := range name.sel.Canonical() {
		bytes += len(text)
	}
	if e := s.entry.Load(); e != nil {
		bytes += e.bytes
	}
	return uint32(min(1+bytes/TokenBytes, math.MaxInt32))
}

// current is the entry that the name leads to; nil: there is none, or it is of the credential as it is by now, of which nobody has said where the name leads.
func (l lead) current() *entry {
	e := l.entry.Load()
	if e == nil || e.credential.Revision != l.credential {
		return nil
	}
	return e
}

// lead has a target's name lead to a slot; the caller holds mu. Each time is ended by one call of misled.
func (c *cache) lead(t target, s *slot) {
	to := lead{s, t.credential.Revision}
	weighs := weigh(t.lookup, to)
	if there, ok := c.names.GetEntryQuietly(t.lookup); ok && there.Value == to && s.weighed == weighs {
		return
	}
	s.weighed = weighs
	s.names++
	c.names.Set(t.lookup, to)
}

// peek returns the entry for a key as it is, however long ago it was confirmed; nil: there is none, or it has ended.
func (c *cache) peek(key lookup) *entry {
	there, ok := c.names.GetEntryQuietly(key)
	if !ok {
		return nil
	}
	return c.lasting(there.Value.current())
}

// peekFor is peek of a target, by whatever name it is there; that of the target leads there from now on.
func (c *cache) peekFor(t target) *entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.lines[t.name]
	if l == nil || l.slots[t.token.Token] == nil {
		return nil
	}
	c.lead(t, l.slots[t.token.Token])
	return c.lasting(l.has(t.token.Token))
}

func (c *cache) lasting(e *entry) *entry {
	if e == nil || e.dropped.Load() || e.ended(c.clock.Now()) {
		return nil
	}
	return e
}

// misled is called when a name has led to a slot and does so no more, for whatever reason.
func (c *cache) misled(s *slot) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.names--
	if e := s.entry.Load(); e != nil && s.names == 0 {
		c.leave(e)
		c.tidy(e.line)
	}
}
