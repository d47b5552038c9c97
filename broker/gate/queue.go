package gate

import (
	"context"
	"slices"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// An Ask is an exchange that somebody wants to make.
type Ask struct {
	// Upstream is whom it asks, and not empty. Facts are those of its definition.
	Upstream string
	Facts    *broker.Facts
	// Token is what is asked for.
	Token broker.TokenKey
	// Proven: such a request is known to work, or is at least what the operator asks for. If it fails, the upstream does: what only a caller chose may
	// be what makes it fail.
	Proven bool
	// Force: it goes whatever has failed before.
	Force bool
	// Until is when it waits no longer.
	Until broker.Moment
}

// A Place is one at a gate: it waits for its turn, is in for one exchange, or was refused for a failure that is remembered, or because its turn is too
// far away. Leave it whatever has become of it. nil has left.
type Place struct {
	Ask
	gate *gate
	// done is closed when it waits no more: it is in, unless it was refused, or its turn is far.
	done    chan struct{}
	refused *broker.Remembered
	far     time.Duration
	// known is what was known of the upstream when it came in; probe: it is for the exchange that tries whether that is still so.
	known broker.Backoff
	probe bool
	left  bool
}

// Queue takes a place. a is what the store knew when it was read last.
func (g *Gates) Queue(ask Ask, a Advice) *Place {
	one := g.gate(ask.Upstream, ask.Facts)
	one.advise(a)
	w := &Place{Ask: ask, gate: one, done: make(chan struct{})}
	one.mu.Lock()
	defer one.mu.Unlock()
	one.queue.add(w)
	one.serve()
	return w
}

// LookInQueue is how often one of those who wait asks, at most, whether there is news.
const LookInQueue = 2 * time.Second

// For reports whether it is for the same token of the same upstream.
func (w *Place) For(ask Ask) bool { return w.Upstream == ask.Upstream && w.Token == ask.Token }

// Wait waits until it is in, or there is news, and reports whether it has waited at all: what was known before is old by then. It fails with the
// upstream's remembered failure while that is left alone, with UpstreamRateLimited where its turn is too far away, or has not come for as long as it
// may wait, and with ShuttingDown when ctx ends.
func (w *Place) Wait(ctx context.Context, news func() bool) (waited bool, err error) {
	if waited = w.waits(); waited {
		if again, err := w.wait(ctx, news); again || err != nil {
			return true, err
		}
	}
	switch {
	case w.refused != nil:
		return waited, w.refused.Shared(w.Token.Credential, w.Facts.Name)
	case w.far > 0:
		return waited, w.slow(w.far)
	case ctx.Err() != nil:
		return waited, w.failure(broker.ShuttingDown)
	}
	return waited, nil
}

// wait waits until it waits no more, or there is news.
func (w *Place) wait(ctx context.Context, news func() bool) (again bool, err error) {
	late := time.NewTimer(w.Until.Sub(w.gate.clock.Now().At))
	defer late.Stop()
	look := time.NewTicker(LookInQueue)
	defer look.Stop()
	for {
		select {
		case <-w.done:
			return false, nil
		case <-ctx.Done():
			return false, w.failure(broker.ShuttingDown)
		case <-late.C:
			return false, w.slow(FirstWait)
		case <-look.C:
			if news() {
				return true, nil
			}
		}
	}
}

// waits reports whether there is no answer yet.
func (w *Place) waits() bool {
	select {
	case <-w.done:
		return false
	default:
		return true
	}
}

func (w *Place) failure(kind broker.Kind) *broker.Failure {
	return &broker.Failure{Kind: kind, Credential: w.Token.Credential, Provider: w.Facts.Name}
}

func (w *Place) slow(wait time.Duration) *broker.Failure {
	f := w.failure(broker.UpstreamRateLimited)
	f.RetryAt = w.gate.clock.Now().Wall.Add(wait)
	return f
}

// Leave gives it to others, whether it waits or is in. Left already, it does nothing.
func (w *Place) Leave() {
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
type ranks [3][]*Place

func rank(p *Place) int {
	switch {
	case p.Force:
		return 0
	case p.Proven:
		return 1
	}
	return 2
}

// add has somebody wait.
func (q *queue) add(w *Place) {
	name := w.Token.Credential
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
func (q *queue) next(ready func(*Place) bool) *Place {
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
func (q *queue) remove(w *Place) {
	name, r := w.Token.Credential, rank(w)
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
