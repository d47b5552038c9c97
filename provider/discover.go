package provider

import (
	"context"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/provider/transport"
)

const (
	// endpointAge is how long what an issuer said of its token endpoint is believed.
	endpointAge = time.Hour
	// endpointsMost bounds the issuers of one definition that are remembered.
	endpointsMost = 256
)

// endpoints are the token endpoints that issuers named, of one definition. Safe for concurrent use.
type endpoints struct {
	mu    sync.Mutex
	known map[string]endpoint
}

type endpoint struct {
	url   *url.URL
	until time.Time
}

func newEndpoints() *endpoints { return &endpoints{known: map[string]endpoint{}} }

// of returns an issuer's endpoint, which the caller owns; nil: it is to be asked for.
func (e *endpoints) of(issuer string, now time.Time) *url.URL {
	e.mu.Lock()
	defer e.mu.Unlock()
	x, ok := e.known[issuer]
	if !ok || !now.Before(x.until) {
		delete(e.known, issuer)
		return nil
	}
	u := *x.url
	return &u
}

func (e *endpoints) keep(issuer string, u *url.URL, now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.known) >= endpointsMost {
		oldest := ""
		for i, x := range e.known {
			if oldest == "" || x.until.Before(e.known[oldest].until) {
				oldest = i
			}
		}
		delete(e.known, oldest)
	}
	kept := *u
	e.known[issuer] = endpoint{&kept, now.Add(endpointAge)}
}

// forget an endpoint, by whichever issuer it was named.
func (e *endpoints) forget(u *url.URL) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for i, x := range e.known {
		if x.url.Host == u.Host && x.url.Path == u.Path { // the query is the request's
			delete(e.known, i)
		}
	}
}

// moved reports whether a token endpoint failed as one does that is elsewhere now.
func moved(f *broker.UpstreamError) bool {
	switch f.Status {
	case http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusGone, http.StatusMisdirectedRequest:
		return true
	case 0:
		return !f.Refused
	}
	return f.Status >= 300 && f.Status < 400
}

// discover asks the issuer where its token endpoint is (OpenID Connect Discovery section 4), unless it said so a short while ago.
func (e *exchange) discover(ctx context.Context, q *request) (*url.URL, *broker.UpstreamError) {
	issuer, err := e.d.url(*q.issuer, e.v)
	if err != nil {
		return nil, e.cannotBuild([]text{q.issuer.written}, q, err)
	}
	if u := e.d.endpoints.of(issuer.String(), time.Now()); u != nil {
		return u, nil
	}
	const document = "/.well-known/openid-configuration"
	at := *issuer
	at.Path, at.RawPath = trimSlash(at.Path)+document, trimSlash(at.RawPath)+document
	dq := &request{method: http.MethodGet, at: q.at, answer: "json"}
	e.spends = false
	a, failure := e.send(ctx, dq, &transport.Request{Method: http.MethodGet, URL: &at, Header: defaultHeader()})
	if failure != nil {
		failure.Lost = false // it only asked where to ask
		return nil, failure
	}
	doc, _ := a.doc.(map[string]any)
	said, _ := doc["issuer"].(string)
	endpoint, _ := doc["token_endpoint"].(string)
	u, err := e.d.whole(endpoint)
	switch {
	case trimSlash(said) != trimSlash(issuer.String()):
		return nil, &broker.UpstreamError{Level: broker.LevelResponse, Status: a.Status, Detail: "the discovery document names a different issuer, or none"}
	case err != nil:
		return nil, &broker.UpstreamError{Level: broker.LevelResponse, Status: a.Status, Detail: "the discovery document has no token_endpoint that may be asked"}
	}
	e.d.endpoints.keep(issuer.String(), u, time.Now())
	return u, nil
}

func trimSlash(s string) string {
	for len(s) > 0 && s[len(s)-1] == '/' {
		s = s[:len(s)-1]
	}
	return s
}
