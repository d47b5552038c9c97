package provider

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync"
	"time"

	"code.dny.dev/ssrf"
)

// An answer is what came back.
type answer struct {
	status int
	header http.Header
	body   []byte
	sentAt time.Time
	doc    any // the parsed body, where it is JSON or a form
	parsed bool
	// html: a page for people, as proxies and login forms send.
	html bool
	// names are the values that hold in the run, for a where that compares with one, or looks into one.
	names *values
}

// A sendError is why nothing usable came back. It holds no foreign text.
type sendError struct {
	// sent: the request may have reached the upstream.
	sent bool
	// refused: before refused.
	refused  bool
	timedOut bool
	detail   string
}

func (e *sendError) Error() string { return e.detail }

// A sending is one request on its way. Its hooks run on goroutines of http.Transport.
type sending struct {
	before func() error
	cancel context.CancelFunc

	mu      sync.Mutex
	conn    net.Conn
	refused bool
	sentAt  time.Time
}

func (s *sending) gotConn(i httptrace.GotConnInfo) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conn = i.Conn
}

// wroteHeaders runs when the request's header is in the connection's buffer, before that is flushed: the last moment at which
// it can be refused. The hook cannot stop the write, but the write of a closed connection fails.
func (s *sending) wroteHeaders() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refused || s.before() != nil {
		s.refused = true
		if s.conn != nil {
			_ = s.conn.Close() // it is closed to fail
		}
		s.cancel()
		return
	}
	if s.sentAt.IsZero() {
		s.sentAt = time.Now()
	}
}

// send carries one request and reads its answer, at most once. spends says that the request spends a refresh token.
func (t *Transport) send(ctx context.Context, w *wire, spends bool, before func(host string) error) (*answer, *sendError) {
	host := hostPort(w.url)
	if err := t.guardLiteral(w.url); err != nil {
		return nil, &sendError{detail: "the host is a special address; upstream.allow_private may allow it"}
	}
	traced, cancel := context.WithCancel(ctx)
	defer cancel()
	state := &sending{before: func() error { return before(host) }, cancel: cancel}
	traced = httptrace.WithClientTrace(traced, &httptrace.ClientTrace{GotConn: state.gotConn, WroteHeaders: state.wroteHeaders})
	req, err := http.NewRequestWithContext(traced, w.method, w.url.String(), nil)
	if err != nil {
		return nil, &sendError{detail: "the request cannot be made of the definition's values"}
	}
	req.Header = w.header
	if _, ok := req.Header["User-Agent"]; !ok {
		req.Header["User-Agent"] = []string{""} // removed by null: http.Transport would send its own
	}
	tr := t.reused
	switch {
	case len(w.body) > 0, w.method == http.MethodGet, w.method == http.MethodDelete:
		// A body that cannot be rewound, be it empty, keeps http.Transport from sending the request again on another connection.
		req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(w.body)), int64(len(w.body))
	case req.Header.Get("Idempotency-Key") != "" || req.Header.Get("X-Idempotency-Key") != "":
		// An empty body of a POST would be sent in chunks. Without one http.Transport takes these headers for its leave to send
		// it again; on a new connection it never does.
		tr = t.fresh
	}
	if spends {
		tr = t.fresh
	}
	res, err := tr.RoundTrip(req)
	if err != nil {
		return nil, state.failure(ctx, err)
	}
	defer res.Body.Close() //nolint:errcheck // nothing is left to be lost
	body, err := io.ReadAll(io.LimitReader(res.Body, t.settings.MaxAnswer+1))
	a := &answer{status: res.StatusCode, header: res.Header, body: body, sentAt: state.at()}
	if err != nil {
		e := state.failure(ctx, err)
		e.sent = true
		return a, e
	}
	if int64(len(body)) > t.settings.MaxAnswer {
		a.body = nil
		return a, &sendError{sent: true, detail: "the answer is too large"}
	}
	return a, nil
}

func (s *sending) at() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sentAt
}

// failure names what went wrong, in words of ours.
func (s *sending) failure(ctx context.Context, err error) *sendError {
	s.mu.Lock()
	e := &sendError{sent: !s.sentAt.IsZero(), refused: s.refused, detail: "the connection failed"}
	s.mu.Unlock()
	if e.refused {
		return &sendError{refused: true, detail: "too late to send"}
	}
	var (
		dns     *net.DNSError
		op      *net.OpError
		verify  *tls.CertificateVerificationError
		noTLS   tls.RecordHeaderError
		timeout interface{ Timeout() bool }
	)
	switch {
	case errors.Is(err, ssrf.ErrProhibitedIP), errors.Is(err, ssrf.ErrProhibitedNetwork), errors.Is(err, ssrf.ErrProhibitedPort):
		e.detail, e.sent = "the host resolves to a special address; upstream.allow_private may allow it", false
	case errors.As(err, &dns) && ctx.Err() == nil:
		e.detail = "the host's name cannot be resolved"
	case errors.As(err, &verify):
		e.detail = "the host's certificate cannot be verified"
	case errors.Is(ctx.Err(), context.Canceled):
		e.detail = "given up before the answer came"
	case ctx.Err() != nil || errors.As(err, &timeout) && timeout.Timeout():
		e.detail, e.timedOut = "no answer in time", errors.Is(ctx.Err(), context.DeadlineExceeded) || errors.Is(err, context.DeadlineExceeded)
	case errors.As(err, &op) && op.Op == "dial":
		e.detail = "the host cannot be reached"
	case errors.As(err, &noTLS):
		e.detail = "the host does not speak TLS"
	}
	return e
}
