package redistest

import (
	"context"
	"errors"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// A Proxy passes TCP connections to a target, or does to them what networks do. It stands for the network alone: if the
// target refuses, the proxy's side of the connection is opened and then closed.
//
// What is held back (BlackHole, DropAnswers, Delay) is not lost: as on a network that heals, Forward delivers it to
// connections that are still open.
type Proxy struct {
	t      testing.TB
	target string
	port   int
	// writing counts what is past the gate: a fault that is set has begun when there is none.
	writing atomic.Int64
	wg      sync.WaitGroup

	mu       sync.Mutex
	mode     mode
	changed  chan struct{} // closed when mode changes
	listener net.Listener  // nil: refuses
	conns    map[net.Conn]bool
}

type mode struct {
	requests, answers bool // whether they pass
	delay             time.Duration
	closed            bool
}

// NewProxy listens on a port of 127.0.0.1 and forwards to target, a host and port.
func NewProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	p := &Proxy{
		t: t, target: target, mode: mode{requests: true, answers: true},
		changed: make(chan struct{}), conns: map[net.Conn]bool{},
	}
	l := p.listen()
	p.port, _ = strconv.Atoi(portOf(l.Addr().String()))
	p.listener = l
	p.wg.Go(func() { p.accept(l) })
	t.Cleanup(p.close)
	return p
}

func portOf(addr string) string {
	_, port, _ := net.SplitHostPort(addr)
	return port
}

func (p *Proxy) listen() net.Listener {
	p.t.Helper()
	for range 20 {
		l, err := listen(freePort(p.t))
		if err == nil {
			return l
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			p.t.Fatal(err)
		}
	}
	p.t.Fatal("redistest: found no free port")
	return nil
}

// Addr is where it listens.
func (p *Proxy) Addr() string { return address(p.port) }

// Forward passes everything, and ends any fault.
func (p *Proxy) Forward() { p.t.Helper(); p.open(mode{requests: true, answers: true}) }

// BlackHole leaves connections open, and takes new ones, and nothing passes in either direction, not even a connection's end.
func (p *Proxy) BlackHole() { p.t.Helper(); p.open(mode{}) }

// DropAnswers passes what clients say, and nothing that the target answers.
func (p *Proxy) DropAnswers() { p.t.Helper(); p.open(mode{requests: true}) }

// Delay passes everything later by d or somewhat more, in each direction.
func (p *Proxy) Delay(d time.Duration) {
	p.t.Helper()
	p.open(mode{requests: true, answers: true, delay: d})
}

// Refuse closes all connections and refuses new ones.
func (p *Proxy) Refuse() {
	p.mu.Lock()
	l := p.listener
	p.listener = nil
	p.set(mode{closed: true})
	for c := range p.conns {
		abort(c)
	}
	p.mu.Unlock()
	if l != nil {
		_ = l.Close()
	}
	p.settle()
}

// Reset closes all connections, and passes everything of new ones. What was held back is lost.
func (p *Proxy) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		abort(c)
	}
	p.set(mode{requests: true, answers: true})
}

// abort closes with a reset, so that the other side learns of it even if it was sending.
func abort(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = c.Close()
}

func (p *Proxy) close() {
	p.Refuse()
	p.wg.Wait()
}

// open sets a mode in which connections are taken.
func (p *Proxy) open(m mode) {
	p.t.Helper()
	p.mu.Lock()
	p.set(m)
	refuses := p.listener == nil
	p.mu.Unlock()
	if refuses {
		p.reopen()
	}
	p.settle()
}

func (p *Proxy) reopen() {
	p.t.Helper()
	var l net.Listener
	await(p.t, "the proxy's port", func() (err error) {
		l, err = listen(p.port)
		return err
	})
	p.mu.Lock()
	p.listener = l
	p.mu.Unlock()
	p.wg.Go(func() { p.accept(l) })
}

// set is called with mu held.
func (p *Proxy) set(m mode) {
	p.mode = m
	close(p.changed)
	p.changed = make(chan struct{})
}

// settle waits for what was past the gate when the mode was set; not for ever: a target that stands still may take nothing.
func (p *Proxy) settle() {
	end := time.After(time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for p.writing.Load() > 0 {
		select {
		case <-end:
			return
		case <-tick.C:
		}
	}
}

func (p *Proxy) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		if p.keep(c) {
			p.wg.Go(func() { p.serve(c) })
		}
	}
}

// keep adds a connection to those that Refuse closes.
func (p *Proxy) keep(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mode.closed {
		abort(c)
		return false
	}
	p.conns[c] = true
	return true
}

func (p *Proxy) drop(c net.Conn) {
	p.mu.Lock()
	delete(p.conns, c)
	p.mu.Unlock()
	_ = c.Close()
}

func (p *Proxy) serve(client net.Conn) {
	defer p.drop(client)
	if !p.gate(true, func() {}) {
		return
	}
	server, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(context.Background(), "tcp", p.target)
	if err != nil || !p.keep(server) {
		return
	}
	defer p.drop(server)
	p.wg.Go(func() { p.pump(client, server, false) })
	p.pump(server, client, true)
}

// pump passes what comes from one side to the other, and then its end.
func (p *Proxy) pump(to, from net.Conn, requests bool) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		var writeErr error
		ok := p.gate(requests, func() {
			_, writeErr = to.Write(buf[:n])
			if err != nil {
				_ = to.Close()
			}
		})
		if !ok || err != nil || writeErr != nil {
			_ = to.Close()
			_ = from.Close()
			return
		}
	}
}

// gate waits until that direction is open, and calls pass; false: the connection is at its end.
func (p *Proxy) gate(requests bool, pass func()) bool {
	var delayed time.Duration
	for {
		p.mu.Lock()
		m, changed := p.mode, p.changed
		open := (requests && m.requests || !requests && m.answers) && delayed >= m.delay
		if open {
			p.writing.Add(1)
		}
		p.mu.Unlock()
		switch {
		case m.closed:
			return false
		case open:
			pass()
			p.writing.Add(-1)
			return true
		}
		delayed += wait(m.delay-delayed, changed)
	}
}

// wait is how long it waited: d, or until the channel is closed; 0 is for ever.
func wait(d time.Duration, changed <-chan struct{}) time.Duration {
	if d <= 0 {
		<-changed
		return 0
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	began := time.Now()
	select {
	case <-changed:
		return time.Since(began)
	case <-timer.C:
		return d
	}
}
