package upstreamsim

import (
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
)

// hostAdmin is the server name of the admin handler.
const hostAdmin = "localhost"

var errDown = errors.New("upstream is down")

// Connections counts what happened at the listener, below any request.
type Connections struct {
	Accepted   int            `json:"accepted"`   // TCP connections since the start
	Open       int            `json:"open"`       // of these, now open
	Handshakes map[string]int `json:"handshakes"` // by server name, begun; refused names are not in it
}

// Connections returns a snapshot; the map is the caller's.
func (s *Sim) Connections() Connections {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Connections{Accepted: s.accepted, Open: len(s.conns), Handshakes: maps.Clone(s.shakes)}
}

// listener counts and remembers connections, so that they can be reset.
type listener struct {
	net.Listener
	sim *Sim
}

func (l *listener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: nc, sim: l.sim}
	l.sim.mu.Lock()
	l.sim.accepted++
	l.sim.conns[c] = struct{}{}
	l.sim.mu.Unlock()
	return c, nil
}

// conn is one accepted connection; host is its server name once that is known, guarded by sim.mu.
type conn struct {
	net.Conn
	sim  *Sim
	host string
}

func (c *conn) Close() error {
	c.sim.mu.Lock()
	delete(c.sim.conns, c)
	c.sim.mu.Unlock()
	return c.Conn.Close()
}

// reset ends the connection so that the peer sees a TCP reset, not an orderly end.
func (c *conn) reset() {
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // fails only on a closed connection
	}
	_ = c.Close()
}

// connState is the hook of http.Server: it tells when the goroutine of a connection begins and ends.
func (s *Sim) connState(_ net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		s.open.Add(1)
	case http.StateClosed:
		s.open.Done()
	}
}

// closeConns resets every connection.
func (s *Sim) closeConns() {
	s.mu.Lock()
	conns := slices.Collect(maps.Keys(s.conns))
	s.mu.Unlock()
	for _, c := range conns {
		c.reset()
	}
}

type connKey struct{}

// resetConn resets the connection of a request, with every other stream on it.
func resetConn(r *http.Request) {
	if tc, ok := r.Context().Value(connKey{}).(*tls.Conn); ok {
		if c, ok := tc.NetConn().(*conn); ok {
			c.reset()
		}
	}
}

// hello runs at every handshake, also at resumed ones: it notes the server name and turns away what is down.
func (s *Sim) hello(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	host := serverName(hello)
	s.mu.Lock()
	c, _ := hello.Conn.(*conn)
	if c != nil {
		c.host = host
	}
	down := s.hostDown(host)
	if _, known := hostSystems[host]; known || host == hostAdmin {
		s.shakes[host]++
	}
	s.mu.Unlock()
	if down {
		if c != nil {
			c.reset()
		}
		return nil, errDown
	}
	return nil, nil
}

func (s *Sim) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	host := serverName(hello)
	if _, known := hostSystems[host]; !known && host != hostAdmin {
		return nil, fmt.Errorf("server name %q is not simulated", host)
	}
	return s.ca.leaf(host)
}

// serverName is the name asked for; without one, a client has dialled the address itself.
func serverName(hello *tls.ClientHelloInfo) string {
	if hello.ServerName == "" {
		return hostAdmin
	}
	return strings.ToLower(hello.ServerName)
}

// hostDown reports whether every system of the host is down; s.mu is held. A host that another system still needs answers
// the handshake, and the request is cut off instead.
func (s *Sim) hostDown(host string) bool {
	systems := hostSystems[host]
	for _, system := range systems {
		if !s.down[system] {
			return false
		}
	}
	return len(systems) > 0
}

// Down takes systems away, all of them if none is named: open connections to their hosts are reset, and so is every new one
// as soon as it names its host. The admin handler stays. Systems that are down already stay down.
func (s *Sim) Down(systems ...System) {
	s.mu.Lock()
	s.setDown(systems, true)
	var gone []*conn
	for c := range s.conns {
		if s.hostDown(c.host) {
			gone = append(gone, c)
		}
	}
	s.mu.Unlock()
	for _, c := range gone {
		c.reset()
	}
	s.emit()
}

// Up brings systems back, all of them if none is named.
func (s *Sim) Up(systems ...System) {
	s.mu.Lock()
	s.setDown(systems, false)
	s.mu.Unlock()
	s.emit()
}

func (s *Sim) setDown(systems []System, down bool) {
	if len(systems) == 0 {
		systems = Systems()
	}
	kind := KindUp
	if down {
		kind = KindDown
	}
	for _, system := range systems {
		if system.known() && s.down[system] != down {
			s.down[system] = down
			s.record(Event{Kind: kind, System: system})
		}
	}
}
