package explore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
)

// callTime is how long a caller waits, and bogus an id that no token has.
const (
	callTime = 45 * time.Second
	bogus    = "0123456789abcdef0123456789abcdef"
)

// call has somebody ask a broker, now or as soon as there is one that goes.
func (w *world) call(op string, b int) {
	w.mu.Lock()
	br, life, wait := w.brokers[b], w.lives[b], time.Until(w.stopped[b])
	w.mu.Unlock()
	switch {
	case br == nil:
		w.plan(restartAfter, func() { w.call(op, b) })
		return
	case wait > 0:
		w.plan(wait, func() { w.call(op, b) })
		return
	case op == "watch":
		w.calls.Go(func() { w.watch(b) })
		return
	}
	w.mu.Lock()
	w.pending++
	w.mu.Unlock()
	w.calls.Go(func() {
		ctx, cancel := context.WithTimeout(w.ctx, callTime)
		defer cancel()
		w.do(ctx, op, br, question{b: b, life: life, began: time.Now(), request: engine.Request{Credential: credential}})
		w.mu.Lock()
		w.pending--
		w.mu.Unlock()
		select {
		case w.wake <- struct{}{}:
		default:
		}
	})
}

func (w *world) do(ctx context.Context, op string, br *engine.Broker, q question) {
	w.mu.Lock()
	id := w.lastID
	w.mu.Unlock()
	switch op {
	case "reject":
		q.request.RejectedTokenID = id
		w.refuse(id, false)
	case "stale":
		q.request.RejectedTokenID = bogus
	case "impatient":
		hurried, cancel := context.WithTimeout(ctx, time.Millisecond)
		defer cancel()
		_, _ = br.Token(hurried, local, q.request)
		return
	case "invalidate", "drop":
		w.invalidate(ctx, op, br, q, id)
		return
	case "test":
		_, _ = br.TestCredential(ctx, local, credential, broker.Selection{}, false)
		return
	case "term":
		w.term(br, q)
		return
	case "delete", "recreate", "rotate", "seed":
		w.edit(ctx, op, br)
		return
	}
	r, err := br.Token(ctx, local, q.request)
	w.judgeToken(q, r, err)
	if op == "final" {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.finalError[q.b] = err
	}
}

// refuse notes that somebody does not want a token any more, or any of those that there are.
func (w *world) refuse(id string, all bool) (tokens []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if all {
		w.changed = time.Now()
	}
	for t := range w.vendor.issued {
		if all || id != "" && w.ids[t] == id {
			w.refused[t] = true
			tokens = append(tokens, t)
		}
	}
	return tokens
}

// invalidate drops a token, or all; what is acknowledged has to be gone everywhere soon.
func (w *world) invalidate(ctx context.Context, op string, br *engine.Broker, q question, id string) {
	i := engine.Invalidation{Credential: credential, TokenID: id}
	if op == "drop" {
		i.TokenID, i.All = "", true
	}
	if id == "" && !i.All {
		return
	}
	tokens := w.refuse(id, i.All)
	done, err := br.Invalidate(ctx, local, i)
	w.mu.Lock()
	if i.All {
		w.changed = time.Now()
	}
	heard := err == nil && w.lives[q.b] == q.life && !time.Now().Before(w.stopped[q.b])
	for _, t := range tokens {
		// A count of 0 says that there was nothing to be dropped; not of what this very broker gave.
		_, before := w.dropped[t]
		if promised := i.All || done.Count > 0 || w.gave[t] == (life{q.b, q.life}); heard && promised && !before {
			w.dropped[t], w.droppedBy[t] = time.Now(), life{q.b, q.life}
			w.lacked[t] = !i.All && done.Count == 0
		}
	}
	w.mu.Unlock()
	w.probe()
}

// probe asks everybody as soon as a change has to be known.
func (w *world) probe() {
	for b := range w.brokers {
		w.plan(bound+2*slack, func() { w.call("get", b) })
		w.plan(3*bound, func() { w.call("get", b) })
	}
}

// edit changes whether and how there is a credential.
func (w *world) edit(ctx context.Context, op string, br *engine.Broker) {
	w.refuse("", true)
	w.mu.Lock()
	w.editing++
	alone, failovers := w.editing == 1, w.failovers
	w.exists = unknown
	w.mayBeGone = w.mayBeGone || op == "delete" || op == "recreate"
	w.mu.Unlock()
	err := errors.New("nothing was done")
	switch op {
	case "delete", "recreate":
		err = br.DeleteCredential(ctx, local, credential, broker.ID{})
		if op == "recreate" && err == nil {
			err = w.createBy(ctx, br)
		}
	case "rotate":
		_, err = br.RotateSecret(ctx, local, engine.Rotation{Name: credential, Secrets: map[string]broker.Secret{"client_secret": w.secret("secret")}})
	case "seed":
		_, err = br.UpdateCredential(ctx, local, engine.Change{Name: credential, Edit: w.draft})
	}
	w.mu.Lock()
	w.editing--
	if alone && w.editing == 0 && err == nil && w.failovers == failovers {
		w.exists, w.since, w.mayBeGone = yes, time.Now(), false
		if op == "delete" {
			w.exists = no
		}
	}
	w.changed = time.Now()
	w.mu.Unlock()
	w.probe()
}

// create stores the credential.
func (w *world) create(b int) error { return w.createBy(context.Background(), w.brokers[b]) }

func (w *world) createBy(ctx context.Context, br *engine.Broker) error {
	_, err := br.CreateCredential(ctx, local, engine.Change{Name: credential, Edit: w.draft})
	return err
}

// draft is the credential as somebody wants it, with a new refresh token where a human gives one.
func (w *world) draft(d *engine.Draft) error {
	d.Provider, d.Secrets = w.s.facts.Name, map[string]broker.Secret{}
	if w.s.rotates() {
		w.mu.Lock()
		_, token := w.vendor.seed(len(w.vendor.families) + 1)
		w.mu.Unlock()
		d.Secrets["refresh_token"] = broker.NewSecret(token)
	}
	return nil
}

func (w *world) secret(what string) broker.Secret {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.numbers[what]++
	return broker.NewSecret(fmt.Sprintf("%s-%d", what, w.numbers[what]))
}

// term stops a broker as an operator does, and starts it again.
func (w *world) term(br *engine.Broker, q question) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	w.mu.Lock()
	w.stopping[q.b] = true
	w.mu.Unlock()
	_ = br.Close(ctx)
	w.mu.Lock()
	w.stopping[q.b] = false
	mine := w.lives[q.b] == q.life && !w.over
	if mine {
		w.lives[q.b]++
		w.brokers[q.b] = nil
	}
	w.mu.Unlock()
	if mine {
		w.plan(restartAfter, func() { w.start(q.b) })
	}
}

// watch watches for as long as the schedule goes on, at whichever life of the broker there is.
func (w *world) watch(b int) {
	for known := ""; w.ctx.Err() == nil; {
		w.mu.Lock()
		br, life := w.brokers[b], w.lives[b]
		w.mu.Unlock()
		if br != nil {
			atOnce, instant := 0, time.Time{}
			_ = br.Watch(w.ctx, local, engine.Request{Credential: credential}, known, func(e engine.Event) error {
				if now := time.Now(); !now.Equal(instant) {
					atOnce, instant = 0, now
				}
				if atOnce++; atOnce > mostTold {
					w.mu.Lock()
					w.report(watchTells, fmt.Sprintf("of broker %d", b))
					w.mu.Unlock()
					<-w.ended
				}
				if e.Token != nil {
					known = e.Token.ID
					w.judgeToken(question{b: b, life: life, began: time.Now()}, engine.Result{Token: e.Token, Degraded: true}, nil) // it does not say
				}
				return nil
			})
		}
		select {
		case <-w.ctx.Done():
		case <-time.After(3 * time.Second):
		}
	}
}
