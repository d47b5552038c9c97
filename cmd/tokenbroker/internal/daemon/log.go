package daemon

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/tokenbroker/tokenbroker/broker/engine"
	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	"github.com/tokenbroker/tokenbroker/server"
)

// newLog writes to standard error.
func newLog(p *console.Process, level, format string) *slog.Logger {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		l = slog.LevelInfo
	}
	o := &slog.HandlerOptions{Level: l, ReplaceAttr: readable}
	if isJSON(p, format) {
		return slog.New(newBounded(traced{slog.NewJSONHandler(p.Stderr, o)}))
	}
	return slog.New(newBounded(traced{slog.NewTextHandler(p.Stderr, o)}))
}

func isJSON(p *console.Process, format string) bool {
	return format == "json" || format != "text" && !console.IsTerminal(p.Stderr)
}

// readable writes durations as people do, in JSON too.
func readable(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		return slog.String(a.Key, a.Value.Duration().Round(time.Microsecond).String())
	}
	return a
}

// A traced handler says of each line which trace it belongs to, where it belongs to one.
type traced struct{ slog.Handler }

// Handle implements slog.Handler.
func (t traced) Handle(ctx context.Context, r slog.Record) error {
	if _, id := server.RequestIDs(ctx); id != "" {
		r = r.Clone()
		r.AddAttrs(slog.String("trace_id", id))
	}
	return t.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (t traced) WithAttrs(attrs []slog.Attr) slog.Handler { return traced{t.Handler.WithAttrs(attrs)} }

// WithGroup implements slog.Handler.
func (t traced) WithGroup(name string) slog.Handler { return traced{t.Handler.WithGroup(name)} }

const (
	// linesAtOnce and linesEvery bound how often the log says the same.
	linesAtOnce = 50
	linesEvery  = time.Second
	// saidMost bounds how many kinds of lines are told apart.
	saidMost = 1000
)

// A bounded handler lets so many lines of a kind through that nobody can fill a disk with them: those of one message and, for refused calls, one
// reason. The next line of a kind says how many were left out. What is asked for by the level debug is let through, and who has changed a credential:
// such a change costs a write to the disk first.
type bounded struct {
	slog.Handler
	said *said
}

type said struct {
	mu  sync.Mutex
	all map[kindOfLine]*lines
}

type kindOfLine struct {
	level           slog.Level
	message, reason string
}

type lines struct {
	limit *rate.Limiter
	left  int
}

func newBounded(h slog.Handler) bounded { return bounded{h, &said{all: map[kindOfLine]*lines{}}} }

// Handle implements slog.Handler.
func (b bounded) Handle(ctx context.Context, r slog.Record) error {
	if r.Level < slog.LevelInfo || r.Message == engine.ChangeMessage {
		return b.Handler.Handle(ctx, r)
	}
	k := kindOfLine{level: r.Level, message: r.Message}
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "reason" && a.Value.Kind() == slog.KindString {
			k.reason = a.Value.String()
		}
		return k.reason == ""
	})
	left, ok := b.said.may(k, r.Time)
	if !ok {
		return nil
	}
	if left > 0 {
		r = r.Clone()
		r.AddAttrs(slog.Int("left_out_before", left))
	}
	return b.Handler.Handle(ctx, r)
}

// may reports whether a line is written, and how many like it were not since the last one that was.
func (s *said) may(k kindOfLine, now time.Time) (left int, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.all[k]
	if l == nil {
		if len(s.all) >= saidMost {
			clear(s.all)
		}
		l = &lines{limit: rate.NewLimiter(rate.Every(linesEvery), linesAtOnce)}
		s.all[k] = l
	}
	if !l.limit.AllowN(now, 1) {
		l.left++
		return 0, false
	}
	left, l.left = l.left, 0
	return left, true
}

// WithAttrs implements slog.Handler.
func (b bounded) WithAttrs(attrs []slog.Attr) slog.Handler {
	return bounded{b.Handler.WithAttrs(attrs), b.said}
}

// WithGroup implements slog.Handler.
func (b bounded) WithGroup(name string) slog.Handler {
	return bounded{b.Handler.WithGroup(name), b.said}
}
