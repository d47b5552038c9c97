package upstreamsim

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// Options configures a [Sim]. The zero value is ready to use and behaves as the vendors document.
type Options struct {
	// Addr is where [Sim.Start] listens; empty: a free port of 127.0.0.1. An address that is not a loopback one is refused, unless Exposed.
	Addr string
	// Exposed answers others than this machine as well. Orders are taken from loopback addresses alone.
	Exposed bool
	// Now is the clock of token lifetimes, lockouts, rates, grace intervals and Date headers; nil: [time.Now]. It must be safe
	// for concurrent use.
	Now func() time.Time
	// OnEvent, if set, is called with every [Event], in order and one at a time, on the goroutine of some request or method
	// call, which it holds up. It may call methods of the Sim other than Close; events that these cause are delivered after it
	// returned.
	OnEvent func(Event)
	// SnovPerMinute is how many token requests a minute a snov.io client may make; 0: 60, as its documentation says;
	// negative: unlimited.
	SnovPerMinute int
	// LockoutAfter is how many wrong DocuWare logins in a row lock the user out; 0: 5.
	LockoutAfter int
	// LockoutFor is how long; 0: ten minutes.
	LockoutFor time.Duration
}

// Sim is the simulated upstream: every system, their accounts, one listener. Make it with [New]; the zero value is not
// usable. Its methods are safe for concurrent use.
type Sim struct {
	opts   Options
	ca     *authority
	routes []route
	server *http.Server

	closed   chan struct{} // closed by Close: ends whatever waits
	handlers sync.WaitGroup
	serving  sync.WaitGroup // listeners
	open     sync.WaitGroup // connections; grows only while a listener is served

	emitting sync.Mutex // held while OnEvent runs

	mu       sync.Mutex
	closing  bool
	addr     net.Addr
	conns    map[*conn]struct{}
	accepted int
	shakes   map[string]int
	requests int64 // numbers requests
	accounts []*account
	byID     map[AccountID]*account
	access   map[string]*accessToken
	refresh  map[string]*refreshToken
	counters map[System]*counters
	faults   []*fault
	gates    []*Gate
	down     map[System]bool
	follows  map[string]*exchange // the paths of redirect targets, and the requests that were sent there
	issued   int64                // access tokens
	refusals []Refusal
	sequence int64   // numbers events
	queue    []Event // not yet given to OnEvent
}

// New returns a Sim with one account per system, which serves nobody until [Sim.Start] or [Sim.Serve]. It fails on an Addr
// that is not a loopback one, unless Exposed.
func New(opts Options) (*Sim, error) {
	if opts.Addr == "" {
		opts.Addr = "127.0.0.1:0"
	}
	if err := checkLoopback(opts.Addr); err != nil && !opts.Exposed {
		return nil, err
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.SnovPerMinute == 0 {
		opts.SnovPerMinute = 60
	}
	if opts.LockoutAfter <= 0 {
		opts.LockoutAfter = 5
	}
	if opts.LockoutFor <= 0 {
		opts.LockoutFor = 10 * time.Minute
	}
	ca, err := newAuthority()
	if err != nil {
		return nil, err
	}
	s := &Sim{
		opts:     opts,
		ca:       ca,
		routes:   newRoutes(),
		closed:   make(chan struct{}),
		conns:    make(map[*conn]struct{}),
		shakes:   make(map[string]int),
		byID:     make(map[AccountID]*account),
		access:   make(map[string]*accessToken),
		refresh:  make(map[string]*refreshToken),
		counters: make(map[System]*counters),
		down:     make(map[System]bool),
		follows:  make(map[string]*exchange),
	}
	s.server = &http.Server{
		Handler:           http.HandlerFunc(s.serve),
		ReadHeaderTimeout: time.Minute,
		TLSConfig: &tls.Config{
			MinVersion:         tls.VersionTLS12,
			GetConfigForClient: s.hello,
			GetCertificate:     s.certificate,
		},
		ConnState:   s.connState,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) },
		ErrorLog:    log.New(io.Discard, "", 0), // failed handshakes are part of the play
	}
	for _, system := range Systems() {
		s.counters[system] = newCounters()
		s.addAccount(system)
	}
	return s, nil
}

// Start listens on Options.Addr and serves in the background until [Sim.Close]. It fails if the address cannot be had.
func (s *Sim) Start() error {
	ln, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", s.opts.Addr)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	if err := s.admit(ln); err != nil {
		_ = ln.Close()
		return err
	}
	go func() { _ = s.run(ln) }() // it fails when somebody closes the listener, which ends it as well
	return nil
}

// Serve answers on ln, which it closes, until [Sim.Close]; then it returns nil. It refuses a TCP listener that is not on a
// loopback address, unless Exposed, and leaves it open. A listener that is not a TCP one may be anything that carries TLS.
func (s *Sim) Serve(ln net.Listener) error {
	if tcp, ok := ln.Addr().(*net.TCPAddr); ok {
		if err := checkLoopback(tcp.String()); err != nil && !s.opts.Exposed {
			return err
		}
	}
	if err := s.admit(ln); err != nil {
		return err
	}
	return s.run(ln)
}

// admit registers the listener, unless the Sim is closed; run must follow.
func (s *Sim) admit(ln net.Listener) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return http.ErrServerClosed
	}
	if s.addr == nil {
		s.addr = ln.Addr()
	}
	s.serving.Add(1)
	return nil
}

func (s *Sim) run(ln net.Listener) error {
	defer s.serving.Done()
	err := s.server.ServeTLS(&listener{Listener: ln, sim: s}, "", "")
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve: %w", err)
}

// Close ends every listener, connection and waiting request, and returns when they are gone. It may be called more than
// once, but not from OnEvent.
func (s *Sim) Close() error {
	s.mu.Lock()
	first := !s.closing
	s.closing = true
	s.mu.Unlock()
	if first {
		close(s.closed)
	}
	err := s.server.Close()
	s.serving.Wait()
	s.closeConns() // http.Server overlooks one that was accepted at this moment
	s.handlers.Wait()
	s.open.Wait()
	return err
}

// Addr is the address of the first listener, host and port; empty before there is one.
func (s *Sim) Addr() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.addr == nil {
		return ""
	}
	return s.addr.String()
}

// CA is the PEM certificate of the authority that signs the certificates of this Sim. The slice is the caller's.
func (s *Sim) CA() []byte { return slices.Clone(s.ca.pem) }

// Hosts returns every host that is simulated, as "host:443", sorted: what a client must send to [Sim.Addr] instead.
func (s *Sim) Hosts() []string {
	hosts := make([]string, 0, len(hostSystems))
	for host := range hostSystems {
		hosts = append(hosts, host+":443")
	}
	slices.Sort(hosts)
	return hosts
}

func (s *Sim) now() time.Time { return s.opts.Now() }

// checkLoopback refuses what others could reach: the simulated secrets are printed freely.
func checkLoopback(addr string) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("address %q: %w", addr, err)
	}
	if ip := net.ParseIP(host); host != hostAdmin && (ip == nil || !ip.IsLoopback()) {
		return fmt.Errorf("address %q: not a loopback address", addr)
	}
	return nil
}
