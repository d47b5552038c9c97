package explore

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/store/seal"
)

// A Run is what came of a schedule.
type Run struct {
	// Schedule has the deviations that took place.
	Schedule Schedule
	// Violations are the promises that were not kept; none: all is well. After the first, a schedule is given up.
	Violations []Violation
	// Trace are the steps, in the order in which they went on.
	Trace []string
	seen  []seen
}

const (
	// endingRounds and endingPause bound how long it may take until all is well again.
	endingRounds = 20
	endingPause  = 8 * time.Second
	closing      = 30 * time.Second
	// tooLong is real time.
	tooLong = time.Minute
)

// run runs a scenario in a bubble of its own. What remains when all is over, or hangs for ever, is a violation too.
func run(t *testing.T, s *scenario, keys *seal.Keyring, p pick) (r Run) {
	t.Helper()
	var w *world
	defer func() {
		if hung := recover(); hung != nil {
			if w == nil {
				panic(hung)
			}
			w.bad = append(w.bad, Violation{Promise: hangs, Detail: fmt.Sprint(hung)})
		}
		r = Run{Schedule{s.name, w.taken}, w.bad, w.trace, w.seen}
	}()
	// A loop that neither waits nor comes by anything that counts never lets time pass: it is seen from outside only.
	started := make(chan *world, 1)
	watchdog := time.AfterFunc(tooLong, func() {
		doing := "nothing yet"
		select {
		case w := <-started:
			if d := w.doing.Load(); d != nil {
				doing = *d
			}
		default:
		}
		panic(fmt.Sprintf("%s: a schedule has taken %v; until now: %s", s.name, tooLong, doing))
	})
	defer watchdog.Stop()
	synctest.Test(t, func(*testing.T) {
		w = newWorld(s, keys, p)
		started <- w
		w.play()
	})
	return r
}

// play runs the script, waits until all is well, and ends the world.
func (w *world) play() {
	synctest.Wait()
	for _, e := range w.s.script {
		w.plan(e.at, func() {
			for _, a := range e.do {
				w.begin(a, 0, nil)
			}
		})
	}
	w.run()
	w.pick = func(string, []Action) Action { return "" }
	w.settle()
	w.close()
}

// settle sees to it that everybody gets a token in the end.
func (w *world) settle() {
	for range endingRounds {
		if len(w.bad) > 0 {
			return
		}
		for b := range w.brokers {
			w.call("final", b)
		}
		w.run()
		if w.served() {
			w.judgeStored()
			w.judgeRows()
			return
		}
		w.mu.Lock()
		w.until = time.Now().Add(endingPause)
		w.mu.Unlock()
		w.run()
	}
	w.judgeStored()
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.bad) > 0 {
		return
	}
	for b := range w.brokers {
		if err := w.finalError[b]; err != nil {
			w.report(noToken, fmt.Sprintf("at broker %d: %s", b, broker.KindOf(err).Name()))
			return
		}
	}
}

// served reports whether everybody was answered as it has to be.
func (w *world) served() bool {
	token, known := w.stored()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.s.rotates() && known {
		for _, f := range w.vendor.families {
			if f.revoked && len(token) > len(f.name) && token[:len(f.name)+1] == f.name+"." {
				return true // it is truly lost, and that was judged
			}
		}
	}
	for _, err := range w.finalError {
		if w.exists != no && err != nil && (w.exists != unknown || broker.KindOf(err) != broker.NotFound) {
			return false
		}
		if w.exists == no && (err == nil || broker.KindOf(err) != broker.NotFound) {
			return false
		}
	}
	return true
}

// judgeRows: of a deleted credential nothing is left.
func (w *world) judgeRows() {
	left := w.rows("credential", "grant", "token", "health", "history", "failure")
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.exists == no && left > 0 {
		w.report(rowsLeft, fmt.Sprintf("%d rows", left))
	}
}

// close ends everything: in peace where nothing was found, at once otherwise.
func (w *world) close() {
	w.mu.Lock()
	peace := len(w.bad) == 0
	w.quiet, w.over = true, !peace
	left := w.takeSteps(func(*step) bool { return true })
	w.mu.Unlock()
	close(w.ended)
	for _, s := range left {
		s.release <- verdict{outcome: gone}
	}
	w.end()
	for b, br := range w.brokers {
		if br == nil {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), closing)
		if !peace {
			cancel()
		}
		began := time.Now()
		err := br.Close(ctx)
		cancel()
		if peace && (err != nil || time.Since(began) > closing/2) {
			w.bad = append(w.bad, Violation{Promise: noStop, Detail: fmt.Sprintf("broker %d: %v after %v", b, err, time.Since(began))})
		}
	}
	w.calls.Wait()
}
