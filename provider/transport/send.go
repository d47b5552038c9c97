package transport

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync"
	"syscall"
	"time"

	"code.dny.dev/ssrf"
	"go.opentelemetry.io/otel/propagation"

	"github.com/tokenbroker/tokenbroker/broker/trace"
)

// A Request is ready to be sent. What is in it is secret.
type Request struct {
	Method string
	URL    *url.URL
	Header http.Header
	Body   []byte
}

// An Answer is what came back.
type Answer struct {
	Status int
	Header http.Header
	// Body is whole, or nil where it is too large.
	Body []byte
	// SentAt is when the request was sent; zero: it was answered before.
	SentAt time.Time
}

// An Error is why nothing usable came back. It holds no foreign text.
type Error struct {
	// Sent: the request may have reached the upstream.
	Sent bool
	// Refused: before refused.
	Refused bool
	// TooLarge: an answer came, and its body is larger than MaxAnswer.
	TooLarge bool
	// Never: no setting lets the host be asked, and it does not pass.
	Never  bool
	Detail string
}

// Error implements error.
func (e *Error) Error() string { return e.Detail }

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

// Send carries one request and reads its answer, at most once, bounded by ctx. spends says that the request spends a refresh
// token: it has a connection of its own. before is asked when the request is about to leave, with its host and port; if it
// fails, the request is not sent. Where both are returned, the answer has a status and its header, and no whole body.
func (t *Transport) Send(ctx context.Context, r *Request, spends bool, before func(host string) error) (*Answer, *Error) {
	host := HostPort(r.URL)
	ctx, step := trace.Ask(ctx, r.Method, trace.Request(r.Method, host)...)
	a, err := t.send(ctx, r, host, spends, before)
	failed := ""
	if a != nil {
		step.Say(trace.Status(a.Status))
		if a.Status >= http.StatusBadRequest {
			failed = "it was answered with an error"
		}
	}
	if err != nil {
		failed = err.Detail
	}
	step.EndSaying(failed)
	return a, err
}

func (t *Transport) send(ctx context.Context, r *Request, host string, spends bool, before func(host string) error) (*Answer, *Error) {
	if err := t.guardLiteral(r.URL); errors.Is(err, errNever) {
		return nil, &Error{Never: true, Detail: "the host is a special address that is never asked, as those of cloud metadata are"}
	} else if err != nil {
		return nil, &Error{Detail: "the host is a special address; upstream.allow_private may allow it"}
	}
	traced, cancel := context.WithCancel(ctx)
	defer cancel()
	state := &sending{before: func() error { return before(host) }, cancel: cancel}
	traced = httptrace.WithClientTrace(traced, &httptrace.ClientTrace{GotConn: state.gotConn, WroteHeaders: state.wroteHeaders})
	req, err := http.NewRequestWithContext(traced, r.Method, r.URL.String(), nil)
	if err != nil {
		return nil, &Error{Detail: "the request cannot be made of the definition's values"}
	}
	req.Header = r.Header
	if _, ok := req.Header["User-Agent"]; !ok {
		req.Header["User-Agent"] = []string{""} // removed by null: http.Transport would send its own
	}
	if t.settings.Propagate {
		trace.Inject(ctx, propagation.HeaderCarrier(req.Header))
	}
	conns := t.connections()
	tr := conns.reused
	switch {
	case len(r.Body) > 0, r.Method == http.MethodGet, r.Method == http.MethodDelete:
		// A body that cannot be rewound, be it empty, keeps http.Transport from sending the request again on another connection.
		req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(r.Body)), int64(len(r.Body))
	case req.Header.Get("Idempotency-Key") != "" || req.Header.Get("X-Idempotency-Key") != "":
		// An empty body of a POST would be sent in chunks. Without one http.Transport takes these headers for its leave to send
		// it again; on a new connection it never does.
		tr = conns.fresh
	}
	if spends {
		tr = conns.fresh
	}
	res, err := tr.RoundTrip(req)
	if err != nil {
		return nil, state.failure(ctx, err)
	}
	defer res.Body.Close() //nolint:errcheck // nothing is left to be lost
	body, err := io.ReadAll(io.LimitReader(res.Body, t.settings.MaxAnswer+1))
	a := &Answer{Status: res.StatusCode, Header: res.Header, Body: body, SentAt: state.at()}
	if err != nil {
		e := state.failure(ctx, err)
		e.Sent = true
		return a, e
	}
	if int64(len(body)) > t.settings.MaxAnswer {
		a.Body = nil
		return a, &Error{Sent: true, TooLarge: true, Detail: "the answer is too large"}
	}
	return a, nil
}

func (s *sending) at() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sentAt
}

// failure names what went wrong, in words of ours.
func (s *sending) failure(ctx context.Context, err error) *Error {
	s.mu.Lock()
	e := &Error{Sent: !s.sentAt.IsZero(), Refused: s.refused, Detail: "the connection failed"}
	s.mu.Unlock()
	if e.Refused {
		return &Error{Refused: true, Detail: "too late to send"}
	}
	var (
		dns     *net.DNSError
		op      *net.OpError
		verify  *tls.CertificateVerificationError
		noTLS   tls.RecordHeaderError
		timeout interface{ Timeout() bool }
	)
	switch {
	case errors.Is(err, errNever):
		e.Detail, e.Sent, e.Never = "the host resolves to a special address that is never asked, as those of cloud metadata are", false, true
	case errors.Is(err, ssrf.ErrProhibitedIP), errors.Is(err, ssrf.ErrProhibitedNetwork), errors.Is(err, ssrf.ErrProhibitedPort):
		e.Detail, e.Sent = "the host resolves to a special address; upstream.allow_private may allow it", false
	case errors.As(err, &dns) && ctx.Err() == nil:
		e.Detail = "the host's name cannot be resolved"
	case errors.As(err, &verify):
		e.Detail = unverified(verify.Err)
	case errors.Is(context.Cause(ctx), context.Canceled):
		e.Detail = "given up before the answer came"
	case ctx.Err() != nil || errors.As(err, &timeout) && timeout.Timeout():
		e.Detail = "no answer in time"
	case errors.Is(err, syscall.ECONNREFUSED):
		e.Detail = "the host refuses the connection: nobody listens there"
	case errors.As(err, &op) && op.Op == "dial":
		e.Detail = "the host cannot be reached"
	case errors.As(err, &noTLS):
		e.Detail = "the host does not speak TLS"
	}
	return e
}

// unverified says why a certificate is not trusted, and what to set if it is right.
func unverified(err error) string {
	const what = "the host's certificate cannot be verified: "
	var (
		unknown x509.UnknownAuthorityError
		invalid x509.CertificateInvalidError
		name    x509.HostnameError
	)
	switch {
	case errors.As(err, &name):
		return what + "it is for another name"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return what + "it has expired, or is not valid yet; or this machine's clock is wrong"
	case errors.As(err, &unknown):
		return what + "this machine does not know who has signed it; upstream.ca_file names authorities of your own"
	}
	return what + "it is not one for a server of this name, or not well made"
}
