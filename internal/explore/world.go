package explore

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/seal"
	"github.com/tokenbroker/tokenbroker/store/storetest"
)

const (
	credential = "main"
	// exchangeTimeout is the brokers' setting: a lease is two seconds longer.
	exchangeTimeout = 5 * time.Second
	// takeoverGrace is for how long whoever holds a successor may take to come back with it.
	takeoverGrace = 10 * time.Second
	bound         = 2 * time.Second
	outageGrace   = 5 * time.Minute
	// restartAfter is how long a killed broker is gone.
	restartAfter = 2 * time.Second
)

// local is a caller on this machine.
var local = broker.NewCaller(broker.Local, "", "", broker.ProofNone, "")

// A world is everything that one schedule runs.
type world struct {
	s      *scenario
	keys   *seal.Keyring
	pick   pick
	truth  *store.Store
	views  []*storetest.Replica
	vendor *vendor
	began  time.Time
	// ctx ends with the schedule; ended is closed when it is given up.
	ctx   context.Context //nolint:containedctx // the life of all callers
	end   context.CancelFunc
	ended chan struct{}
	calls sync.WaitGroup
	wake  chan struct{}

	mu      sync.Mutex
	brokers []*engine.Broker // nil: it is down
	lives   []int
	group   store.Group
	// quiet: steps go on without the scheduler. over: they go nowhere.
	quiet, over bool
	arrived     []*step
	waiting     []*step
	numbers     map[string]int
	last, seq   int
	agenda      []due
	until       time.Time
	pending     int

	stopped, cut, freeFrom, troubled []time.Time
	away, readonly                   time.Time
	undo                             []undoable
	undone                           bool
	unmarked                         []marking          // whose acquire was undone
	undropped                        map[life]time.Time // whose drops were, and when
	uncommitted, undeleted           bool
	failovers                        int
	acquired                         []time.Time
	stopping                         []bool
	clocks                           []clock

	budget
	judge
	// taken are the deviations that took place, seen all steps with what could have happened there, trace the order.
	taken []Deviation
	// doing is what was taken until now, for who watches from outside.
	doing atomic.Pointer[string]
	seen  []seen
	trace []string
	bad   []Violation
}

type due struct {
	at time.Time
	do func()
}

// An undoable is a write of a broker: what it was, and how to undo it.
type undoable struct {
	at      time.Time
	by      life
	what    string
	restore func()
}

type seen struct {
	step    string
	choices []Action
}

// A clock is a machine's: how far its wall clock is ahead, and when it sleeps.
type clock struct {
	ahead  time.Duration
	sleeps []sleep
}

// A sleep is from when to when a machine's monotonic clock stands.
type sleep struct{ from, to time.Time }

// ran is for how long the machine has run from one moment to another.
func (c clock) ran(from, to time.Time) time.Duration {
	ran, awake := to.Sub(from), from // awake is until when sleeps were counted: they may overlap
	for _, s := range c.sleeps {
		begin, end := later(s.from, awake), s.to
		if to.Before(end) {
			end = to
		}
		if end.After(begin) {
			ran -= end.Sub(begin)
			awake = end
		}
	}
	return ran
}

func newWorld(s *scenario, keys *seal.Keyring, p pick) *world {
	n := s.brokers
	w := &world{
		s: s, keys: keys, pick: p, began: time.Now(), views: storetest.NewReplicas(n), ended: make(chan struct{}), wake: make(chan struct{}, 1),
		vendor:  &vendor{s: s, families: map[string]*family{}, issued: map[string]issued{}},
		brokers: make([]*engine.Broker, n), lives: make([]int, n), numbers: map[string]int{}, undropped: map[life]time.Time{},
		stopped: make([]time.Time, n), cut: make([]time.Time, n), freeFrom: make([]time.Time, n), troubled: make([]time.Time, n),
		clocks: make([]clock, n), stopping: make([]bool, n), acquired: make([]time.Time, n), judge: newJudge(n),
	}
	w.ctx, w.end = context.WithCancel(context.Background())
	var err error
	if w.truth, err = store.New(w.views[0].Memory, keys, store.Options{}); err != nil {
		panic(err)
	}
	for b := range n {
		w.views[b].Deafen(s.deaf)
		w.start(b)
	}
	w.quiet = true
	if err := w.create(0); err != nil {
		panic(err)
	}
	w.quiet, w.undo, w.exists = false, nil, yes
	return w
}

// start begins a life of a broker.
func (w *world) start(b int) {
	up := &upstream{w, b, w.lives[b]}
	view := &backend{w.views[b], w, b, w.lives[b]}
	w.mu.Lock()
	was := w.quiet
	w.quiet = true
	w.mu.Unlock()
	began := time.Now()
	clock := broker.NewClock(func() (time.Time, time.Duration) {
		w.mu.Lock()
		defer w.mu.Unlock()
		now, c := time.Now(), w.clocks[b]
		return now.Add(c.ahead), c.ran(began, now)
	})
	st, err := store.New(view, w.keys, store.Options{Clock: clock})
	w.mu.Lock()
	w.quiet = was
	w.mu.Unlock()
	if err != nil {
		panic(err)
	}
	br, err := engine.New(engine.Settings{
		Upstream: up, Store: st, Authorizer: &guard{w, b, w.lives[b]}, Clock: clock, ExchangeTimeout: exchangeTimeout, CacheBound: bound,
		OutageGrace: outageGrace,
	})
	if err != nil {
		panic(err)
	}
	w.mu.Lock()
	w.brokers[b] = br
	w.mu.Unlock()
}

// wall is the time of day by a broker's clock.
func (w *world) wall(b int) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Now().Add(w.clocks[b].ahead)
}

// crash ends a life: nothing of it gets through any more.
func (w *world) crash(b int) {
	w.mu.Lock()
	br := w.brokers[b]
	if br == nil {
		w.mu.Unlock()
		return
	}
	w.lives[b]++
	w.brokers[b], w.stopped[b] = nil, time.Time{}
	dead := w.takeSteps(func(s *step) bool { return s.b == b })
	w.mu.Unlock()
	for _, s := range dead {
		s.release <- verdict{outcome: gone}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = br.Close(ctx)
	w.plan(restartAfter, func() { w.start(b) })
}

// takeSteps removes steps from those that wait; w.mu is held.
func (w *world) takeSteps(match func(*step) bool) (taken []*step) {
	for _, list := range []*[]*step{&w.arrived, &w.waiting} {
		*list = slices.DeleteFunc(*list, func(s *step) bool {
			if match(s) {
				taken = append(taken, s)
			}
			return match(s)
		})
	}
	return taken
}

// plan has the scheduler do something later.
func (w *world) plan(in time.Duration, do func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	at := time.Now().Add(in)
	i := 0
	for i < len(w.agenda) && !w.agenda[i].at.After(at) {
		i++
	}
	w.agenda = slices.Insert(w.agenda, i, due{at, do})
	if w.until.Before(at) {
		w.until = at
	}
}

// stored is the refresh token that is stored, of the grant that comes first.
func (w *world) stored() (token string, known bool) {
	st, err := storetest.Status(context.Background(), w.truth, credential)
	if err != nil || len(st.Grants) == 0 {
		return "", false
	}
	return st.Grants[0].RefreshToken.Reveal(), true
}

// wrote notes a change of the store and how to undo it.
func (w *world) wrote(by life, b store.Batch, restore func()) {
	token, known := "", false
	if slices.ContainsFunc(b.Puts, func(p store.Put) bool { return p.Key.Kind == "grant" }) {
		token, known = w.stored()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if b.List != nil {
		w.group = b.Group
	}
	w.undo = append(w.undo, undoable{time.Now(), by, kindOf(b), restore})
	for _, f := range w.vendor.families {
		if known && !f.stored && token == fmt.Sprintf("%s.%d", f.name, f.last) {
			f.stored, f.storedAt = true, time.Now()
		}
	}
}
