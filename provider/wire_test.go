package provider

import (
	"errors"
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// TestARequestWithoutABodyIsNotSentTwice: http.Transport takes an Idempotency-Key for its leave to send a POST again that has
// no body, when a kept connection turns out to be dead.
func TestARequestWithoutABodyIsNotSentTwice(t *testing.T) {
	for name, text := range map[string]string{
		"a POST with an idempotency key": `obtain: {post: "https://example.com/t", headers: {Idempotency-Key: "1"}, text: "", take: {token: t}}`,
		"another spelling":               `obtain: {put: "https://example.com/t", headers: {x-idempotency-key: "1"}, take: {token: t}}`,
		"a POST":                         `obtain: {post: "https://example.com/t", take: {token: t}}`,
		"a DELETE":                       `obtain: {delete: "https://example.com/t", take: {token: t}}`,
		"a GET":                          `obtain: {get: "https://example.com/t", headers: {Idempotency-Key: "1"}, take: {token: t}}`,
	} {
		t.Run(name, func(t *testing.T) {
			var n atomic.Int64
			v := newVendor(t, func(w http.ResponseWriter, _ *http.Request) {
				if n.Add(1) == 1 {
					_, _ = io.WriteString(w, `{"t": "x"}`)
					return
				}
				if conn, _, err := w.(http.Hijacker).Hijack(); err == nil {
					_ = conn.Close()
				}
			})
			d := v.define(text)
			if _, err := v.obtain(d, credential(nil), broker.Selection{}); err != nil {
				t.Fatal(err)
			}
			if _, err := v.obtain(d, credential(nil), broker.Selection{}); !upstreamError(t, err).Lost {
				t.Errorf("got %v, want lost", err)
			}
			if got := n.Load(); got != 2 {
				t.Errorf("got %d requests of 2 exchanges", got)
			}
		})
	}
}

// TestTheLastMomentToRefuseIsWhenTheConnectionIsThere: what takes long is the way there, and a lease may end on it.
func TestTheLastMomentToRefuseIsWhenTheConnectionIsThere(t *testing.T) {
	for name, text := range map[string]string{
		"a form":        oauth,
		"an empty body": "inputs: {refresh_token: {secret: true, seed: true}}\nrefresh: {post: \"https://example.com/t\", headers: {Authorization: \"Bearer {{refresh_token}}\"}, take: {token: t}}",
		"a GET":         "inputs: {refresh_token: {secret: true, seed: true}}\nrefresh: {get: \"https://example.com/t\", query: {r: \"{{refresh_token}}\"}, take: {token: t}}",
	} {
		t.Run(name, func(t *testing.T) {
			v := newVendor(t, jsonSays(`{"access_token": "t", "t": "t"}`))
			d := v.define(text)
			asked := 0
			_, err := d.Exchange(t.Context(), broker.Exchange{
				Run: broker.Refresh, Credential: credential(client), RefreshToken: broker.NewSecret("r"),
				BeforeSend: func(string) error {
					asked++
					v.mu.Lock()
					defer v.mu.Unlock()
					if v.opened == 0 {
						t.Error("it was asked before there was a connection")
					}
					return errors.New("too late")
				},
			})
			if e := upstreamError(t, err); !e.Refused || e.Lost || len(e.Attempts) != 0 {
				t.Errorf("got %+v, want refused, not lost, and no attempt", e)
			}
			if n := len(v.requests()); n != 0 || asked != 1 {
				t.Errorf("got %d requests, asked %d times, want none and once", n, asked)
			}
		})
	}
}

// A chain whose second request spends the refresh token: what goes wrong before it has lost nothing, what goes wrong after it
// has, whatever it is.
const chain = `
inputs: {refresh_token: {secret: true, seed: true}, client_id: {optional: true}}
refresh:
- {get: "https://example.com/one", take: {way: w}}
- {post: "https://example.com/two", form: {r: "{{refresh_token}}"}, take: {session: s}}
- {post: "https://example.com/three", form: {s: "{{session}}", w: "{{way}}"}, take: {token: t}}
`

func TestLostCountsWhatTheRunHasSpent(t *testing.T) {
	cut := func(w http.ResponseWriter, _ *http.Request) {
		if conn, _, err := w.(http.Hijacker).Hijack(); err == nil {
			_ = conn.Close()
		}
	}
	good := jsonSays(`{"w": "w", "s": "s", "t": "t"}`)
	for _, c := range []struct {
		path   string
		answer http.HandlerFunc
		lost   bool
	}{
		{"/one", cut, false}, {"/one", jsonSays(`{}`), false}, {"/one", says(500, "", ""), false}, {"/one", says(401, "", ""), false},
		{"/two", cut, true}, {"/two", jsonSays(`{}`), true}, {"/two", says(500, "", ""), true}, {"/two", says(401, "", ""), false},
		{"/two", says(400, "application/json", `{"error": "invalid_client"}`), false},
		{"/three", cut, true}, {"/three", jsonSays(`{}`), true}, {"/three", says(500, "", ""), true}, {"/three", says(401, "", ""), true},
		{"/three", says(400, "application/json", `{"error": "invalid_client"}`), true},
	} {
		v := newVendor(t, nil)
		v.answer = func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == c.path {
				c.answer(w, r)
				return
			}
			good(w, r)
		}
		_, err := v.refresh(v.define(chain), credential(nil), "r", nil)
		e := upstreamError(t, err)
		if e.Lost != c.lost {
			t.Errorf("%s: got %+v, want lost %v", c.path, e, c.lost)
		}
		if e.InvalidClient && c.lost {
			t.Errorf("%s: another secret would be tried with a refresh token that is spent", c.path)
		}
	}
}

func TestARefusalInTheMiddleOfAChainKnowsWhatWasSpent(t *testing.T) {
	for after, lost := range []bool{false, false, true} {
		v := newVendor(t, jsonSays(`{"w": "w", "s": "s", "t": "t"}`))
		n := 0
		_, err := v.define(chain).Exchange(t.Context(), broker.Exchange{
			Run: broker.Refresh, Credential: credential(nil), RefreshToken: broker.NewSecret("r"),
			BeforeSend: func(string) error {
				if n++; n > after {
					return errors.New("too late")
				}
				return nil
			},
		})
		if e := upstreamError(t, err); !e.Refused || e.Lost != lost || len(v.requests()) != after {
			t.Errorf("after %d requests: got %+v and %d requests, want lost %v", after, e, len(v.requests()), lost)
		}
	}
}

func TestWhoAmIAfterTheTokenIsAskedWithIt(t *testing.T) {
	v := newVendor(t, nil)
	v.answer = func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/login" {
			_, _ = io.WriteString(w, `{"access_token": "tok", "expires_in": 60, "token_type": "bearer", "scope": "a b"}`)
			return
		}
		_, _ = io.WriteString(w, `{"accounts": [{"name": "other", "id": 1}, {"name": "mine", "id": 2}]}`)
	}
	d := v.define(`
inputs: {account: {}}
obtain:
- {oauth2: "https://example.com/login", auth: none}
- {get: "https://example.com/me", with_token: true, take: {account_id: {path: id, each: accounts, where: {name: "{{account}}", gone: null}}}}
attributes: [account_id]`)
	began := time.Now()
	a, err := v.obtain(d, credential(map[string]string{"account": "mine"}), broker.Selection{})
	if err != nil {
		t.Fatal(err)
	}
	if a.Values["token"].Reveal() != "tok" || a.Values["account_id"].Reveal() != "2" || a.TokenType != "bearer" || len(a.Scopes) != 2 {
		t.Errorf("got %+v", a)
	}
	if a.Expiry.In == nil || *a.Expiry.In != time.Minute || a.Expiry.SentAt.Before(began) {
		t.Errorf("got %+v, want what the request says that brought the token", a.Expiry)
	}
	if got := v.requests()[1].header.Get("Authorization"); got != "Bearer tok" {
		t.Errorf("got %q", got)
	}
	if _, err := v.obtain(d, credential(map[string]string{"account": "nobody's"}), broker.Selection{}); upstreamError(t, err).Level != broker.LevelResponse {
		t.Errorf("got %v of a list without the account", err)
	}
}

func TestWhatIsNoTextIsNotTaken(t *testing.T) {
	for take, answer := range map[string]http.HandlerFunc{
		`{header: X-T}`: func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X-T", "a\xff") },
		`{text: true}`:  says(200, "text/plain", "a\xff"),
	} {
		v := newVendor(t, answer)
		_, err := v.obtain(v.define("obtain: {post: \"https://example.com/t\", take: {token: "+take+"}}\npresent: {query: {k: \"{{token}}\"}}"), credential(nil), broker.Selection{})
		if e := upstreamError(t, err); e.Level != broker.LevelResponse {
			t.Errorf("%s: got %+v", take, e)
		}
	}
}

func TestADeclaredRetryAfterMayBeATime(t *testing.T) {
	at := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	v := newVendor(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", at.Add(-90*time.Second).Format(http.TimeFormat))
		w.Header().Set("X-RateLimit-Reset", "1777636800")
		w.WriteHeader(http.StatusTooManyRequests)
	})
	d := v.define("error: {retry_after: {header: X-RateLimit-Reset, layout: unix}}\nobtain: {oauth2: https://example.com/t, auth: none}")
	_, err := v.obtain(d, credential(nil), broker.Selection{})
	if e := upstreamError(t, err); e.RetryAfter != 90*time.Second {
		t.Errorf("got %v, want the time until then by the upstream's clock", e.RetryAfter)
	}
}

func TestAUserAgentIsOursUnlessTheDefinitionSaysOtherwise(t *testing.T) {
	for headers, want := range map[string]string{"{}": "tokenbroker", "{User-Agent: mine/1}": "mine/1", "{User-Agent: null}": ""} {
		v := newVendor(t, jsonSays(`{"t": "x"}`))
		if _, err := v.obtain(v.define("obtain: {post: \"https://example.com/t\", headers: "+headers+", take: {token: t}}"), credential(nil), broker.Selection{}); err != nil {
			t.Fatal(err)
		}
		if got := v.requests()[0].header.Get("User-Agent"); got != want {
			t.Errorf("%s: got %q, want %q", headers, got, want)
		}
	}
}
