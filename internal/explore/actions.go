package explore

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// begin lets an action take place; s is the step at which it does, nil for the script's own.
func (w *world) begin(a Action, b int, s *step) {
	now, span := time.Now(), a.span()
	w.excuse(a, s)
	switch a.Verb() {
	case "after":
		s.after = a.number()
	case "hold":
		s.from = w.onBeat(now.Add(span))
		w.slow(b, s.from)
	case "crash":
		if !strings.HasSuffix(string(a), "done") {
			w.crash(b)
		}
	case "stop", "asleep":
		w.halt(b, now.Add(span), a.Verb() == "asleep")
	case "ahead":
		w.turnClock(b, span)
	case "away", "readonly":
		for i := range w.brokers {
			w.impede(i, now.Add(span), nil)
		}
		if a.Verb() == "readonly" {
			w.readonly = later(w.readonly, now.Add(span))
			break
		}
		w.away = later(w.away, now.Add(span))
		w.plan(span, w.returned)
	case "cut":
		w.impede(b, now.Add(span), &w.cut[b])
		w.plan(span, func() { w.views[b].Resubscribe() })
	case "down":
		w.vendor.downTo = later(w.vendor.downTo, now.Add(span))
	case "deaf":
		w.views[b].Deafen(true)
		w.plan(span, func() { w.views[b].Deafen(w.s.deaf) })
	}
	if op, ok := strings.CutPrefix(string(a), "call "); ok {
		name, at, _ := strings.Cut(op, "@")
		w.call(name, int(at[0]-'0'))
	}
}

// finish lets take place what comes after a step that was done.
func (w *world) finish(s *step) {
	switch {
	case s.do == "crash done":
		w.crash(s.b)
	case s.do.Verb() == "failover":
		w.failover(s.do.number(), s.do.span())
	case s.do.Verb() == "lapse":
		w.mu.Lock()
		before := len(w.undo)
		w.mu.Unlock()
		w.plan(time.Second, func() {
			w.mu.Lock()
			since := 1 + len(w.undo) - before
			w.mu.Unlock()
			w.failover(since, s.do.span())
		})
	}
}

// returned tells the brokers that the store is back, or another machine answers for it.
func (w *world) returned() {
	if time.Now().Before(w.away) {
		return
	}
	for _, v := range w.views {
		v.Resubscribe()
	}
}

// failover undoes the last writes, as far as they are of the last two seconds.
func (w *world) failover(n int, away time.Duration) {
	now := time.Now()
	undid := false
	w.mu.Lock()
	for n > 0 && len(w.undo) > 0 && now.Sub(w.undo[len(w.undo)-1].at) < 2*time.Second {
		u := w.undo[len(w.undo)-1]
		w.undo = w.undo[:len(w.undo)-1]
		u.restore()
		w.undone, undid = true, true
		switch u.what {
		case stepAcquire:
			w.unmarked = append(w.unmarked, marking{u.by.broker, u.at})
		case stepDrop:
			w.undropped[u.by] = now
		case stepCommit:
			w.uncommitted = true
		case stepDelete:
			w.undeleted = true
		}
		n--
	}
	w.failovers++
	if w.exists == no || now.Sub(w.since) < 3*time.Second {
		w.exists = unknown
	}
	for _, f := range w.vendor.families { // who holds a successor has to be given the time to store it again
		if undid && !f.holder.at.IsZero() {
			f.holder.at, f.holder.free, f.early = now, false, now.Add(takeoverGrace)
		}
	}
	w.mu.Unlock()
	token, known := w.stored()
	w.mu.Lock()
	for _, f := range w.vendor.families {
		if known && strings.HasPrefix(token, f.name+".") && token != fmt.Sprintf("%s.%d", f.name, f.last) {
			f.stored = false // what was, was undone
			if number, err := strconv.Atoi(token[len(f.name)+1:]); undid && err == nil {
				f.back, f.backAt = number, now
			}
		}
	}
	w.mu.Unlock()
	w.away = later(w.away, now.Add(away))
	for b := range w.brokers {
		w.impede(b, now.Add(away), nil)
	}
	w.plan(away, w.returned)
}

// impede notes that a broker cannot store anything until then.
func (w *world) impede(b int, until time.Time, also *time.Time) {
	w.slow(b, until)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.troubled[b] = later(w.troubled[b], until)
	if also != nil {
		*also = later(*also, until)
	}
	w.until = later(w.until, until.Add(10*time.Second))
}

// halt stops a broker until then. When it goes on it can ask the store, and has no excuse for relying on what it knew.
func (w *world) halt(b int, until time.Time, asleep bool) {
	w.slow(b, until)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopped[b] = later(w.stopped[b], until)
	w.until = later(w.until, until.Add(10*time.Second))
	if asleep {
		w.clocks[b].sleeps = append(w.clocks[b].sleeps, sleep{time.Now(), until})
	}
}

// slow notes that what a broker stores may not be stored before then.
func (w *world) slow(b int, until time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range w.vendor.families {
		if f.holder.broker == b && w.hadTime(f) {
			f.holder.free = true
		}
	}
	w.freeFrom[b] = later(w.freeFrom[b], until)
}

// excuse notes until when callers may have to wait because of an action.
func (w *world) excuse(a Action, s *step) {
	w.mu.Lock()
	defer w.mu.Unlock()
	in := a.span()
	unstored := in
	switch a.Verb() {
	case "late", "crash", "stop", "call term", "failover", "lapse", "cut", "away", "asleep", "readonly":
		// A lease may be left, and a marker which everybody has to see for a while before somebody takes over.
		unstored += restartAfter + exchangeTimeout + 5*time.Second + takeoverGrace
		w.patience = patience + takeoverGrace
	case "busy", "refuse", "down", "half":
		unstored += in + 3*time.Second
	case "lose", "hold":
		if s != nil && (s.what == stepAnswer || s.what == stepSend) {
			unstored += lifetime + takeoverGrace // it is uncertain then
		}
	}
	w.excused = later(w.excused, time.Now().Add(unstored))
}

// turnClock changes a machine's wall clock by so much.
func (w *world) turnClock(b int, ahead time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.clocks[b].ahead += ahead
}
