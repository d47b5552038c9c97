package audit

import (
	"errors"
	"log/slog"
	"sync"
	"time"
)

// How much a queue keeps for a sink that is away or slow. What somebody waits for, and what came of it, may take all of it, other lines three quarters.
const (
	queueLines = 64_000
	queueBytes = 48 << 20
)

const (
	batchLines = 1_000
	batchBytes = 256 << 10
	// unsyncedBytes and unsyncedFor bound what nobody waits for and a power failure may take.
	unsyncedBytes = 1 << 20
	unsyncedFor   = time.Second

	// patience is how long anybody waits for a sink, and after how long one counts as away.
	patience  = 2 * time.Second
	backFirst = 100 * time.Millisecond
	backMost  = time.Second
)

// A sink writes lines to one place. One goroutine calls it, but for abort.
type sink interface {
	// write writes lines, and returns how many of them are written whole, also where it fails.
	write(lines []*entry) (int, error)
	// sync returns once what was written cannot be lost.
	sync() error
	// reopen opens the place anew. Where that fails, the former goes on.
	reopen() error
	close()
	// abort has write return, if that is in its power.
	abort()
}

// errAgain: what was written since the last sync is gone. It is no trouble: it can be written again at once.
var errAgain = errors.New("written lines are gone")

// An item is an entry of a queue, or a gap: lines that were not let in, for want of room. Those that follow each other are one.
type item struct {
	*entry
	gap     *missing
	refused bool
}

type missing struct {
	n           int64
	first, last time.Time
	seq         uint64
}

// A queue hands lines to a sink, in their order, and again until the sink has them.
type queue struct {
	name string
	to   sink
	log  *slog.Logger
	// tells hands on what log is told: nobody who holds mu waits for that.
	tells func(func())
	// line makes a line of a gap.
	line func(*missing) *entry
	// lazy: what nobody waits for is synced later, with more.
	lazy bool
	// wake tells of lines, kick of what a pause must not hold up.
	wake, kick chan struct{}
	over       chan struct{}

	mu    sync.Mutex
	items []item
	// written of them, the first, wait for the sync; since of the first of these.
	written      int
	writtenBytes int
	writtenSince time.Time
	bytes        int
	dropping     bool
	closing      bool
	dead         bool
	reopening    []chan error

	// busy is since when the sink is being called; zero: it is not.
	busy    time.Time
	problem error
	since   time.Time // of the problem
	told    bool
	missing int64 // lines that this sink does not have
}

func newQueue(name string, to sink, lazy bool, line func(*missing) *entry, log *slog.Logger, tells func(func())) *queue {
	return &queue{name: name, to: to, lazy: lazy, line: line, log: log, tells: tells, wake: make(chan struct{}, 1), kick: make(chan struct{}, 1), over: make(chan struct{})}
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// offer takes an entry, or notes that it is missing. It waits for nobody.
func (q *queue) offer(e *entry) {
	q.mu.Lock()
	defer q.mu.Unlock()
	most, mostBytes := queueLines, queueBytes
	if !e.first {
		most, mostBytes = most/4*3, mostBytes/4*3
		if q.dropping { // until there is room for more than one
			most, mostBytes = most/4*3, mostBytes/4*3
		}
	}
	if q.dead || len(q.items) >= most || q.bytes+len(e.data) > mostBytes {
		q.dropping = q.dropping || !e.first
		q.misses(e)
		e.refuse()
		e.drop()
		return
	}
	if !e.first {
		q.dropping = false
	}
	it := item{entry: e}
	if q.stuck(time.Now()) {
		it.refused = true
		e.refuse()
	}
	q.items = append(q.items, it)
	q.bytes += len(e.data)
	poke(q.wake)
}

// misses notes a line that is not there, behind those that are. With mu.
func (q *queue) misses(e *entry) {
	q.missing++
	if q.dead {
		return
	}
	if n := len(q.items); n > 0 && q.items[n-1].gap != nil && q.items[n-1].entry == nil {
		g := q.items[n-1].gap
		g.n, g.last, g.seq = g.n+1, e.at, e.seq
		return
	}
	q.items = append(q.items, item{gap: &missing{n: 1, first: e.at, last: e.at, seq: e.seq}})
}

// roomy reports whether there is room for as many lines as counts become at once.
func (q *queue) roomy() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return !q.dead && len(q.items) < queueLines/3 && q.bytes < queueBytes/3
}

// run ends when the queue is closed and empty, or dead.
func (q *queue) run() {
	defer close(q.over)
	defer q.to.close()
	var back time.Duration
	for {
		batch, reopening, pause, end := q.next()
		switch {
		case end:
			return
		case reopening != nil:
			q.reopened(reopening)
			back = 0
		case pause != 0:
			q.rest(pause, q.wake)
		default:
			some, well := q.step(batch)
			if some {
				back = 0
			}
			if well {
				continue
			}
			back = min(max(2*back, backFirst), backMost)
			q.rest(back, nil)
		}
	}
}

// rest waits for so long, or less. Negative: as long as nothing happens.
func (q *queue) rest(d time.Duration, wake <-chan struct{}) {
	var over <-chan time.Time
	if d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		over = t.C
	}
	select {
	case <-over:
	case <-wake:
	case <-q.kick:
	}
}

// next is what is to be done: write a batch, or sync what was written where that is empty; open the place anew; rest; or end.
func (q *queue) next() (batch []*entry, reopening []chan error, pause time.Duration, end bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.dead {
		return nil, nil, 0, true
	}
	if len(q.reopening) > 0 {
		reopening, q.reopening = q.reopening, nil
		q.busy = time.Now()
		return nil, reopening, 0, false
	}
	size := 0
	for i := q.written; i < len(q.items) && len(batch) < batchLines && size < batchBytes; i++ {
		it := &q.items[i]
		if it.entry == nil { // from now on it is a line as others are
			it.entry = q.line(it.gap)
			q.bytes += len(it.data)
		}
		batch = append(batch, it.entry)
		size += len(it.data)
	}
	if len(batch) == 0 {
		if q.written == 0 {
			return nil, nil, -1, q.closing
		}
		if !q.closing {
			if wait := unsyncedFor - time.Since(q.writtenSince); wait > 0 {
				return nil, nil, wait, false
			}
		}
	}
	q.busy = time.Now()
	return batch, nil, 0, false
}

// step writes a batch, and syncs where that is due. It reports whether some of it is written, and whether all is well.
func (q *queue) step(batch []*entry) (some, well bool) {
	n, err := 0, error(nil)
	if len(batch) > 0 {
		n, err = q.to.write(batch)
	}
	again := errors.Is(err, errAgain)
	if !again && q.wrote(n) {
		synced := q.to.sync()
		again = synced != nil
		if !again {
			q.synced(err == nil)
		} else if err == nil {
			err = synced
		}
	}
	if errors.Is(err, errAgain) {
		err = nil
	}
	q.mu.Lock()
	if again {
		q.written, q.writtenBytes = 0, 0
	}
	q.mu.Unlock()
	if err == nil && again {
		q.idle()
		return true, true
	}
	some = !again && n > 0
	q.ended(err, some)
	return some || err == nil, err == nil
}

func (q *queue) idle() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.busy = time.Time{}
}

// wrote notes that so many more are written, and reports whether a sync is due.
func (q *queue) wrote(n int) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.dead {
		return false
	}
	if q.written == 0 {
		q.writtenSince = time.Now()
	}
	due := !q.lazy || q.closing
	for _, it := range q.items[q.written : q.written+n] {
		q.writtenBytes += len(it.data)
	}
	q.written += n
	for _, it := range q.items[:q.written] {
		due = due || it.first
	}
	return q.written > 0 && (due || q.writtenBytes >= unsyncedBytes || time.Since(q.writtenSince) >= unsyncedFor)
}

// synced forgets what is written: it cannot be lost any more. Whoever waits for it finds the queue as well as it is.
func (q *queue) synced(well bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.dead {
		return
	}
	if well {
		q.well()
	}
	for i := range q.items[:q.written] {
		q.bytes -= len(q.items[i].data)
		q.items[i].ack()
		q.items[i] = item{}
	}
	if q.items = q.items[q.written:]; len(q.items) == 0 {
		q.items = nil
	}
	q.written, q.writtenBytes = 0, 0
}

// ended notes how the sink has fared, and says when trouble begins and ends. Whoever has waited long enough is told that it is in vain.
func (q *queue) ended(err error, some bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.busy = time.Time{}
	if q.dead {
		return
	}
	if err == nil {
		q.well()
		return
	}
	if q.problem == nil || some {
		q.since = time.Now()
	}
	q.problem = err
	q.tell(err)
	if time.Since(q.since) < patience {
		return
	}
	for i := q.written; i < len(q.items); i++ {
		if it := &q.items[i]; it.entry != nil && it.gap == nil && !it.refused {
			it.refused = true
			it.refuse()
		}
	}
}

// well notes that the sink takes lines. With mu.
func (q *queue) well() {
	q.busy = time.Time{}
	if q.told {
		missing := q.missing
		q.tells(func() { q.log.Info("the audit log is written again", "missing", missing) })
	}
	q.problem, q.told = nil, false
}

// tell says that trouble has begun. With mu.
func (q *queue) tell(err error) {
	if !q.told {
		q.told = true
		q.tells(func() {
			q.log.Error("the audit log cannot be written: it is tried again and again", "error", err.Error())
		})
	}
}

var errHangs = errors.New("it takes nothing: it hangs")

// stuck reports whether the sink has not come back for too long. With mu.
func (q *queue) stuck(now time.Time) bool { return !q.busy.IsZero() && now.Sub(q.busy) > patience }

// watch looks whether the sink hangs. It cannot say so itself.
func (q *queue) watch(now time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.stuck(now) {
		return
	}
	q.tell(errHangs)
	for i := range q.items {
		if it := &q.items[i]; it.entry != nil && it.gap == nil && !it.refused {
			it.refused = true
			it.refuse()
		}
	}
}

// trouble is why nothing can be written; nil: something can, as far as is known.
func (q *queue) trouble(now time.Time) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.stuck(now) {
		return errHangs
	}
	return q.problem
}

func (q *queue) reopened(waiting []chan error) {
	err := q.to.reopen()
	q.mu.Lock()
	if errors.Is(err, errAgain) {
		q.written, q.writtenBytes, err = 0, 0, nil
	} else if err == nil {
		for i := range q.items[:q.written] { // the former place was synced, and closed
			q.bytes -= len(q.items[i].data)
			q.items[i].ack()
			q.items[i] = item{}
		}
		q.items, q.written, q.writtenBytes = q.items[q.written:], 0, 0
	}
	q.busy = time.Time{}
	q.mu.Unlock()
	for _, w := range waiting {
		w <- err
	}
}

// reopen has the place opened anew, and waits for that.
func (q *queue) reopen() error {
	done := make(chan error, 1)
	q.mu.Lock()
	if q.closing || q.dead {
		q.mu.Unlock()
		return errors.New("the audit log is closed")
	}
	q.reopening = append(q.reopening, done)
	q.mu.Unlock()
	poke(q.kick)
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case err := <-done:
		return err
	case <-q.over:
		return errors.New("the audit log is closed")
	case <-t.C:
		return errors.New("the file system holds it up: it is done when that lets it")
	}
}

// finish has the queue end once it is empty.
func (q *queue) finish() {
	q.mu.Lock()
	q.closing = true
	q.mu.Unlock()
	poke(q.kick)
}

// kill ends the queue with what is in it.
func (q *queue) kill() {
	q.mu.Lock()
	q.dead = true
	left := q.items[q.written:]
	for i := range q.items { // what is written and not synced is as good as lost, until somebody finds it
		if e := q.items[i].entry; e != nil && q.items[i].gap == nil {
			e.drop()
		}
	}
	if len(left) > 0 {
		q.missing += int64(len(left))
		q.tells(func() { q.log.Error("the audit log is closed before all is written", "lines", len(left)) })
	}
	q.items, q.written = nil, 0
	q.mu.Unlock()
	poke(q.kick)
	q.to.abort()
}
