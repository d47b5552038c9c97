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
	"strings"
	"sync/atomic"
	"time"

	"code.dny.dev/ssrf"
)

// An answer is what came back.
type answer struct {
	status int
	header http.Header
	body   []byte
	sentAt time.Time
	took   time.Duration
	host   string
	doc    any // the parsed body, where it is JSON or a form
	parsed bool
	kind   string
	// html: a page for people, as proxies and login forms send.
	html bool
}

// A sendError is why nothing usable came back. It holds no foreign text.
type sendError struct {
	// sent: the request may have reached the upstream.
	sent bool
	// refused: beforeSend refused.
	refused  bool
	timedOut bool
	detail   string
}

func (e *sendError) Error() string { return e.detail }

// guarded is a request's body. Its first read is the moment at which the request is written: the last one at which it can be
// refused (what is on the wire by then is a header without its body, which nobody processes), and from which on it counts as
// sent. Having no way to be rewound, it also keeps http.Transport from sending the request again on another connection.
type guarded struct {
	r      io.Reader
	before func() error
	read   bool
	state  *sending
}

type sending struct {
	sent    atomic.Bool
	refused atomic.Bool
	at      atomic.Int64
}

func (s *sending) mark() {
	if s.sent.CompareAndSwap(false, true) {
		s.at.Store(time.Now().UnixNano())
	}
}

func (g *guarded) Read(p []byte) (int, error) {
	if !g.read {
		g.read = true
		if err := g.before(); err != nil {
			g.state.refused.Store(true)
			return 0, err
		}
		g.state.mark()
	}
	return g.r.Read(p)
}

func (g *guarded) Close() error { return nil }

// send carries one request and reads its answer, at most once. spends says that the request spends a refresh token.
func (t *Transport) send(ctx context.Context, w *wire, spends bool, before func(host string) error) (*answer, *sendError) {
	host := hostPort(w.url)
	if err := t.guardLiteral(w.url); err != nil {
		return nil, &sendError{detail: "the host is a special address; upstream.allow_private may allow it"}
	}
	state := &sending{}
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteHeaders: state.mark})
	req, err := http.NewRequestWithContext(ctx, w.method, w.url.String(), nil)
	if err != nil {
		return nil, &sendError{detail: "the request cannot be made of the definition's values"}
	}
	req.Header = w.header
	if ua := req.Header.Get("User-Agent"); ua == "" {
		req.Header.Set("User-Agent", "tokenbroker")
	}
	if before(host) != nil {
		return nil, &sendError{refused: true, detail: "too late to send"}
	}
	// An empty body of a POST has no first read: with one it would be sent in chunks.
	if len(w.body) > 0 || w.method == http.MethodGet || w.method == http.MethodDelete {
		req.Body = &guarded{r: bytes.NewReader(w.body), before: func() error { return before(host) }, state: state}
		req.ContentLength = int64(len(w.body))
	}
	tr := t.reused
	if spends {
		tr = t.fresh
	}
	started := time.Now()
	res, err := tr.RoundTrip(req)
	if err != nil {
		return nil, state.failure(ctx, err)
	}
	defer res.Body.Close() //nolint:errcheck // nothing is left to be lost
	body, err := io.ReadAll(io.LimitReader(res.Body, t.settings.MaxAnswer+1))
	a := &answer{status: res.StatusCode, header: res.Header, body: body, host: host, took: time.Since(started)}
	a.sentAt = started
	if at := state.at.Load(); at != 0 {
		a.sentAt = started.Add(time.Unix(0, at).Sub(started.Round(0)))
	}
	if err != nil {
		e := state.failure(ctx, err)
		e.sent = true
		return a, e
	}
	if int64(len(body)) > t.settings.MaxAnswer {
		return a, &sendError{sent: true, detail: "the answer is too large"}
	}
	return a, nil
}

// failure names what went wrong, in words of ours.
func (s *sending) failure(ctx context.Context, err error) *sendError {
	e := &sendError{sent: s.sent.Load(), detail: "the connection failed"}
	if s.refused.Load() {
		return &sendError{refused: true, detail: "too late to send"}
	}
	var (
		dns     *net.DNSError
		op      *net.OpError
		verify  *tls.CertificateVerificationError
		timeout interface{ Timeout() bool }
	)
	switch {
	case errors.Is(err, ssrf.ErrProhibitedIP), errors.Is(err, ssrf.ErrProhibitedNetwork), errors.Is(err, ssrf.ErrProhibitedPort):
		e.detail, e.sent = "the host resolves to a special address; upstream.allow_private may allow it", false
	case errors.As(err, &dns):
		e.detail = "the host's name cannot be resolved"
	case errors.As(err, &verify):
		e.detail = "the host's certificate cannot be verified"
	case errors.Is(ctx.Err(), context.Canceled):
		e.detail = "given up before the answer came"
	case ctx.Err() != nil || errors.As(err, &timeout) && timeout.Timeout():
		e.detail, e.timedOut = "no answer in time", errors.Is(ctx.Err(), context.DeadlineExceeded) || errors.Is(err, context.DeadlineExceeded)
	case errors.As(err, &op) && op.Op == "dial":
		e.detail = "the host cannot be reached"
	case strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		e.detail = "the host does not speak TLS"
	}
	return e
}
