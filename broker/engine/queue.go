package engine

import (
	"context"
	"slices"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// A waiter waits for its turn at a gate. done is closed when there is an answer: it has its pass, or was refused for a failure that is remembered,
// or its turn is too far away.
type waiter struct {
	upstream string
	pass     *pass
	requests int           // what it takes of the declared rate
	until    broker.Moment // when it waits no longer
	done     chan struct{}
	refused  *broker.Remembered
	far      time.Duration
}

// lookInQueue is how often one of those who wait looks, at most, whether another broker has what is waited for.
const lookInQueue = 2 * time.Second

// of reports whether it waits for this target's turn.
func (w *waiter) of(t target) bool { return w.upstream == t.upstream && w.pass.token == t.token }

// answered reports whether done is closed.
func (w *waiter) answered() bool {
	select {
	case <-w.done:
		return true
	default:
		return false
	}
}

// admitted reports whether the answer is its pass.
func (w *waiter) admitted() bool { return w.refused == nil && w.far == 0 }

// wait waits for an answer. errAgain: there is news, a while ago at most. It fails with UpstreamRateLimited when it has waited for as long as it may.
func (w *waiter) wait(ctx context.Context, t target, news func() bool) error {
	clock := w.pass.gate.clock
	late := time.NewTimer(w.until.Sub(clock.Now().At))
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

// result is what came of it once it is answered: its pass, or the upstream's remembered failure while that is to be left alone, or
// UpstreamRateLimited where its turn is too far away.
func (w *waiter) result(ctx context.Context, t target) (*pass, error) {
	switch {
	case w.refused != nil:
		return nil, share(w.refused, t.credential)
	case w.far > 0:
		return nil, w.slow(t, w.far)
	case ctx.Err() != nil:
		w.pass.leave()
		return nil, failureOf(t, broker.ShuttingDown)
	}
	return w.pass, nil
}

func (w *waiter) slow(t target, wait time.Duration) *broker.Failure {
	f := failureOf(t, broker.UpstreamRateLimited)
	f.RetryAt = w.pass.gate.clock.Now().Wall.Add(wait)
	return f
}

// quit gives the place back, or the pass that came of it.
func (w *waiter) quit() {
	g := w.pass.gate
	g.mu.Lock()
	waits := !w.answered()
	if waits {
		g.queue.remove(w)
		w.pass.left = true
		close(w.done)
		g.serve() // whoever comes next may not have to wait for what this one did
	}
	g.mu.Unlock()
	if !waits && w.admitted() {
		w.pass.leave()
	}
}

// A queue is who waits at a gate. Credentials take turns, whoever came first: one of which a thousand things are asked for keeps another waiting
// for one turn. Of one credential go first the tests, then what is known to work, then what was chosen. The zero value is empty. Whoever uses it
// locks.
type queue struct {
	// order are the credentials of which somebody waits, whose turn is next first.
	order []broker.CredentialName
	of    map[broker.CredentialName]*ranks
}

// ranks are who waits of one credential.
type ranks [3][]*waiter

func rank(p *pass) int {
	switch {
	case p.force:
		return 0
	case p.proven:
		return 1
	}
	return 2
}

// add has somebody wait.
func (q *queue) add(w *waiter) {
	name := w.pass.token.Credential
	if q.of == nil {
		q.of = map[broker.CredentialName]*ranks{}
	}
	all := q.of[name]
	if all == nil {
		all = &ranks{}
		q.of[name] = all
		q.order = append(q.order, name)
	}
	r := rank(w.pass)
	all[r] = append(all[r], w)
}

// next is whose turn is next of those that are ready, of which only the first of each rank is looked at; nil: nobody's.
func (q *queue) next(ready func(*pass) bool) *waiter {
	for _, name := range q.order {
		for _, waiting := range q.of[name] {
			if len(waiting) > 0 && ready(waiting[0].pass) {
				return waiting[0]
			}
		}
	}
	return nil
}

// remove takes somebody out.
func (q *queue) remove(w *waiter) {
	name, r := w.pass.token.Credential, rank(w.pass)
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
