package explore

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"testing/synctest"
	"time"
)

// An outcome is how a step ends.
type outcome int

const (
	goesOn outcome = iota
	failed         // it was not done
	lost           // it was done, and nobody is told
	late           // it is done later, and nobody is told
	busy           // the upstream answers 503
	gone           // its process is dead
)

// String is what a trace says of it.
func (o outcome) String() string {
	return [...]string{"", " failed", " lost", " late", " busy", " gone"}[o]
}

type verdict struct {
	outcome outcome
	span    time.Duration
}

// A step is a point at which the scheduler decides.
type step struct {
	b, life    int
	what, name string
	do         Action
	from       time.Time
	after, seq int
	release    chan verdict
}

// park stops until the scheduler says what becomes of a step. A step whose context ends is withdrawn, because a wait that nothing
// interrupts would make a slow broker a stopped one; one whose process is stopped learns of it when the process goes on.
func (w *world) park(ctx context.Context, b, life int, what string) verdict {
	w.mu.Lock()
	switch {
	case w.over || w.lives[b] != life:
		w.mu.Unlock()
		return verdict{outcome: gone}
	case w.quiet:
		w.mu.Unlock()
		return verdict{}
	case !w.affords(b):
		w.report(hotLoop, fmt.Sprintf("broker %d: more than %d steps in one instant, or %d in all", b, mostAtOnce, mostInAll))
		w.mu.Unlock()
		<-w.ended
		return verdict{outcome: gone}
	}
	s := &step{b: b, life: life, what: what, release: make(chan verdict, 1)}
	w.arrived = append(w.arrived, s)
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
	select {
	case v := <-s.release:
		return v
	case <-ctx.Done():
	}
	w.mu.Lock()
	withdrawn := !time.Now().Before(w.stopped[b]) && len(w.takeSteps(func(o *step) bool { return o == s })) > 0
	if withdrawn && ofStore(what) { // as far as the broker knows, the store is away
		w.troubled[b] = later(w.troubled[b], time.Now())
	}
	w.mu.Unlock()
	if withdrawn {
		return verdict{outcome: failed}
	}
	return <-s.release
}

// run goes on until nothing is left to be done.
func (w *world) run() {
	for {
		synctest.Wait()
		w.mu.Lock()
		broken := len(w.bad) > 0
		w.mu.Unlock()
		if broken {
			return
		}
		w.welcome()
		if !w.act() && !w.goOn() && !w.pass() {
			return
		}
	}
}

// A beat is how finely time passes for the scheduler: a step that comes between two goes on at the second. Brokers draw many of
// their waits from a range that lies between two beats, and do the same thing each time in spite of that.
const beat = 250 * time.Millisecond

func (w *world) onBeat(t time.Time) time.Time {
	return w.began.Add((t.Sub(w.began) + beat - 1).Truncate(beat))
}

// mostNumber is up to which of its kind something can happen at a step, mostChecks up to which check.
const (
	mostNumber = 15
	mostChecks = 6
)

// welcome names the steps that have come, and lets begin what is to happen there.
func (w *world) welcome() {
	w.mu.Lock()
	news := w.arrived
	w.arrived = nil
	slices.SortStableFunc(news, func(a, b *step) int { return cmp.Or(cmp.Compare(a.b, b.b), cmp.Compare(a.what, b.what)) })
	w.waiting = append(w.waiting, news...)
	for _, s := range news {
		s.from = w.onBeat(time.Now())
	}
	w.mu.Unlock()
	for _, s := range news {
		key := fmt.Sprintf("%d %s", s.b, s.what)
		w.mu.Lock()
		w.numbers[key]++
		n := w.numbers[key]
		w.mu.Unlock()
		w.seq++
		s.name, s.seq = fmt.Sprintf("%s#%d", key, n), w.seq
		if n > mostNumber || s.what == stepCheck && n > mostChecks {
			continue // it is done again and again
		}
		choices := choicesAt(w.s, s.what, s.b)
		w.seen = append(w.seen, seen{s.name, choices})
		if s.do = w.pick(s.name, choices); s.do != "" {
			w.taken = append(w.taken, Deviation{s.name, s.do})
			doing := Schedule{w.s.name, w.taken}.String()
			w.doing.Store(&doing)
			w.begin(s.do, s.b, s)
		}
	}
}

// act does what is due.
func (w *world) act() bool {
	w.mu.Lock()
	if len(w.agenda) == 0 || time.Now().Before(w.agenda[0].at) {
		w.mu.Unlock()
		return false
	}
	do := w.agenda[0].do
	w.agenda = w.agenda[1:]
	w.mu.Unlock()
	do()
	return true
}

// goOn lets one step go on: the next of the broker that went on last, or else the one that has waited longest.
func (w *world) goOn() bool {
	now := time.Now()
	var next *step
	better := func(s *step) bool {
		if next == nil {
			return true
		}
		a, b := next.after > 0, s.after > 0
		if a != b {
			return a
		}
		if (next.b == w.last) != (s.b == w.last) {
			return s.b == w.last
		}
		return s.seq < next.seq
	}
	w.mu.Lock()
	for _, s := range w.waiting {
		if !now.Before(s.from) && !now.Before(w.stopped[s.b]) && better(s) {
			next = s
		}
	}
	if next == nil {
		w.mu.Unlock()
		return false
	}
	w.takeSteps(func(s *step) bool { return s == next })
	for _, s := range w.waiting {
		s.after = max(0, s.after-1)
	}
	w.last = next.b
	v := w.judgeStep(next, now)
	w.trace = append(w.trace, fmt.Sprintf("%v %s%s", now.Sub(w.began), next.name, v.outcome))
	w.mu.Unlock()
	next.release <- v
	synctest.Wait()
	w.finish(next)
	return true
}

// ofStore reports whether steps of a kind are calls of the store.
func ofStore(what string) bool { return what != stepSend && what != stepAnswer }

// judgeStep is how a step ends that goes on now; w.mu is held.
func (w *world) judgeStep(s *step, now time.Time) verdict {
	if s.what == stepAcquire {
		w.acquired[s.b] = now
	}
	switch verb := s.do.Verb(); {
	case ofStore(s.what) && (now.Before(w.away) || now.Before(w.cut[s.b])), slices.Contains(writes, s.what) && now.Before(w.readonly),
		verb == "fail", verb == "refuse":
		w.troubled[s.b] = later(w.troubled[s.b], now)
		return verdict{outcome: failed}
	case verb == "busy", verb == "half", s.what == stepSend && now.Before(w.vendor.downTo):
		return verdict{outcome: busy}
	case verb == "lose":
		w.troubled[s.b] = later(w.troubled[s.b], now)
		return verdict{outcome: lost}
	case verb == "late":
		w.troubled[s.b] = later(w.troubled[s.b], now)
		return verdict{late, s.do.span()}
	}
	return verdict{}
}

// pass lets time pass until something is to be done; false: nothing ever is.
func (w *world) pass() bool {
	now := time.Now()
	w.mu.Lock()
	next := w.until
	if w.pending > 0 {
		next = later(next, now.Add(5*time.Second))
	}
	if !next.After(now) && len(w.waiting) == 0 {
		w.mu.Unlock()
		return false
	}
	if len(w.agenda) > 0 && w.agenda[0].at.Before(next) {
		next = w.agenda[0].at
	}
	for _, s := range w.waiting {
		if at := later(s.from, w.stopped[s.b]); at.Before(next) || !next.After(now) {
			next = at
		}
	}
	select {
	case <-w.wake:
	default:
	}
	w.mu.Unlock()
	timer := time.NewTimer(next.Sub(now))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-w.wake:
	}
	return true
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
