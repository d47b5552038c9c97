package audit

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/installed"
)

// A strict syslog takes RFC 5424 in frames of RFC 6587, and nothing else.
type strict struct {
	t  *testing.T
	ln net.Listener

	mu    sync.Mutex
	lines []told
	torn  int
	conns map[net.Conn]bool
	all   sync.WaitGroup
}

// header is RFC 5424 section 6, as strict as it is there, without structured data.
var header = regexp.MustCompile(`^<(\d{1,3})>1 (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z) ([!-~]{1,255}) tokenbroker (\d{1,128}) ([!-~]{1,32}) - (.+)$`)

func listen(t *testing.T, network, address string) *strict {
	t.Helper()
	ln, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	s := &strict{t: t, ln: ln, conns: map[net.Conn]bool{}}
	s.all.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns[c] = true
			s.mu.Unlock()
			s.all.Go(func() { s.serve(c) })
		}
	})
	t.Cleanup(s.close)
	return s
}

func (s *strict) close() {
	_ = s.ln.Close()
	s.mu.Lock()
	for c := range s.conns {
		_ = c.Close()
	}
	s.mu.Unlock()
	s.all.Wait()
}

func (s *strict) serve(c net.Conn) {
	defer c.Close()
	r := bufio.NewReader(c)
	for {
		length, err := r.ReadString(' ')
		if err != nil {
			if length != "" {
				s.tears()
			}
			return
		}
		n, err := strconv.Atoi(length[:len(length)-1])
		if err != nil || n <= 0 || length[0] == '0' || n > 1<<15 {
			s.t.Errorf("no frame: %q", length)
			return
		}
		b := make([]byte, n)
		if _, err := io.ReadFull(r, b); err != nil {
			s.tears()
			return
		}
		s.takes(string(b))
	}
}

func (s *strict) tears() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.torn++
}

func (s *strict) takes(message string) {
	m := header.FindStringSubmatch(message)
	if m == nil {
		s.t.Errorf("not as RFC 5424 has it: %q", message)
		return
	}
	l := readLine(s.t, m[6]+"\n")
	want := 86 // authpriv, info
	if l.Outcome == failed || l.Outcome == denied {
		want = 84 // warning
	}
	if at, err := time.Parse(time.RFC3339Nano, m[2]); err != nil || !at.Equal(l.Time) && l.Event != gap || m[1] != fmt.Sprint(want) || m[5] != string(l.Event) {
		s.t.Errorf("got %q", message)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = append(s.lines, l)
}

// has waits until it has so many lines.
func (s *strict) has(n int) []told {
	s.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; {
		s.mu.Lock()
		got := append([]told(nil), s.lines...)
		s.mu.Unlock()
		if len(got) >= n {
			return got
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("got %d lines, want %d", len(got), n)
		}
	}
}

// TestASyslogGetsEachLineOnce: over TCP and a Unix socket, from many at once.
func TestASyslogGetsEachLineOnce(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "log")
	for _, c := range []struct{ network, address, where string }{{"tcp", "127.0.0.1:0", "tcp://"}, {"unix", socket, "unix://"}} {
		s := listen(t, c.network, c.address)
		l := an(t, Settings{Syslog: c.where + s.ln.Addr().String()})
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				for range 50 {
					intends(t, l)
				}
			})
		}
		all.Wait()
		l.Note(t.Context(), denial(shop, "a\nb \U0001f600 \u2028"))
		l.Close()
		inOrder(t, s.has(801))
		if s.torn != 0 {
			t.Errorf("%d frames are torn", s.torn)
		}
	}
}

// TestASyslogThatGoesAndComesBackGetsWhatWasQueued, and nothing is changed meanwhile.
func TestASyslogThatGoesAndComesBackGetsWhatWasQueued(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "log")
	first := listen(t, "unix", socket)
	l := an(t, Settings{Syslog: "unix://" + socket})
	intends(t, l)
	first.has(2)
	first.close()
	refuses(t, l) // also what is written to a connection that the other side has closed
	if s := l.Status(); !s.Away || !strings.HasPrefix(s.Problem, "syslog: ") {
		t.Errorf("got %+v", s)
	}
	if _, err := l.Use(t.Context(), issue(shop, "t0")); err != nil {
		t.Error(err)
	}
	second := listen(t, "unix", socket)
	heals(t, l)
	l.Close()
	got := second.has(5)
	inOrder(t, append(first.has(2), got...))
	if got[0].Outcome != intent || got[1].Outcome != failed || got[1].Of != got[0].Seq || got[2].Event != "token.issued" {
		t.Errorf("got %+v", got)
	}
}

// TestASyslogThatIsNotThereAtStartMayComeLater.
func TestASyslogThatIsNotThereAtStartMayComeLater(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "log")
	l := an(t, Settings{Syslog: "unix://" + socket})
	l.Note(t.Context(), denial(shop, "main"))
	s := listen(t, "unix", socket)
	heals(t, l)
	inOrder(t, s.has(1))
}

// TestSyslogAtRefusesWhatCanNeverWork, without quoting it, and New does the same.
func TestSyslogAtRefusesWhatCanNeverWork(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	writeFile(t, file, "")
	socket := listen(t, "unix", filepath.Join(dir, "s")).ln.Addr().String()
	if err := os.Symlink(socket, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	longest := "/" + strings.Repeat("p", unixPathMost-1)
	if c, err := net.Dial("unix", longest); err == nil || errors.Is(err, syscall.EINVAL) {
		t.Errorf("got %v %v, want a path that the system takes", c, err)
	}
	for _, c := range []struct{ where, want string }{
		{"local", ""},
		{"tcp://127.0.0.1:1", ""},
		{"tcp://syslog.example:65535", ""},
		{"tcp://[::1]:514", ""},
		{"unix://" + dir + "/may/come", ""},
		{"unix://" + socket, ""},
		{"unix://" + dir + "/link", ""},
		{"unix://" + longest, ""},
		{"tcp://sEcReT:0", "its port is none: say tcp://HOST:PORT, with a number from 1 to 65535"},
		{"tcp://sEcReT:65536", "from 1 to 65535"},
		{"tcp://sEcReT:99999", "from 1 to 65535"},
		{"tcp://sEcReT:99999999999999999999", "from 1 to 65535"},
		{"unix:///sEcReT%00b", "has a control character in it: say unix:///PATH"},
		{"unix:///sEcReT%0A", "has a control character in it"},
		{"unix:///sEcReT%1B[2J", "has a control character in it"},
		{"unix:///sEcReT%20", "its path ends with a blank"},
		{"unix:///sEcReT\x00b", "say local, tcp://HOST:PORT or unix:///PATH"},
		{"unix://" + longest + "p", "and the system allows a socket " + strconv.Itoa(unixPathMost) + ": say unix:///PATH, with a shorter one"},
		{"unix:///tmp", "is no socket: say unix:///PATH, with that of the socket"},
		{"unix://" + file, "is no socket"},
		{"unix:///", "say local, tcp://HOST:PORT or unix:///PATH"},
		{"tcp://user:sEcReT@127.0.0.1:1", "say local"},
		{"tcp://127.0.0.1:sEcReT", "say local"},
		{"tcp://127.0.0.1:1?sEcReT", "say local"},
		{"sEcReT", "say local"},
		{" local", "say local"},
		{"", "say local"},
	} {
		_, _, err := SyslogAt(c.where)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: got %v, want %q", c.where, err, c.want)
		}
		if err != nil && (strings.Contains(err.Error(), "sEcReT") || strings.Contains(err.Error(), dir)) {
			t.Errorf("it is quoted: %v", err)
		}
		if c.where == "" {
			continue // New takes it for none
		}
		l, made := New(Settings{Syslog: c.where})
		if made == nil {
			l.Close()
		}
		if (made == nil) != (err == nil) || made != nil && strings.Contains(made.Error(), "sEcReT") {
			t.Errorf("%s: got %v, and New says %v", c.where, err, made)
		}
	}
}

// TestASyslogThatDoesNotReadIsGivenWholeFramesOnly: what was cut off comes again, on another connection.
func TestASyslogThatDoesNotReadIsGivenWholeFramesOnly(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	s := &strict{t: t, ln: ln, conns: map[net.Conn]bool{}}
	path := filepath.Join(t.TempDir(), "audit.log")
	l := an(t, Settings{Syslog: "tcp://" + ln.Addr().String(), File: path})
	long := strings.Repeat("x", 900)
	for range 12_000 { // more than sockets take
		l.Note(t.Context(), issueOf(long))
	}
	silent, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	intends(t, l)                                          // the file takes it
	for !strings.Contains(l.Status().Problem, "timeout") { // not before the frame is cut off
		l.queues[0].watch(time.Now()) // which Run does
	}
	if l.Status().Away {
		t.Error("the file is there")
	}
	s.all.Go(func() { s.serve(silent) }) // now it reads what it has
	for len(s.snapshot()) < 12_002 {
		_ = ln.(*net.TCPListener).SetDeadline(time.Now().Add(100 * time.Millisecond))
		if c, err := ln.Accept(); err == nil {
			s.all.Go(func() { s.serve(c) })
		}
	}
	l.Close()
	s.all.Wait()
	seen := map[uint64]int{}
	for _, is := range s.snapshot() {
		seen[is.Seq]++
	}
	for seq := range uint64(12_002) {
		if seen[seq+1] != 1 {
			t.Fatalf("line %d came %d times", seq+1, seen[seq+1])
		}
	}
	if s.torn == 0 {
		t.Error("no frame was cut off: nothing was tried")
	}
}

func (s *strict) snapshot() []told {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lines[:len(s.lines):len(s.lines)]
}

// TestWhatIsWrittenAfterASyslogHasHungUpGoesToAnotherConnection: a write to the former one would be lost without an error.
func TestWhatIsWrittenAfterASyslogHasHungUpGoesToAnotherConnection(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	to, err := newSyslogSink("tcp://" + ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer to.close()
	is := lineOf(denial(shop, "main"), "", "", "")
	for seq := range uint64(3) {
		at := time.Now()
		e := &entry{data: append(head(at, strings.Repeat("0", 32), seq+1), is.tail()...), at: at, event: is.Event, grave: true}
		if n, err := to.write([]*entry{e}); n != 1 || err != nil {
			t.Fatalf("got %d %v", n, err)
		}
		_ = ln.(*net.TCPListener).SetDeadline(time.Now().Add(5 * time.Second))
		c, err := ln.Accept()
		if err != nil {
			t.Fatal("no other connection")
		}
		b := make([]byte, len(e.data)+100)
		if _, err := io.ReadAtLeast(c, b, len(e.data)); err != nil {
			t.Error(err)
		}
		_ = c.Close()
		for !left(to.conn) {
			continue
		}
	}
}

// ofSyslog3 is what syslog(3) writes.
var ofSyslog3 = regexp.MustCompile(`^<84>[A-Z][a-z]{2} [ 1-3][0-9] [0-9]{2}:[0-9]{2}:[0-9]{2} tokenbroker\[[0-9]+\]: (\{.*\})$`)

// TestTheSystemsSyslogGetsADatagramALine: a socket in place of /dev/log.
func TestTheSystemsSyslogGetsADatagramALine(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "log")
	dgram, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer dgram.Close()
	to, err := newSyslogSink("local")
	if err != nil || to.address != "/dev/log" {
		t.Fatalf("got %v %v", to, err)
	}
	to.address = socket
	defer to.close()
	is := lineOf(denial(shop, "main"), "", "", "")
	at := time.Now()
	e := &entry{data: append(head(at, strings.Repeat("0", 32), 1), is.tail()...), at: at, event: is.Event, grave: true}
	if n, err := to.write([]*entry{e, e}); n != 2 || err != nil {
		t.Fatalf("got %d %v", n, err)
	}
	for range 2 {
		b := make([]byte, 1<<16)
		n, err := dgram.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		m := ofSyslog3.FindSubmatch(b[:n])
		if m == nil {
			t.Fatalf("got %q", b[:n])
		}
		readLine(t, string(m[1])+"\n")
	}
	_ = dgram.Close()
	if _, err := to.write([]*entry{e}); err == nil {
		t.Error("nobody listens any more")
	}
}

// TestRsyslogTakesTheLines of a log: Debian's rsyslogd, where it is.
func TestRsyslogTakesTheLines(t *testing.T) {
	bin := installed.Tool(t, "rsyslogd")
	dir := t.TempDir()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := ln.Addr().(*net.TCPAddr).Port
	_ = ln.Close()
	conf, out := filepath.Join(dir, "rsyslog.conf"), filepath.Join(dir, "out")
	writeFile(t, conf, fmt.Sprintf(`global(workDirectory=%q maxMessageSize="32k")
module(load="imtcp")
module(load="imuxsock" SysSock.Use="off")
input(type="imtcp" address="127.0.0.1" port="%d")
input(type="imuxsock" Socket=%q)
template(name="raw" type="string" string="%%syslogfacility-text%% %%msgid%% %%msg%%\n")
action(type="omfile" file=%q template="raw")
`, dir, port, filepath.Join(dir, "log"), out))
	cmd := exec.Command(bin, "-n", "-f", conf, "-i", filepath.Join(dir, "pid"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	l := an(t, Settings{Syslog: fmt.Sprintf("tcp://127.0.0.1:%d", port)})
	heals(t, l)
	l.Close()
	system, err := newSyslogSink("local")
	if err != nil {
		t.Fatal(err)
	}
	defer system.close()
	system.address = filepath.Join(dir, "log")
	is := lineOf(denial(shop, "main"), "", "", "")
	at := time.Now()
	if n, err := system.write([]*entry{{data: append(head(at, strings.Repeat("0", 32), 1), is.tail()...), at: at, event: is.Event, grave: true}}); n != 1 || err != nil {
		t.Fatalf("got %d %v", n, err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; {
		if text, err := readText(out); err == nil && strings.Count(text, "\n") >= 3 {
			for raw := range strings.Lines(text) {
				rest, found := strings.CutPrefix(raw, "authpriv credential.updated ")
				if !found {
					rest, found = strings.CutPrefix(raw, "authpriv - ")
				}
				if !found {
					t.Errorf("got %q", raw)
				}
				readLine(t, strings.TrimPrefix(rest, " "))
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(errors.New("rsyslogd wrote nothing"))
		}
	}
}
