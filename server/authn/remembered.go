package authn

import (
	"container/list"
	"crypto/sha256"
	"sync"
	"time"

	"github.com/tokenbroker/tokenbroker/server"
)

// rememberedMost bounds the tokens that are remembered.
const rememberedMost = 4096

// A digest is of a token.
type digest = [sha256.Size]byte

// remembered are the tokens that were verified, until they end. When there is room for no more, the oldest goes of the caller that has most: who comes
// with thousands displaces themselves. Safe for concurrent use.
type remembered struct {
	most int

	mu  sync.RWMutex
	all map[digest]*remembrance
	// callers are by identity; crowds[n] has those of n tokens, and top is the largest n.
	callers map[string]*crowd
	crowds  map[int]*list.List
	top     int
}

// A remembrance is of one token. Immutable, but for where it stands.
type remembrance struct {
	*server.Authenticated
	digest digest
	of     *crowd
	at     *list.Element // in of.tokens
}

// A crowd is one caller's tokens, the oldest first.
type crowd struct {
	identity string
	tokens   *list.List
	at       *list.Element // in crowds
}

func newRemembered(most int) *remembered {
	return &remembered{most: most, all: map[digest]*remembrance{}, callers: map[string]*crowd{}, crowds: map[int]*list.List{}}
}

// get is who was authenticated by a token, whatever has become of that since. Nil: nobody is remembered.
func (r *remembered) get(d digest) *server.Authenticated {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if found := r.all[d]; found != nil {
		return found.Authenticated
	}
	return nil
}

// put remembers who was authenticated, and returns who is by then: of two at once the first, if it still counts.
func (r *remembered) put(d digest, a *server.Authenticated) *server.Authenticated {
	r.mu.Lock()
	defer r.mu.Unlock()
	if found := r.all[d]; found != nil {
		if found.Still() == nil {
			return found.Authenticated
		}
		r.remove(found)
	}
	if len(r.all) >= r.most {
		if first := r.crowds[r.top].Front(); first != nil {
			r.remove(first.Value.(*crowd).tokens.Front().Value.(*remembrance))
		}
	}
	identity := a.Caller.Identity
	c := r.callers[identity]
	if c == nil {
		c = &crowd{identity: identity, tokens: list.New()}
		r.callers[identity] = c
	}
	r.leave(c)
	m := &remembrance{Authenticated: a, digest: d, of: c}
	m.at = c.tokens.PushBack(m)
	r.all[d] = m
	r.join(c)
	return a
}

// drop forgets a token.
func (r *remembered) drop(d digest, a *server.Authenticated) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if found := r.all[d]; found != nil && found.Authenticated == a {
		r.remove(found)
	}
}

// sweep forgets what has ended, or counts no more.
func (r *remembered) sweep(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range r.all {
		if !now.Before(m.Until) || m.Still() != nil {
			r.remove(m)
		}
	}
}

// remove takes one out; the caller holds mu.
func (r *remembered) remove(m *remembrance) {
	delete(r.all, m.digest)
	r.leave(m.of)
	m.of.tokens.Remove(m.at)
	r.join(m.of)
}

// leave and join move a caller between the crowds, before and after the number of its tokens changes; the caller holds mu.
func (r *remembered) leave(c *crowd) {
	if n := c.tokens.Len(); n > 0 {
		if r.crowds[n].Remove(c.at); r.crowds[n].Len() == 0 {
			delete(r.crowds, n)
		}
	}
}

func (r *remembered) join(c *crowd) {
	n := c.tokens.Len()
	if n == 0 {
		delete(r.callers, c.identity)
	} else {
		if r.crowds[n] == nil {
			r.crowds[n] = list.New()
		}
		c.at = r.crowds[n].PushBack(c)
		r.top = max(r.top, n)
	}
	for r.top > 0 && r.crowds[r.top] == nil { // by one at most: whoever left the top has one fewer
		r.top--
	}
}
