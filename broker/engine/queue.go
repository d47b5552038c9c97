package engine

import (
	"slices"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// A waiter waits for its turn at a gate. done is closed when there is an answer: it has its pass, or was refused for a failure that is remembered,
// or its turn is too far away.
type waiter struct {
	pass     *pass
	requests int       // what it takes of the declared rate
	until    time.Time // when it waits no longer
	done     chan struct{}
	refused  *broker.Remembered
	far      time.Duration
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
	if i := slices.Index(all[r], w); i > 0 {
		all[r] = slices.Delete(all[r], i, i+1)
	} else {
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
