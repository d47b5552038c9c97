package audit

import (
	"context"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// TestALogThatHangsHoldsUpNobody: what is said of sinks often goes to the same pipe as one of them.
func TestALogThatHangsHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &hung{hold: make(chan struct{})}
		l, err := New(Settings{Stdout: out, Log: slog.New(slog.NewTextHandler(out, nil))})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		var ran sync.WaitGroup
		ran.Go(func() { l.Run(ctx) })
		for range 100 {
			refuses(t, l)
			l.Note(t.Context(), denial(shop, "main"))
			if _, err := l.Use(t.Context(), issue(shop, "t0")); err != nil {
				t.Error(err)
			}
			l.Status()
			passes(time.Second)
		}
		close(out.hold)
		passes(2 * time.Second)
		intends(t, l)
		stop()
		ran.Wait()
		l.Close()
		text := out.text.String()
		if strings.Count(text, "cannot be written") != 1 || strings.Count(text, "written again") != 1 {
			t.Errorf("got %s", text)
		}
	})
}

// TestAFileSystemThatHangsHoldsUpNoOtherSink, nor whoever opens the file anew.
func TestAFileSystemThatHangsHoldsUpNoOtherSink(t *testing.T) {
	l, path, m := inMoody(t, Settings{})
	hold := make(chan struct{})
	m.set(func() { m.hangs = hold })
	out := &page{}
	second := l.sink("stdout", &writerSink{to: out}, false)
	go second.run()
	for range 100 {
		intends(t, l)
	}
	for l.file.resting() { // else it is opened anew before it hangs
		runtime.Gosched()
	}
	if err := l.Reopen(); err == nil || !strings.Contains(err.Error(), "the former one goes on") {
		t.Errorf("got %v", err)
	}
	if s := l.Status(); s.Away || s.Problem != "file: "+errHangs.Error() {
		t.Errorf("got %+v", s)
	}
	m.set(func() { m.hangs = nil })
	close(hold)
	l.Close()
	inOrder(t, out.lines(t))
	inOrder(t, readFile(t, path))
}

// TestClosingIsBounded, whatever hangs: a pipe, a syslog that does not read, a disk that is full. What is left is said and counted, and no goroutine is.
func TestClosingIsBounded(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = r.Close(), w.Close() })
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	for name, s := range map[string]Settings{
		"pipe": {Stdout: w}, "syslog": {Syslog: "tcp://" + ln.Addr().String()}, "nobody": {Syslog: "unix://" + filepath.Join(t.TempDir(), "none")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var said page
			s.Log = slog.New(slog.NewTextHandler(&said, nil))
			l := an(t, s)
			for range 20_000 {
				l.Note(t.Context(), issueOf(strings.Repeat("x", 1000)))
			}
			l.Close()
			select {
			case <-l.queues[0].over:
			default:
				t.Error("it goes on")
			}
			if n := l.Status().Lost; n == 0 || !strings.Contains(said.text.String(), "closed before all is written") {
				t.Errorf("%d are lost: %s", n, said.text.String())
			}
		})
	}
}

// TestAnIntentOfACallerWhoGivesUpIsUndone.
func TestAnIntentOfACallerWhoGivesUpIsUndone(t *testing.T) {
	out := &page{}
	l := an(t, Settings{Stdout: io.MultiWriter(out)})
	ctx, stop := context.WithCancel(t.Context())
	stop()
	undone := 0
	for range 200 { // it may be written before anybody looks
		done, err := l.Intend(ctx, change())
		if err == nil {
			done(1, nil)
			continue
		}
		if undone++; broker.KindOf(err) != broker.Canceled || done != nil {
			t.Errorf("got %v", err)
		}
	}
	l.Close()
	all := out.lines(t)
	inOrder(t, all)
	for _, is := range all {
		if is.Outcome == failed {
			undone--
		}
	}
	if len(all) != 400 || undone != 0 {
		t.Errorf("%d lines, %d are not undone", len(all), undone)
	}
}

// resting reports whether the sink is not being called.
func (q *queue) resting() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.busy.IsZero()
}
