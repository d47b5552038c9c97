package redistest

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"
)

// Monitor has the server tell of every command from now on, and returns a func that gives all that it has told so far: a line
// for each command, with arguments quoted as MONITOR does (bytes that are not printable as \xNN). What was answered before
// the func is called is in it, unless the server has died or stands still. The marks by which it knows are lines too.
func (s *Server) Monitor() func() string {
	s.t.Helper()
	conn, err := s.dial()
	if err != nil {
		s.t.Fatal(err)
	}
	m := &monitor{conn: conn, done: make(chan struct{})}
	s.t.Cleanup(m.close)
	in := bufio.NewReader(conn)
	for _, command := range []string{"AUTH " + admin + " " + s.password, "MONITOR"} {
		if err := m.begin(in, command); err != nil {
			close(m.done)
			s.t.Fatal(err)
		}
	}
	go m.read(in)
	return func() string { return m.all(s) }
}

func (s *Server) dial() (net.Conn, error) {
	d := &net.Dialer{Timeout: 5 * time.Second}
	if s.tls != nil {
		return (&tls.Dialer{NetDialer: d, Config: s.tls}).DialContext(context.Background(), "tcp", s.Addr())
	}
	return d.DialContext(context.Background(), "tcp", s.Addr())
}

type monitor struct {
	conn net.Conn
	done chan struct{} // closed when there is no more to read

	mu   sync.Mutex
	seen strings.Builder
}

func (m *monitor) begin(in *bufio.Reader, command string) error {
	if _, err := fmt.Fprintf(m.conn, "%s\r\n", command); err != nil {
		return err
	}
	answer, err := in.ReadString('\n')
	if err == nil && answer != "+OK\r\n" {
		err = errors.New("redistest: monitor: " + answer)
	}
	return err
}

func (m *monitor) read(in *bufio.Reader) {
	defer close(m.done)
	for {
		line, err := in.ReadString('\n')
		m.mu.Lock()
		m.seen.WriteString(line)
		m.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (m *monitor) all(s *Server) string {
	mark := rand.Text()
	if s.answers() {
		if _, err := s.Do("ECHO", mark); err == nil {
			_ = poll(func() error { return m.sees(mark) })
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.seen.String()
}

func (m *monitor) sees(mark string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if strings.Contains(m.seen.String(), mark) {
		return nil
	}
	select {
	case <-m.done:
		return stop{net.ErrClosed}
	default:
		return errors.New("not yet")
	}
}

func (m *monitor) close() {
	_ = m.conn.Close()
	<-m.done
}
