package server_test

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/server"
)

// pipes is a listener on connections within the process. Those of bufconn begin with timers that are due at once, two hundred of which, in a
// synctest bubble and under the race detector, end Go's runtime.
type pipes struct {
	all    chan net.Conn
	closed chan struct{}
}

func newPipes() *pipes { return &pipes{make(chan net.Conn), make(chan struct{})} }

func (p *pipes) dial() (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case p.all <- there:
		return here, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.all:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	close(p.closed)
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipes", Net: "unix"} }

// A counting listener counts the connections that are open.
type counting struct {
	net.Listener
	open, most atomic.Int64
}

type counted struct {
	net.Conn
	l      *counting
	closed atomic.Bool
}

func (l *counting) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	n := l.open.Add(1)
	l.most.Store(max(l.most.Load(), n))
	return &counted{Conn: c, l: l}, nil
}

func (c *counted) Close() error {
	if !c.closed.Swap(true) {
		c.l.open.Add(-1)
	}
	return c.Conn.Close()
}

// TestIdleConnectionsLeaveRoomForAScrape: those that say nothing, that say half of it, that read nothing and that have had their answer take a bounded
// number of descriptors, and no one for long. Nobody waits long for those whose request is not whole.
func TestIdleConnectionsLeaveRoomForAScrape(t *testing.T) {
	const request = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
	for how, sent := range map[string]string{
		"nothing": "", "half": request[:20], "a body that does not come": "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n", "all": request,
	} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pipe := newPipes()
				l := &counting{Listener: pipe}
				ctx, cancel := context.WithCancel(t.Context())
				served := make(chan error, 1)
				answer := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 64<<10)) })
				go func() { served <- server.ServeHTTP(ctx, l, answer, slog.New(slog.DiscardHandler)) }()
				for range 200 {
					go func() {
						c, err := pipe.dial()
						if err != nil {
							return
						}
						for _, b := range []byte(sent) { // it drips
							_, _ = c.Write([]byte{b})
						}
						<-ctx.Done()
						_ = c.Close()
					}()
				}
				synctest.Wait()
				if n := l.most.Load(); n > 32+1 { // and one that comes
					t.Errorf("%d connections at once", n)
				}
				began := time.Now()
				c, err := pipe.dial()
				if err != nil {
					t.Fatal(err)
				}
				go func() { _, _ = io.WriteString(c, request) }()
				res, err := http.ReadResponse(bufio.NewReader(c), nil)
				if err != nil {
					t.Fatal(err)
				}
				if n, err := io.Copy(io.Discard, res.Body); err != nil || n != 64<<10 {
					t.Errorf("got %d bytes, %v", n, err)
				}
				whole := strings.HasSuffix(sent, "\r\n\r\n") // and is answered, but nobody reads it
				if waited := time.Since(began); waited > time.Second && !whole || waited > 15*time.Second {
					t.Errorf("it waited for %v", waited)
				}
				_ = res.Body.Close()
				_ = c.Close()
				cancel()
				if err := <-served; err != nil {
					t.Error(err)
				}
				<-time.After(time.Minute)
			})
		})
	}
}

// TestManyScrapesAtOnceAreAllAnswered: one that is answered makes room for nobody while it does not take long.
func TestManyScrapesAtOnceAreAllAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pipe := newPipes()
		ctx, cancel := context.WithCancel(t.Context())
		served := make(chan error, 1)
		slow := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			<-time.After(time.Second)
			_, _ = io.WriteString(w, "all is well")
		})
		go func() { served <- server.ServeHTTP(ctx, pipe, slow, slog.New(slog.DiscardHandler)) }()
		var scrapes sync.WaitGroup
		for range 300 {
			scrapes.Go(func() {
				c, err := pipe.dial()
				if err != nil {
					t.Error(err)
					return
				}
				defer func() { _ = c.Close() }()
				go func() { _, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n") }()
				if res, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || res.StatusCode != http.StatusOK {
					t.Errorf("got %v", err)
				} else {
					_ = res.Body.Close()
				}
			})
		}
		scrapes.Wait()
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
}
