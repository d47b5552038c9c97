package audit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode"
)

// localSyslog is where the system's syslog listens.
const localSyslog = "/dev/log"

// A syslogSink sends lines to a syslog: what syslog(3) writes to the system's, and elsewhere RFC 5424, on streams with octet counting (RFC 6587 section 3.4.1). What the connection has taken counts as written.
type syslogSink struct {
	// network is that of the address. local: it is the system's.
	network, address string
	local            bool
	host             string
	// ctx ends with abort.
	stop func()
	dial func(network, address string) (net.Conn, error)

	mu      sync.Mutex // of conn, for abort
	conn    net.Conn
	stream  bool
	aborted bool
	buf     []byte
}

// newSyslogSink reads where it is, as SyslogAt does.
func newSyslogSink(where string) (*syslogSink, error) {
	network, address, err := SyslogAt(where)
	if err != nil {
		return nil, err
	}
	s := &syslogSink{network: network, address: address, local: where == localWord, host: hostname()}
	ctx, stop := context.WithCancel(context.Background())
	d := net.Dialer{Timeout: patience}
	s.stop = stop
	s.dial = func(network, address string) (net.Conn, error) { return d.DialContext(ctx, network, address) }
	return s, nil
}

// localWord is what the system's own syslog is called.
const localWord = "local"

// unixPathMost bounds the path of a socket: what the system's sockaddr_un holds, with its end.
const unixPathMost = len(syscall.RawSockaddrUnix{}.Path) - 1

var (
	errSyslog     = errors.New("it is no address of a syslog: say local, tcp://HOST:PORT or unix:///PATH")
	errSyslogPort = errors.New("its port is none: say tcp://HOST:PORT, with a number from 1 to 65535")
	errSyslogPath = errors.New("its path ends with a blank, or has a control character in it: say unix:///PATH, with that of a socket")
	errNoSocket   = errors.New("what is at its path is no socket: say unix:///PATH, with that of the socket on which the syslog listens")
	errNoLocal    = errors.New("what is at " + localSyslog + " is no socket: the system has no syslog of its own; say tcp://HOST:PORT or unix:///PATH")
)

// SyslogAt is the network, tcp, unix or unixgram, and the address there, of a Settings.Syslog: local, tcp://host:port or unix:///path. It fails if there can be no
// syslog, and connects to nothing: one may come later. It does not quote where, for somebody may have put a secret there.
func SyslogAt(where string) (network, address string, err error) {
	if where == localWord {
		if !mayBeSocket(localSyslog) {
			return "", "", errNoLocal
		}
		return "unixgram", localSyslog, nil
	}
	u, err := url.Parse(where)
	switch {
	case err != nil || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Opaque != "":
		return "", "", errSyslog
	case u.Scheme == "tcp" && u.Hostname() != "" && u.Port() != "" && u.Path == "":
		if port, err := strconv.ParseUint(u.Port(), 10, 16); err != nil || port == 0 {
			return "", "", errSyslogPort
		}
		return "tcp", u.Host, nil
	case u.Scheme == "unix" && u.Host == "" && strings.HasPrefix(u.Path, "/") && u.Path != "/":
		switch {
		case strings.ContainsFunc(u.Path, unicode.IsControl), strings.TrimSpace(u.Path) != u.Path:
			return "", "", errSyslogPath
		case len(u.Path) > unixPathMost:
			return "", "", fmt.Errorf("its path has %d bytes, and the system allows a socket %d: say unix:///PATH, with a shorter one", len(u.Path), unixPathMost)
		case !mayBeSocket(u.Path):
			return "", "", errNoSocket
		}
		return "unix", u.Path, nil
	}
	return "", "", errSyslog
}

// mayBeSocket reports whether there is a socket, or one may come.
func mayBeSocket(path string) bool {
	info, err := os.Stat(path)
	return err != nil || info.Mode()&fs.ModeSocket != 0
}

// hostname is what RFC 5424 has in its header: printable ASCII.
func hostname() string {
	name, err := os.Hostname()
	name = strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' {
			return -1
		}
		return r
	}, name)
	if err != nil || name == "" {
		return "-"
	}
	return name[:min(len(name), 255)]
}

// connected sees to it that there is a connection.
func (s *syslogSink) connected() error {
	if s.conn != nil && s.stream && left(s.conn) {
		s.hangUp()
	}
	if s.conn != nil {
		return nil
	}
	c, err := s.dial(s.network, s.address)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.conn, s.stream = c, s.network != "unixgram"
	aborted := s.aborted
	s.mu.Unlock()
	if aborted {
		s.hangUp()
		return net.ErrClosed
	}
	return nil
}

// left reports whether the other side has closed the connection. What is written to one that is, is lost without an error.
func left(c net.Conn) bool {
	raw, knows := c.(syscall.Conn)
	if !knows {
		return false
	}
	rc, err := raw.SyscallConn()
	if err != nil {
		return true
	}
	gone := false
	err = rc.Read(func(fd uintptr) bool {
		var b [1]byte
		n, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		again := errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EINTR)
		gone = err == nil && n == 0 || err != nil && !again
		return true
	})
	return gone || err != nil
}

func (s *syslogSink) hangUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		_ = s.conn.Close()
	}
	s.conn = nil
}

// write implements sink. A frame that is not whole is sent again on another connection.
func (s *syslogSink) write(lines []*entry) (int, error) {
	if err := s.connected(); err != nil {
		return 0, err
	}
	_ = s.conn.SetWriteDeadline(time.Now().Add(patience)) // a connection that is closed says so when it is written to
	if !s.stream {
		for i, l := range lines {
			s.buf = s.message(s.buf[:0], l)
			if _, err := s.conn.Write(s.buf); err != nil {
				s.hangUp()
				return i, err
			}
		}
		return len(lines), nil
	}
	buf, ends := s.buf[:0], make([]int, len(lines))
	var message []byte
	for i, l := range lines {
		message = s.message(message[:0], l)
		buf = strconv.AppendInt(buf, int64(len(message)), 10)
		buf = append(append(buf, ' '), message...)
		ends[i] = len(buf)
	}
	s.buf = buf
	n, err := s.conn.Write(buf)
	if err == nil {
		return len(lines), nil
	}
	s.hangUp()
	whole := 0
	for whole < len(lines) && n >= ends[whole] {
		whole++
	}
	return whole, err
}

// The priority is of the facility authpriv, 10.
const (
	authpriv     = 10 << 3
	severityBad  = 4 // warning
	severityInfo = 6
)

// message is a line as RFC 5424 section 6 has it, or as the system's own syslog reads it, which is what syslog(3) writes. The text is the line, without its end.
func (s *syslogSink) message(b []byte, l *entry) []byte {
	severity := severityInfo
	if l.grave {
		severity = severityBad
	}
	if s.local {
		b = fmt.Appendf(b, "<%d>%s tokenbroker[%d]: ", authpriv|severity, stamp(l.at).Local().Format(time.Stamp), os.Getpid())
		return append(b, l.data[:len(l.data)-1]...)
	}
	b = fmt.Appendf(b, "<%d>1 %s %s tokenbroker %d ", authpriv|severity, stamp(l.at).Format("2006-01-02T15:04:05.000000Z"), s.host, os.Getpid())
	b = append(b, messageID(string(l.event))...)
	b = append(b, " - "...)
	return append(b, l.data[:len(l.data)-1]...)
}

// messageID is an event, of which RFC 5424 takes 32 printable characters.
func messageID(event string) string {
	if event == "" || len(event) > 32 || strings.ContainsFunc(event, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "-"
	}
	return event
}

func (s *syslogSink) sync() error   { return nil }
func (s *syslogSink) reopen() error { return nil }

func (s *syslogSink) close() {
	s.hangUp()
	s.stop()
}

// abort implements sink.
func (s *syslogSink) abort() {
	s.stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.aborted = true
	if s.conn != nil {
		_ = s.conn.Close()
	}
}
