package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// When the first use of a token by a caller is written.
const (
	// Counted: it is queued before the token is handed out.
	Counted = "counted"
	// Required: it cannot be lost any more.
	Required = "required"
)

// Settings are what a Log is made of. It takes one sink at least: File, Stdout, Syslog.
type Settings struct {
	// File is a path. The file is opened for appending, and made with mode 0600. It has to be a regular one that nobody but its owner may write.
	File string
	// Stdout is the standard output, or what takes its place. Nil: not there. A write to a closed pipe ends a process, unless it ignores SIGPIPE.
	Stdout io.Writer
	// Syslog is local (the system's), tcp://host:port or unix:///path.
	Syslog string
	// Issuance is Counted or Required. Default: Counted.
	Issuance string
	// Policy returns the digest of the policy that decides. Nil: there is none.
	Policy func() string
	// Request returns the ids of a call. Nil: there are none.
	Request func(context.Context) (requestID, traceID string)
	// Log is told of the sinks' trouble, once when it begins and once when it ends, and of nothing that is in the audit log. Nil: silent.
	Log *slog.Logger
	// Now is the wall clock. Default: time.Now.
	Now func() time.Time
}

// A Log keeps the audit log. Safe for concurrent use.
type Log struct {
	s    Settings
	boot string
	file *queue // one of queues; nil: none is a file

	queues []*queue
	teller *teller
	lost   atomic.Int64

	uses    uses
	denials denials

	// mu is held while a line gets its number, so that lines are everywhere in the order of their numbers.
	mu     sync.Mutex
	seq    uint64
	closed bool

	closing sync.Once
}

// New opens what lines are written to. It fails if there is nothing to write to, or the file cannot be; a syslog may come later. Whoever has made it
// closes it.
func New(s Settings) (*Log, error) {
	l, err := prepare(s)
	if err == nil {
		l.start()
	}
	return l, err
}

// prepare is New, and nothing runs yet.
func prepare(s Settings) (*Log, error) {
	if s.Log == nil {
		s.Log = slog.New(slog.DiscardHandler)
	}
	if s.Now == nil {
		s.Now = time.Now
	}
	switch s.Issuance {
	case "":
		s.Issuance = Counted
	case Counted, Required:
	default:
		return nil, fmt.Errorf("the audit log's issuance is %s or %s", Counted, Required)
	}
	l := &Log{s: s, boot: broker.NewID().String(), teller: newTeller()}
	l.uses.by = map[pair]*use{}
	l.denials.by, l.denials.are, l.denials.beyond = map[who]*denier{}, map[broker.AuditEvent]int{}, map[broker.AuditEvent]tally{}
	if s.Syslog != "" {
		to, err := newSyslogSink(s.Syslog)
		if err != nil {
			return nil, fmt.Errorf("the audit log's syslog: %w", err)
		}
		l.sink("syslog", to, false)
	}
	if s.Stdout != nil {
		l.sink("stdout", &writerSink{to: s.Stdout}, false)
	}
	if s.File != "" { // the last that can fail: it is open
		f, err := openFileSink(s.File, openLog)
		if err != nil {
			return nil, fmt.Errorf("the audit log's file %s cannot be opened for appending: %w", s.File, err)
		}
		l.file = l.sink("file", f, true)
	}
	if len(l.queues) == 0 {
		return nil, errors.New("the audit log has nowhere to go: give it a file, standard output or a syslog")
	}
	return l, nil
}

func (l *Log) sink(name string, to sink, lazy bool) *queue {
	q := newQueue(name, to, lazy, l.gap, l.s.Log.With("sink", name), l.teller.say)
	l.queues = append(l.queues, q)
	return q
}

func (l *Log) start() {
	go l.teller.run()
	for _, q := range l.queues {
		go q.run()
	}
}

// gap is the line of lines that a sink does not have. Its number is that of the last of them.
func (l *Log) gap(m *missing) *entry {
	line := line{Event: gap, Outcome: failed}
	line.counts(m.n, m.first, m.last)
	now := l.s.Now()
	return &entry{data: append(head(now, l.boot, m.seq), line.tail()...), at: now, event: gap, grave: true, seq: m.seq, sinks: int32(len(l.queues))} //nolint:gosec // three at most
}

// How a line is written.
const (
	// queued lines wait for nobody, and nobody for them.
	queued = iota
	// first lines take the room that others may not, and are synced at once; awaited ones are those that somebody waits for.
	first
	awaited
)

// write gives a line its number, and hands it to each sink's queue.
func (l *Log) write(is *line, how int) *entry {
	tail := is.tail()
	e := &entry{event: is.Event, grave: is.Outcome == denied || is.Outcome == failed, first: how >= first, sinks: int32(len(l.queues)), lost: func() { l.lost.Add(1) }} //nolint:gosec // three at most
	e.open.Store(e.sinks)
	if how == awaited {
		e.acked, e.hopeless = make(chan struct{}), make(chan struct{})
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seq++
	e.seq, e.at = l.seq, l.s.Now()
	e.data = append(head(e.at, l.boot, l.seq), tail...)
	if l.closed {
		for range l.queues {
			e.refuse()
			e.drop()
		}
		return e
	}
	for _, q := range l.queues {
		q.offer(e)
	}
	return e
}

// wait returns once a sink has the line for good.
func (l *Log) wait(ctx context.Context, e *entry) error {
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case <-e.acked:
		return nil
	case <-e.hopeless:
	case <-ctx.Done():
	case <-t.C:
	}
	select {
	case <-e.acked:
		return nil
	default:
	}
	if errors.Is(ctx.Err(), context.Canceled) { // nobody waits for it any more: that says nothing of the sinks
		return &broker.Failure{Kind: broker.Canceled}
	}
	return &broker.Failure{Kind: broker.AuditUnavailable, Detail: l.advice()}
}

// advice says what an operator has to do.
func (l *Log) advice() string {
	all := make([]string, 0, len(l.queues))
	for _, q := range l.queues {
		all = append(all, q.name)
	}
	return "its " + strings.Join(all, " and its ") + " took no line in time: the broker's log says why; once one of them takes lines again, so does the broker"
}

// lineOf is a record's line, with what the call and the policy add to it.
func (l *Log) lineOf(ctx context.Context, r broker.AuditRecord) line {
	var request, trace, policy string
	if l.s.Request != nil {
		request, trace = l.s.Request(ctx)
	}
	if l.s.Policy != nil && (r.Caller != nil || r.Event == broker.AuditPolicy) { // what the broker does by itself is not decided by one
		policy = l.s.Policy()
	}
	return lineOf(r, request, trace, policy)
}

// Intend implements broker.Auditor.
func (l *Log) Intend(ctx context.Context, r broker.AuditRecord) (done func(count int, err error), err error) {
	is := l.lineOf(ctx, r)
	is.Outcome, is.Reason = intent, ""
	e := l.write(&is, awaited)
	var once sync.Once
	done = func(count int, err error) {
		once.Do(func() {
			after := is
			after.Outcome, after.Of, after.Tokens = ok, e.seq, count
			after.ends(err)
			l.write(&after, first)
		})
	}
	if err := l.wait(ctx, e); err != nil {
		if !e.gone() { // it may be written all the same
			done(0, err)
		}
		return nil, err
	}
	return done, nil
}

// Note implements broker.Auditor.
func (l *Log) Note(ctx context.Context, r broker.AuditRecord) {
	if (r.Event == broker.AuditDenied || r.Event == broker.AuditUnauthenticated) && !l.denials.first(r, l.s.Now()) {
		return
	}
	is := l.lineOf(ctx, r)
	l.write(&is, queued)
}

// Run writes counts each minute, and looks after sinks that hang, until ctx ends.
func (l *Log) Run(ctx context.Context) {
	second := time.NewTicker(time.Second)
	defer second.Stop()
	minute := time.NewTicker(time.Minute)
	defer minute.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-second.C:
			for _, q := range l.queues {
				q.watch(time.Now())
			}
		case <-minute.C:
			l.flush(false)
		}
	}
}

// flush writes what is counted. Where there is no room it goes on counting, unless it is for the last time.
func (l *Log) flush(last bool) {
	roomy := func() bool { return last || slices.ContainsFunc(l.queues, (*queue).roomy) }
	if !roomy() {
		return
	}
	now := l.s.Now()
	for _, is := range l.uses.flush(now, last) {
		l.write(&is, queued)
	}
	for _, w := range l.denials.all() {
		if !roomy() {
			return
		}
		for _, is := range l.denials.take(w) {
			l.write(&is, queued)
		}
	}
	for _, is := range l.denials.others() {
		l.write(&is, queued)
	}
}

// Reopen opens the file anew, which somebody has moved away, and then closes the former one. Where that fails, the former one goes on. Without a file it
// does nothing.
func (l *Log) Reopen() error {
	if l.file == nil {
		return nil
	}
	if err := l.file.reopen(); err != nil {
		return fmt.Errorf("the audit log's file %s is not opened anew, and the former one goes on: %w", l.s.File, err)
	}
	return nil
}

// Close writes what is counted and queued, for as long as anybody waits for a sink, and closes the sinks. Lines after it are lost.
func (l *Log) Close() {
	l.closing.Do(func() {
		l.flush(true)
		l.mu.Lock()
		l.closed = true
		l.mu.Unlock()
		for _, q := range l.queues {
			q.finish()
		}
		t := time.NewTimer(patience)
		defer t.Stop()
		late := false
		for _, q := range l.queues {
			if !late {
				select {
				case <-q.over:
				case <-t.C:
					late = true
				}
			}
		}
		if late {
			for _, q := range l.queues {
				q.kill()
			}
		}
		l.teller.finish()
		t.Reset(patience / 4)
		ends := []<-chan struct{}{l.teller.over}
		for _, q := range l.queues {
			ends = append(ends, q.over)
		}
		for _, over := range ends {
			select {
			case <-over:
			case <-t.C:
				return // what hangs in the system cannot be ended
			}
		}
	})
}

// Status is how a Log is doing.
type Status struct {
	// Away: nothing can be written, so that nothing can be changed.
	Away bool
	// Lost is how many lines no sink has.
	Lost int64
	// Problem says which sink is not well, and why; empty: all are.
	Problem string
}

// Status says how the log is doing.
func (l *Log) Status() Status {
	s := Status{Away: true, Lost: l.lost.Load()}
	now := time.Now()
	var problems []string
	for _, q := range l.queues {
		if err := q.trouble(now); err != nil {
			problems = append(problems, q.name+": "+err.Error())
		} else {
			s.Away = false
		}
	}
	s.Problem = strings.Join(problems, "; ")
	return s
}

var _ broker.Auditor = (*Log)(nil)
