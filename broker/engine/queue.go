package engine

import (
	"context"
	"slices"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// A place is one at a gate: it waits for its turn, is in for one exchange, or was refused for a failure that is remembered, or because its turn is too
// far away. Leave it whatever has become of it. nil: nobody is asked, and nothing is bounded.
type place struct {
	gate     *gate
	upstream string
	// token is what is asked for. proven: such a request is known to work, or nobody chose anything of it: if it fails, the upstream does.
	token  broker.TokenKey
	proven bool
	// force: it goes whatever has failed before.
	force    bool
	requests int           // what it takes of the declared rate
	until    broker.Moment // when it waits no longer
	// done is closed when it waits no more: it is in, unless it was refused, or its turn is far.
	done    chan struct{}
	refused *broker.Remembered
	far     time.Duration
	// known is what was known of the upstream when it came in; probe: it is for the exchange that tries whether that is still so.
	known broker.Backoff
	probe bool
	left  bool
}

// queue has a target wait for its upstream's turn, which is not empty, until a moment. there is the token that is stored; nil: none. force: it goes
// whatever has failed before.
func (g *gates) queue(t target, a advice, there *broker.Issued, force bool, until broker.Moment) *place {
	one := g.gate(t.upstream, t.facts)
	one.advise(a)
	w := &place{
		gate: one, upstream: t.upstream, token: t.token, proven: proven(t, there), force: force, requests: t.facts.Requests, until: until,
		done: make(chan struct{}),
	}
	one.mu.Lock()
	defer one.mu.Unlock()
	one.queue.add(w)
	one.serve()
	return w
}

// lookInQueue is how often one of those who wait looks, at most, whether another broker has what is waited for.
const lookInQueue = 2 * time.Second

// of reports whether it is this target's.
func (w *place) of(t target) bool { return w.upstream == t.upstream && w.token == t.token }

// waits reports whether there is no answer yet.
func (w *place) waits() bool {
	select {
	case <-w.done:
		return false
	default:
		return true
	}
}

// wait waits for an answer. errAgain: there is news, a while ago at most. It fails with UpstreamRateLimited when it has waited for as long as it may.
func (w *place) wait(ctx context.Context, t target, news func() bool) error {
	late := time.NewTimer(w.until.Sub(w.gate.clock.Now().At))
	defer late.Stop()
	look := time.NewTicker(lookInQueue)
	defer look.Stop()
	for {
		select {
		case <-w.done:
			return nil
		case <-ctx.Done():
			return failureOf(t, broker.ShuttingDown)
		case <-late.C:
			return w.slow(t, backoffFirst)
		case <-look.C:
			if news() {
				return errAgain
			}
		}
	}
}

// refusal is why it is not in, once it waits no more: the upstream's remembered failure while that is to be left alone, or UpstreamRateLimited where its
// turn is too far away; nil: it is in.
func (w *place) refusal(ctx context.Context, t target) error {
	switch {
	case w.refused != nil:
		return shared(w.refused, t.credential)
	case w.far > 0:
		return w.slow(t, w.far)
	case ctx.Err() != nil:
		return failureOf(t, broker.ShuttingDown)
	}
	return nil
}

func (w *place) slow(t target, wait time.Duration) *broker.Failure {
	f := failureOf(t, broker.UpstreamRateLimited)
	f.RetryAt = w.gate.clock.Now().Wall.Add(wait)
	return f
}

// leave gives it to others, whether it waits or is in. Left already, it does nothing.
func (w *place) leave() {
	if w == nil {
		return
	}
	g := w.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case w.left:
		return
	case w.waits():
		g.queue.remove(w)
		close(w.done)
	case w.refused == nil && w.far == 0:
		g.out(w)
	}
	w.left = true
	g.serve() // whoever comes next may not have to wait for what this one did
}

// A queue is who waits at a gate. Credentials take turns, whoever came first: one of which a thousand things are asked for keeps another waiting
// for one turn. Of one credential, tests go first, then what is known to work, then what a caller chose. The zero value is empty. Whoever uses it
// locks.
type queue struct {
	// order are the credentials of which somebody waits, whose turn is next first.
	order []broker.CredentialName
	of    map[broker.CredentialName]*ranks
}

// ranks are who waits of one credential.
type ranks [3][]*place

func rank(p *place) int {
	switch {
	case p.force:
		return 0
	case p.proven:
		return 1
	}
	return 2
}

// add has somebody wait.
func (q *queue) add(w *place) {
	name := w.token.Credential
	if q.of == nil {
		q.of = map[broker.CredentialName]*ranks{}
	}
	all := q.of[name]
	if all == nil {
		all = &ranks{}
		q.of[name] = all
		q.order = append(q.order, name)
	}
	r := rank(w)
	all[r] = append(all[r], w)
}

// next is whose turn is next of those that are ready, of which only the first of each rank is looked at; nil: nobody's.
func (q *queue) next(ready func(*place) bool) *place {
	for _, name := range q.order {
		for _, waiting := range q.of[name] {
			if len(waiting) > 0 && ready(waiting[0]) {
				return waiting[0]
			}
		}
	}
	return nil
}

// remove takes somebody out.
func (q *queue) remove(w *place) {
	name, r := w.token.Credential, rank(w)
	all := q.of[name]
	switch i := slices.Index(all[r], w); {
	case i > 0:
		all[r] = slices.Delete(all[r], i, i+1)
	case i == 0:
		all[r] = all[r][1:]
	}
	if len(all[0])+len(all[1])+len(all[2]) == 0 {
		delete(q.of, name)
		q.order = slices.DeleteFunc(q.order, func(n broker.CredentialName) bool { return n == name })
	}
}

// had notes that a credential has had its turn: it is the last now.
func (q *queue) had(name broker.CredentialName) {
	if i := slices.Index(q.order, name); i >= 0 {
		q.order = append(slices.Delete(q.order, i, i+1), name)
	}
}
