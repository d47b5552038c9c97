package provider

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

const oauth = `
inputs: {client_id: {}, client_secret: {secret: true}}
obtain: {oauth2: "https://example.com/t"}
refresh: {oauth2: "https://example.com/t"}
`

var client = map[string]string{"client_id": "id", "!client_secret": "s3cret-value"}

// lost: nothing that came back says whether the request was processed.
func TestWhoseFailureAnAnswerIs(t *testing.T) {
	for name, c := range map[string]struct {
		answer  http.HandlerFunc
		obtain  broker.Level
		refresh broker.Level
		lost    bool
		code    string
	}{
		"invalid_client":            {says(401, "application/json", `{"error": "invalid_client"}`), broker.LevelCredential, broker.LevelCredential, false, "invalid_client"},
		"unauthorized_client":       {says(400, "application/json", `{"error": "unauthorized_client"}`), broker.LevelCredential, broker.LevelCredential, false, "unauthorized_client"},
		"invalid_grant":             {says(400, "application/json", `{"error": "invalid_grant"}`), broker.LevelCredential, broker.LevelGrant, false, "invalid_grant"},
		"invalid_request":           {says(400, "application/json", `{"error": "invalid_request"}`), broker.LevelCredential, broker.LevelGrant, false, "invalid_request"},
		"invalid_scope":             {says(400, "application/json", `{"error": "invalid_scope"}`), broker.LevelCredential, broker.LevelCredential, false, "invalid_scope"},
		"invalid_target":            {says(400, "application/json", `{"error": "invalid_target"}`), broker.LevelCredential, broker.LevelCredential, false, "invalid_target"},
		"an error inside a 200":     {jsonSays(`{"error": "invalid_grant", "access_token": "t"}`), broker.LevelCredential, broker.LevelGrant, false, "invalid_grant"},
		"as a form":                 {says(200, "application/x-www-form-urlencoded", "error=invalid_client"), broker.LevelCredential, broker.LevelCredential, false, "invalid_client"},
		"a code that nobody knows":  {says(400, "application/json", `{"error": "vendor_mood"}`), broker.LevelCredential, broker.LevelCredential, false, ""},
		"a code that is no code":    {says(400, "application/json", `{"error": "oh no, <b>secret</b>"}`), broker.LevelCredential, broker.LevelCredential, false, ""},
		"an object as a code":       {says(400, "application/json", `{"error": {"message": "x"}}`), broker.LevelCredential, broker.LevelCredential, false, ""},
		"401 without a code":        {says(401, "text/html", "<html>no</html>"), broker.LevelCredential, broker.LevelCredential, false, ""},
		"404":                       {says(404, "text/html", "<html>invalid_grant</html>"), broker.LevelCredential, broker.LevelCredential, false, ""},
		"429":                       {says(429, "", ""), broker.LevelRateLimited, broker.LevelRateLimited, false, ""},
		"500":                       {says(500, "application/json", `{}`), broker.LevelUpstream, broker.LevelUpstream, true, ""},
		"502 with HTML":             {says(502, "text/html", "<html>bad gateway</html>"), broker.LevelUpstream, broker.LevelUpstream, true, ""},
		"503 with a code":           {says(503, "application/json", `{"error": "temporarily_unavailable"}`), broker.LevelUpstream, broker.LevelUpstream, false, "temporarily_unavailable"},
		"an empty 200":              {says(200, "application/json", ""), broker.LevelResponse, broker.LevelResponse, true, ""},
		"a 200 without a token":     {jsonSays(`{"hello": "world"}`), broker.LevelResponse, broker.LevelResponse, true, ""},
		"a 200 with an empty token": {jsonSays(`{"access_token": ""}`), broker.LevelResponse, broker.LevelResponse, true, ""},
		"a 200 with a null token":   {jsonSays(`{"access_token": null}`), broker.LevelResponse, broker.LevelResponse, true, ""},
		"garbage":                   {jsonSays("\x00\xff{{{"), broker.LevelResponse, broker.LevelResponse, true, ""},
		"HTML with status 200":      {says(200, "text/html", "<html>log in</html>"), broker.LevelResponse, broker.LevelResponse, true, ""},
		"a JSON list":               {jsonSays(`[1, 2]`), broker.LevelResponse, broker.LevelResponse, true, ""},
		"two documents":             {jsonSays(`{"access_token": "a"} {"access_token": "b"}`), broker.LevelResponse, broker.LevelResponse, true, ""},
	} {
		t.Run(name, func(t *testing.T) {
			v := newVendor(t, c.answer)
			d := v.define(oauth)
			_, err := v.obtain(d, credential(client), broker.Selection{})
			e := upstreamError(t, err)
			_, err = v.refresh(d, credential(client), "r3fresh-value", nil)
			f := upstreamError(t, err)
			if e.Level != c.obtain || f.Level != c.refresh {
				t.Errorf("got levels %d and %d, want %d and %d", e.Level, f.Level, c.obtain, c.refresh)
			}
			if e.Lost != c.lost || f.Lost != c.lost || e.Code != c.code {
				t.Errorf("got %+v and %+v, want lost %v and code %q", e, f, c.lost, c.code)
			}
			for _, x := range []*broker.UpstreamError{e, f} {
				if text := fmt.Sprintf("%v %+v", x, *x); strings.Contains(text, "html") || strings.Contains(text, "s3cret") || strings.Contains(text, "r3fresh") || strings.Contains(text, "hello") {
					t.Errorf("%q shows what an upstream said, or a secret", text)
				}
				if len(x.Attempts) != 1 || x.Attempts[0].Reason == "" || x.Attempts[0].Host != "example.com:443" {
					t.Errorf("got attempts %+v", x.Attempts)
				}
			}
			if n := len(v.requests()); n != 2 {
				t.Errorf("got %d requests, want one for each exchange", n)
			}
		})
	}
}

func TestWhatACallerChoseIsTheCallersFailure(t *testing.T) {
	for code, want := range map[string]broker.Level{
		"invalid_scope": broker.LevelScope, "invalid_target": broker.LevelTarget, "invalid_request": broker.LevelRequest,
		"invalid_client": broker.LevelCredential, "invalid_grant": broker.LevelCredential, "vendor_mood": broker.LevelRequest,
	} {
		v := newVendor(t, says(400, "application/json", `{"error": "`+code+`"}`))
		_, err := v.obtain(v.define(oauth+"scopes: {}"), credential(client), broker.Selection{})
		if e := upstreamError(t, err); e.Level != want {
			t.Errorf("%s: got level %d, want %d", code, e.Level, want)
		}
	}
}

func TestTheDefinitionsRulesComeFirst(t *testing.T) {
	v := newVendor(t, says(401, "text/html", "<html>"))
	d := v.define(`
inputs: {u: {}}
obtain:
  post: https://example.com/t
  take: {token: t}
  error:
    code: fault.kind
    rules:
    - {status: [401, 403], means: credential, wait: 10m}
    - {code: busy, means: rate_limited}
    - {code: {not: [fine]}, status: 400, means: request}
    - {status: 500, means: grant}
  expect: {ok: true, n: [1, 2], gone: {present: false}, must: {present: true}, other: {not: bad}}
  ok: [200, 302]`)
	run := func(h http.HandlerFunc) error {
		v.answer = h
		_, err := v.obtain(d, credential(map[string]string{"u": "u"}), broker.Selection{})
		return err
	}
	if e := upstreamError(t, run(v.answer)); e.Level != broker.LevelCredential || e.Wait != 10*time.Minute {
		t.Errorf("got %+v, want a credential's failure and ten minutes", e)
	}
	good := `"ok": true, "n": 2, "must": "x", "t": "token"`
	for body, want := range map[string]broker.Level{
		`{` + good + `, "fault": {"kind": "busy"}}`:      broker.LevelRateLimited,
		`{"ok": false, "n": 2, "must": "x", "t": "tok"}`: broker.LevelResponse,
		`{"ok": true, "n": 3, "must": "x", "t": "tok"}`:  broker.LevelResponse,
		`{` + good + `, "gone": 1}`:                      broker.LevelResponse,
		`{"ok": true, "n": 2, "t": "tok"}`:               broker.LevelResponse,
		`{` + good + `, "other": "bad"}`:                 broker.LevelResponse,
	} {
		if e := upstreamError(t, run(jsonSays(body))); e.Level != want {
			t.Errorf("%s: got level %d (%s), want %d", body, e.Level, e.Detail, want)
		}
	}
	if e := upstreamError(t, run(says(400, "application/json", `{"fault": {"kind": "odd"}}`))); e.Level != broker.LevelRequest {
		t.Errorf("got level %d, want the request's", e.Level)
	}
	if e := upstreamError(t, run(says(500, "", ""))); e.Level != broker.LevelCredential {
		t.Errorf("got level %d: an obtain has no grant that could be refused", e.Level)
	}
	if err := run(jsonSays(`{` + good + `}`)); err != nil {
		t.Error(err)
	}
	if err := run(says(302, "application/json", `{`+good+`}`)); err != nil {
		t.Errorf("got %v: a 3xx that is ok is an answer", err)
	}
	if e := upstreamError(t, run(says(201, "application/json", `{`+good+`}`))); e.Level != broker.LevelResponse {
		t.Errorf("got level %d of a status that is not ok", e.Level)
	}
}

func TestRetryAfter(t *testing.T) {
	date := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	for said, want := range map[string]time.Duration{
		"30": 30 * time.Second, "0": 0, "-5": 0, "1.5": 1500 * time.Millisecond, "soon": 0,
		date.Add(2 * time.Minute).Format(http.TimeFormat): 2 * time.Minute, date.Add(-time.Hour).Format(http.TimeFormat): 0,
	} {
		v := newVendor(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Date", date.Format(http.TimeFormat)) // the upstream's own clock counts
			w.Header().Set("Retry-After", said)
			w.WriteHeader(429)
		})
		_, err := v.obtain(v.define(oauth), credential(client), broker.Selection{})
		if e := upstreamError(t, err); e.RetryAfter != want {
			t.Errorf("%s: got %v, want %v", said, e.RetryAfter, want)
		}
	}
	v := newVendor(t, says(429, "application/json", `{"wait": {"seconds": "90"}}`))
	d := v.define(`
inputs: {u: {optional: true}}
error: {retry_after: wait.seconds}
obtain: {post: "https://example.com/t", take: {token: t}}`)
	_, err := v.obtain(d, credential(nil), broker.Selection{})
	if e := upstreamError(t, err); e.RetryAfter != 90*time.Second {
		t.Errorf("got %v, want what the definition's place says", e.RetryAfter)
	}
}

func TestHowLongATokenLivesIsReadAsItIsWritten(t *testing.T) {
	in := func(d time.Duration) *time.Duration { return &d }
	for said, want := range map[string]*time.Duration{
		`3600`: in(time.Hour), `"3600"`: in(time.Hour), `3600.5`: in(time.Hour + 500*time.Millisecond), `" 60 "`: in(time.Minute), `1e3`: in(1000 * time.Second),
		`0`: in(0), `-10`: in(-10 * time.Second), `null`: nil, `"soon"`: nil, `{}`: nil, `true`: nil,
		`99999999999999999999999`: in(mostSeconds * time.Second), `-1e300`: in(-mostSeconds * time.Second), `"NaN"`: nil, `"Inf"`: nil,
	} {
		v := newVendor(t, jsonSays(`{"access_token": "t", "expires_in": `+said+`}`))
		a, err := v.obtain(v.define(oauth), credential(client), broker.Selection{})
		if err != nil {
			t.Fatal(err)
		}
		if got := a.Expiry.In; (got == nil) != (want == nil) || got != nil && *got != *want {
			t.Errorf("%s: got %v, want %v", said, got, want)
		}
		if a.Expiry.SentAt.IsZero() || a.Expiry.Date.IsZero() {
			t.Errorf("%s: got no sending time, or no Date", said)
		}
	}
}

func TestUnitsLayoutsAndPatterns(t *testing.T) {
	for take, c := range map[string]struct {
		body string
		in   time.Duration
		at   time.Time
	}{
		`expires_in: {path: e, unit: ms}`:                    {`{"t": "x", "e": 90000}`, 90 * time.Second, time.Time{}},
		`expires_in: {path: e, unit: m}`:                     {`{"t": "x", "e": "5"}`, 5 * time.Minute, time.Time{}},
		`expires_in: {path: e, unit: "d:hh:mm"}`:             {`{"t": "x", "e": "1:02:03"}`, 26*time.Hour + 3*time.Minute, time.Time{}},
		`expires_in: {path: e, pattern: "([0-9]+) seconds"}`: {`{"t": "x", "e": "in 70 seconds"}`, 70 * time.Second, time.Time{}},
		`expires_in: [{path: missing}, {path: e, unit: ms}]`: {`{"t": "x", "e": 1000}`, time.Second, time.Time{}},
		`expires_at: e`:                                                 {`{"t": "x", "e": "2026-05-01T12:00:00Z"}`, 0, time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)},
		`expires_at: {path: e, layout: unix}`:                           {`{"t": "x", "e": 1777636800}`, 0, time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)},
		`expires_at: {path: e, layout: unix_ms}`:                        {`{"t": "x", "e": "1777636800000"}`, 0, time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)},
		`expires_at: {path: e, layout: http}`:                           {`{"t": "x", "e": "Fri, 01 May 2026 12:00:00 GMT"}`, 0, time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)},
		`expires_at: {path: e, layout: "%Y-%m-%d %H:%M:%S"}`:            {`{"t": "x", "e": "2026-05-01 12:00:00"}`, 0, time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)},
		`expires_at: {path: v, each: list, where: {kind: token, n: 2}}`: {`{"t": "x", "list": [{"kind": "token", "n": 1, "v": "no"}, {"kind": "token", "n": 2, "v": "2026-05-01T12:00:00Z"}]}`, 0, time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)},
	} {
		v := newVendor(t, jsonSays(c.body))
		d := v.define("obtain: {post: \"https://example.com/t\", take: {token: t, " + take + "}}")
		a, err := v.obtain(d, credential(nil), broker.Selection{})
		if err != nil {
			t.Fatalf("%s: %v", take, err)
		}
		got := time.Duration(0)
		if a.Expiry.In != nil {
			got = *a.Expiry.In
		}
		if got != c.in || !a.Expiry.At.Equal(c.at) {
			t.Errorf("%s: got %v %v, want %v %v", take, got, a.Expiry.At, c.in, c.at)
		}
	}
}

func TestWhereATokenCanBe(t *testing.T) {
	const jwt = "e30.eyJleHAiOjE3Nzc2MzY4MDAsInRlbmFudCI6eyJpZCI6Ing3In19.c2ln"
	for take, c := range map[string]struct {
		answer http.HandlerFunc
		want   map[string]string
	}{
		`{token: {header: X-Token}}`: {func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X-Token", "h") }, map[string]string{"token": "h"}},
		`{token: {cookie: session}}`: {func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Set-Cookie"] = []string{"session=; Path=/", "session=one; Path=/", "session=two", "session=gone; Max-Age=0", "other=x"}
		}, map[string]string{"token": "two"}},
		`{token: {cookies: all}}`: {func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Set-Cookie"] = []string{"a=1", "b=2; Secure", "a=3", "c="}
		}, map[string]string{"token": "a=3; b=2"}},
		`{token: {text: true}}`:                                {says(200, "text/plain", " plain \n"), map[string]string{"token": "plain"}},
		`{token: [{header: X-T}, 'd."a.b"[-1]."@c"']}`:         {jsonSays(`{"d": {"a.b": [{}, {"@c": "deep"}]}}`), map[string]string{"token": "deep"}},
		`{token: t, id: {claim: tenant.id, of: token}}`:        {jsonSays(`{"t": "` + jwt + `"}`), map[string]string{"token": jwt, "id": "x7"}},
		`{token: a, n: n, o: {path: missing, optional: true}}`: {jsonSays(`{"a": "t", "n": 12345678901234567890}`), map[string]string{"token": "t", "n": "12345678901234567890"}},
	} {
		v := newVendor(t, c.answer)
		a, err := v.obtain(v.define("obtain: {post: \"https://example.com/t\", take: "+take+"}"), credential(nil), broker.Selection{})
		if err != nil {
			t.Errorf("%s: %v", take, err)
			continue
		}
		if len(a.Values) != len(c.want) {
			t.Errorf("%s: got %d values, want %v", take, len(a.Values), c.want)
		}
		for k, want := range c.want {
			if got := a.Values[k].Reveal(); got != want {
				t.Errorf("%s: got %s = %q, want %q", take, k, got, want)
			}
		}
		if strings.Contains(take, "claim") && a.Expiry.Claim.Unix() != 1777636800 {
			t.Errorf("got exp %v of the JWT", a.Expiry.Claim)
		}
	}
}

func TestAChainOfRequestsTakesWhatTheOnesBeforeGave(t *testing.T) {
	v := newVendor(t, nil)
	v.answer = func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/info":
			_, _ = w.Write([]byte(`{"IdentityServiceUrl": "https://www.example.com/id/"}`))
		case "/id/.well-known/openid-configuration":
			_, _ = w.Write([]byte(`{"token_endpoint": "https://example.com/token"}`))
		case "/token":
			_, _ = w.Write([]byte(`{"access_token": "t"}`))
		}
	}
	d := v.define(`
obtain:
- {get: "https://example.com/info", take: {identity: IdentityServiceUrl}}
- {get: "{{identity}}/.well-known/openid-configuration", take: {endpoint: token_endpoint}}
- {oauth2: "{{endpoint}}", auth: none, grant: none, params: {fixed: "1"}}`)
	a, err := v.obtain(d, credential(nil), broker.Selection{})
	if err != nil || len(a.Attempts) != 3 || d.Facts().Requests != 3 {
		t.Fatalf("got %+v %v, want three requests", a.Attempts, err)
	}
	v.answer = jsonSays(`{"IdentityServiceUrl": "http://169.254.169.254/"}`)
	if _, err := v.obtain(d, credential(nil), broker.Selection{}); err == nil || len(v.requests()) != 4 {
		t.Errorf("got %v: an address from an answer obeys the same rules", err)
	}
}

func TestDiscovery(t *testing.T) {
	v := newVendor(t, nil)
	doc := `{"issuer": "https://example.com/x", "token_endpoint": "https://example.com/token"}`
	v.answer = func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			_, _ = w.Write([]byte(`{"access_token": "t"}`))
			return
		}
		if r.URL.Path != "/x/.well-known/openid-configuration" {
			w.WriteHeader(404)
		}
		_, _ = w.Write([]byte(doc))
	}
	d := v.define(`
inputs: {issuer: {format: url}, client_id: {}, client_secret: {secret: true}}
obtain: {oauth2: {issuer: "{{issuer}}"}, auth: client_secret_basic}`)
	c := credential(map[string]string{"issuer": "https://example.com/x/", "client_id": "id", "!client_secret": "s"})
	if a, err := v.obtain(d, c, broker.Selection{}); err != nil || len(a.Attempts) != 2 {
		t.Fatalf("got %+v %v", a, err)
	}
	for _, bad := range []string{
		`{"issuer": "https://evil.example", "token_endpoint": "https://example.com/token"}`,
		`{"issuer": "https://example.com/x", "token_endpoint": "http://example.com/token"}`,
		`{"issuer": "https://example.com/x"}`, `[]`, ``,
	} {
		doc, d.endpoints = bad, newEndpoints()
		_, err := v.obtain(d, c, broker.Selection{})
		if e := upstreamError(t, err); e.Lost {
			t.Errorf("%s: nothing was spent, and it counts as lost", bad)
		}
	}
	for _, a := range v.requests()[2:] {
		if a.method != "GET" || a.header.Get("Authorization") != "" {
			t.Errorf("a client's secret went to %s %s", a.method, a.uri)
		}
	}
}

// TestWhatIsNoTokenIsRefused, and what it is instead is said.
func TestWhatIsNoTokenIsRefused(t *testing.T) {
	for body, want := range map[string]string{
		`{"access_token": true}`:                               "the answer has true or false for token at access_token",
		`{"access_token": ["x"]}`:                              "the answer has a list for token at access_token",
		`{"access_token": {"x": 1}}`:                           "the answer has an object for token at access_token",
		`{"access_token": "x", "token_type": "a\r\nb"}`:        "the answer has no word for token_type at token_type",
		`{"access_token": "x", "token_type": ["Bearer"]}`:      "the answer has a list for token_type",
		`{"access_token": "x", "refresh_token": true}`:         "the answer has true or false for refresh_token",
		`{"access_token": "x", "token_type": "mac"}`:           `as in present: {headers: {Authorization: "Bearer {{token}}"}}`,
		`{"access_token": "x", "scope": "a", "scope": "b"}`:    "the answer has no token at access_token: it is JSON that has a name twice",
		`{"access_token": "x",`:                                "it is no JSON",
		`{"access_token": 12345678901234567890, "a": {"b":1}}`: "",
	} {
		v := newVendor(t, jsonSays(body))
		_, err := v.obtain(v.define(oauth), credential(client), broker.Selection{})
		if want == "" {
			if err != nil {
				t.Errorf("%s: %v", body, err)
			}
			continue
		}
		if e := upstreamError(t, err); e.Level != broker.LevelResponse || !strings.Contains(e.Detail, want) {
			t.Errorf("%s: got %v, want %q", body, e, want)
		}
	}
}

// TestAFormWithANameTwiceIsRefused, as JSON is, if it is a name that is taken: nobody knows which is meant.
func TestAFormWithANameTwiceIsRefused(t *testing.T) {
	for body, name := range map[string]string{
		"access_token=a&access_token=b":                            "access_token",
		"access_token=a&access_token=a":                            "access_token",
		"access_token=a&expires_in=60&expires_in=9999999":          "expires_in",
		"access_token=a&refresh_token=x&refresh_token=y":           "refresh_token",
		"access_token=a&expires_in=60&hint=one&hint=two":           "",
		"access_token=a&token_type=Bearer&scope=one+two&hint=&n=1": "",
	} {
		v := newVendor(t, says(200, "application/x-www-form-urlencoded", body))
		_, err := v.obtain(v.define(oauth), credential(client), broker.Selection{})
		if name == "" {
			if err != nil {
				t.Errorf("%s: %v", body, err)
			}
			continue
		}
		if e := upstreamError(t, err); e.Level != broker.LevelResponse || !e.Lost || !strings.Contains(e.Detail, "a form that has "+name+" twice") {
			t.Errorf("%s: got %+v", body, e)
		}
	}
	v := newVendor(t, says(200, "application/x-www-form-urlencoded", "token=a&ok=yes&ok=no"))
	d := v.define("obtain: {post: https://example.com/t, expect: {ok: yes}, take: {token: token}}")
	_, err := v.obtain(d, credential(nil), broker.Selection{})
	if e := upstreamError(t, err); e.Level != broker.LevelResponse || !strings.Contains(e.Detail, "has ok twice") {
		t.Errorf("what is expected: got %+v", e)
	}
}

// TestAnAnswerThatIsTooLargeIsItsRequests: only its status says more.
func TestAnAnswerThatIsTooLargeIsItsRequests(t *testing.T) {
	for status, want := range map[int]broker.Level{
		200: broker.LevelResponse, 401: broker.LevelCredential, 404: broker.LevelCredential, 429: broker.LevelRateLimited, 503: broker.LevelUpstream,
	} {
		v := newVendor(t, says(status, "application/json", strings.Repeat(" ", 2<<20)))
		_, err := v.obtain(v.define(oauth), credential(client), broker.Selection{})
		if e := upstreamError(t, err); e.Level != want || e.Status != status || !strings.Contains(e.Detail, "too large") {
			t.Errorf("%d: got %+v, want level %d", status, e, want)
		}
	}
}

// TestOfScopesWithoutEndTheFirstAreKept: they are stored, and in every answer. That there are more is said by one that no wildcard of a policy stands for.
func TestOfScopesWithoutEndTheFirstAreKept(t *testing.T) {
	for granted, want := range map[string]int{
		strings.Repeat("a ", 999): 999, strings.Repeat("a ", 1000): 1000, strings.Repeat("a ", 19_000): 1001, strings.Repeat("a", 64<<10): 1, strings.Repeat("a", 64<<10+1): 1,
		strings.Repeat(strings.Repeat("b", 999)+" ", 100): 66,
	} {
		list, err := json.Marshal(strings.Fields(granted))
		if err != nil {
			t.Fatal(err)
		}
		for _, scope := range []string{`"` + granted + `"`, string(list)} {
			v := newVendor(t, jsonSays(`{"access_token": "t", "scope": `+scope+`}`))
			a, err := v.obtain(v.define(oauth), credential(client), broker.Selection{})
			if cut := len(a.Scopes) < len(strings.Fields(granted)) || len(granted) > 64<<10 && !strings.Contains(granted, " "); err != nil || len(a.Scopes) != want || cut != (a.Scopes[len(a.Scopes)-1] == "\ufffd") {
				t.Errorf("%d bytes: got %d scopes and %v, want %d", len(scope), len(a.Scopes), err, want)
			}
		}
	}
}

// TestWhatWasGrantedIsReadWhateverSeparatesIt: a policy is held against each of them.
func TestWhatWasGrantedIsReadWhateverSeparatesIt(t *testing.T) {
	for _, join := range []string{" ", ",", ", ", ";"} {
		for _, granted := range []string{"a.send b.read", "a.send,b.read", "a.send, b.read", "a.send" + join + "b.read", "a.send\u00a0b.read"} {
			v := newVendor(t, jsonSays(`{"access_token": "t", "scope": "`+granted+`"}`))
			a, err := v.obtain(v.define(oauth+"\nscopes: {join: '"+join+"'}"), credential(client), broker.Selection{})
			if want := []string{"a.send", "b.read"}; err != nil || !slices.Equal(a.Scopes, want) {
				t.Errorf("joined by %q, answered %q: got %q, %v", join, granted, a.Scopes, err)
			}
		}
	}
}

// TestNothingGrantedIsNothing, and not what was asked.
func TestNothingGrantedIsNothing(t *testing.T) {
	for _, granted := range []string{`""`, `" "`, `","`, `[]`} {
		v := newVendor(t, jsonSays(`{"access_token": "t", "scope": `+granted+`}`))
		a, err := v.obtain(v.define(oauth), credential(client), broker.Selection{})
		if err != nil || len(a.Scopes) != 0 || (a.Scopes == nil) != (granted == `""`) {
			t.Errorf("%s: got %#v, %v", granted, a.Scopes, err)
		}
	}
}

// TestAScopeThatATerminalObeysIsNone: callers print what they were granted. That there was one is said.
func TestAScopeThatATerminalObeysIsNone(t *testing.T) {
	v := newVendor(t, jsonSays(`{"access_token": "t", "scope": ["read accounts", "a\u001b[31m", "b\u009b", "c\u202e", "\u0000", "über"]}`))
	a, err := v.obtain(v.define(oauth), credential(client), broker.Selection{})
	if want := []string{"read accounts", "über", "\ufffd"}; err != nil || !slices.Equal(a.Scopes, want) {
		t.Errorf("got %q, %v, want %q", a.Scopes, err, want)
	}
}
