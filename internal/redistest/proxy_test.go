package redistest

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// echo is a target that answers each line with itself, and counts them.
type echo struct {
	net.Listener
	lines, conns atomic.Int64
}

func startEcho(t *testing.T) *echo {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e := &echo{Listener: l}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			e.conns.Add(1)
			go e.serve(c)
		}
	}()
	return e
}

func (e *echo) serve(c net.Conn) {
	defer c.Close()
	defer e.conns.Add(-1)
	in := bufio.NewReader(c)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		e.lines.Add(1)
		fmt.Fprint(c, line)
	}
}

func (e *echo) awaitLines(t *testing.T, want int64) {
	t.Helper()
	await(t, "lines", func() error {
		if got := e.lines.Load(); got != want {
			return fmt.Errorf("%d, want %d", got, want)
		}
		return nil
	})
}

func dial(t *testing.T, p *Proxy) net.Conn {
	t.Helper()
	c, err := net.DialTimeout("tcp", p.Addr(), 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func say(t *testing.T, c net.Conn, line string) {
	t.Helper()
	if _, err := fmt.Fprintln(c, line); err != nil {
		t.Fatal(err)
	}
}

func TestProxyForwards(t *testing.T) {
	t.Parallel()
	e := startEcho(t)
	p := NewProxy(t, e.Addr().String())
	c := dial(t, p)
	long := strings.Repeat("x", 1<<20)
	go fmt.Fprintln(c, long)
	answers(t, c, long)
	c.Close()
	await(t, "the connection's end", func() error {
		if n := e.conns.Load(); n != 0 {
			return fmt.Errorf("%d connections", n)
		}
		return nil
	})
}

func TestProxyBlackHole(t *testing.T) {
	t.Parallel()
	e := startEcho(t)
	p := NewProxy(t, e.Addr().String())
	before := dial(t, p)
	say(t, before, "one")
	answers(t, before, "one")
	p.BlackHole()
	after := dial(t, p)
	say(t, before, "two")
	say(t, after, "three")
	silent(t, before)
	silent(t, after)
	if got := e.lines.Load(); got != 1 {
		t.Errorf("%d lines passed, want the first", got)
	}
	p.Forward()
	answers(t, before, "two")
	answers(t, after, "three")
}

func TestProxyRefuses(t *testing.T) {
	t.Parallel()
	e := startEcho(t)
	p := NewProxy(t, e.Addr().String())
	c := dial(t, p)
	say(t, c, "one")
	answers(t, c, "one")
	p.Refuse()
	p.Refuse()
	_ = c.SetReadDeadline(time.Now().Add(patience))
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read: %v, want the connection closed", err)
	}
	if _, err := net.DialTimeout("tcp", p.Addr(), 10*time.Second); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial: %v, want it refused", err)
	}
	p.Forward()
	c = dial(t, p)
	say(t, c, "two")
	answers(t, c, "two")
}

func TestProxyDelays(t *testing.T) {
	t.Parallel()
	e := startEcho(t)
	p := NewProxy(t, e.Addr().String())
	c := dial(t, p)
	say(t, c, "one")
	answers(t, c, "one")
	const d = 100 * time.Millisecond
	p.Delay(d)
	began := time.Now()
	say(t, c, "two")
	answers(t, c, "two")
	if took := time.Since(began); took < 2*d {
		t.Errorf("there and back took %v, want %v or more", took, 2*d)
	}
	p.Delay(time.Hour)
	say(t, c, "three")
	silent(t, c)
	p.Forward()
	answers(t, c, "three")
}

func TestProxyDropsAnswers(t *testing.T) {
	t.Parallel()
	e := startEcho(t)
	p := NewProxy(t, e.Addr().String())
	p.DropAnswers()
	c := dial(t, p)
	say(t, c, "one")
	e.awaitLines(t, 1)
	silent(t, c)
	c.Close()
	p.Forward()
	c = dial(t, p)
	say(t, c, "two")
	answers(t, c, "two")
}

func TestProxyResets(t *testing.T) {
	t.Parallel()
	e := startEcho(t)
	p := NewProxy(t, e.Addr().String())
	p.DropAnswers()
	c := dial(t, p)
	say(t, c, "one")
	e.awaitLines(t, 1)
	p.Reset()
	_ = c.SetReadDeadline(time.Now().Add(patience))
	if n, err := c.Read(make([]byte, 1)); n > 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read: %d bytes, %v, want the connection closed", n, err)
	}
	c = dial(t, p)
	say(t, c, "two")
	answers(t, c, "two")
}

// TestProxyEndsWithConnectionsOpen: in each mode; TestMain finds what is left over.
func TestProxyEndsWithConnectionsOpen(t *testing.T) {
	t.Parallel()
	e := startEcho(t)
	for name, fault := range map[string]func(*Proxy){
		"forward": (*Proxy).Forward, "black hole": (*Proxy).BlackHole, "refuse": (*Proxy).Refuse,
		"drop answers": (*Proxy).DropAnswers, "delay": func(p *Proxy) { p.Delay(time.Hour) },
	} {
		var c net.Conn // closed after the proxy's end
		t.Run(name, func(t *testing.T) {
			p := NewProxy(t, e.Addr().String())
			var err error
			if c, err = net.Dial("tcp", p.Addr()); err != nil {
				t.Fatal(err)
			}
			say(t, c, "one")
			answers(t, c, "one")
			fault(p)
			fmt.Fprintln(c, "two")
		})
		c.Close()
	}
}

func TestProxyOfADeadTarget(t *testing.T) {
	t.Parallel()
	p := NewProxy(t, address(freePort(t)))
	c := dial(t, p)
	_ = c.SetReadDeadline(time.Now().Add(patience))
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read: %v, want the connection closed", err)
	}
}

func TestProxyBeforeRedis(t *testing.T) {
	t.Parallel()
	s := Start(t, Options{})
	p := NewProxy(t, s.Addr())
	c := redis.NewClient(&redis.Options{
		Addr: p.Addr(), MaxRetries: -1, ReadTimeout: 2 * time.Second,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
	defer c.Close()
	if err := c.Set(t.Context(), "key", "first", 0).Err(); err != nil {
		t.Fatal(err)
	}
	p.DropAnswers()
	if err := c.Set(t.Context(), "key", "applied", 0).Err(); err == nil {
		t.Error("an answer came")
	}
	await(t, "the request to be applied", func() error {
		if got := get(t, s, "key"); got != "applied" {
			return fmt.Errorf("got %v", got)
		}
		return nil
	})
}
