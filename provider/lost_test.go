package provider

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
)

func TestLostIsExact(t *testing.T) {
	for _, x := range []struct {
		what        string
		status      int
		media, body string
		extra       string
		lost        bool
		level       broker.Level
	}{
		{"an unknown code inside 200", 200, "application/json", `{"error":"bad_refresh_token"}`, "", false, broker.LevelResponse},
		{"html inside 200", 200, "text/html", "<html>sorry</html>", "", true, broker.LevelResponse},
		{"garbage inside 200", 200, "application/json", `{"access_token":`, "", true, broker.LevelResponse},
		{"white space inside 200", 200, "application/json", " \n", "", true, broker.LevelResponse},
		{"json without a token", 200, "application/json", `{}`, "", true, broker.LevelResponse},
		{"a rule that says upstream of a 503", 503, "text/plain", "x", "error: {rules: [{status: 503, means: upstream}]}", true, broker.LevelUpstream},
		{"a rule that says rate_limited of a 503", 503, "text/plain", "x", "error: {rules: [{status: 503, means: rate_limited}]}", false, broker.LevelRateLimited},
		{"a rule that says grant of a 500", 500, "text/plain", "x", "error: {rules: [{status: 500, means: grant}]}", false, broker.LevelGrant},
		{"server_error", 500, "application/json", `{"error":"server_error"}`, "", true, broker.LevelUpstream},
		{"invalid_grant behind 503", 503, "application/json", `{"error":"invalid_grant"}`, "", false, broker.LevelGrant},
		{"a bare 400", 400, "text/html", "<html>", "", false, broker.LevelCredential},
		{"a redirect", 302, "text/html", "<html>", "", true, broker.LevelCredential},
		{"429", 429, "text/html", "<html>", "", false, broker.LevelRateLimited},
		{"502", 502, "text/html", "<html>", "", true, broker.LevelUpstream},
		{"error: false is no error", 200, "application/json", `{"error":false,"access_token":"t"}`, "", false, -1},
		{"error: {} is an error", 200, "application/json", `{"error":{"code":5},"access_token":"t"}`, "", false, broker.LevelResponse},
		{"an error in words", 200, "application/json", `{"error":"sorry, no!","access_token":"t"}`, "", false, broker.LevelResponse},
		{"two documents", 200, "application/json", `{"access_token":"t"}]`, "", true, broker.LevelResponse},
		{"a name twice", 200, "application/json", `{"access_token":"a","access_token":"b"}`, "", true, broker.LevelResponse},
		{"deep", 200, "application/json", strings.Repeat("[", 2000) + strings.Repeat("]", 2000), "", true, broker.LevelResponse},
		{"a byte order mark", 200, "application/json", "\ufeff" + token200, "", false, -1},
	} {
		t.Run(x.what, func(t *testing.T) {
			v := newVendor(t, says(x.status, x.media, x.body))
			d := v.define("inputs: {refresh_token: {secret: true, seed: true}}\n" + x.extra + "\nrefresh: {oauth2: https://example.com/t, auth: none}")
			_, err := v.refresh(d, credential(nil), "r", nil)
			if x.level < 0 {
				if err != nil {
					t.Errorf("got %v", err)
				}
				return
			}
			if err == nil {
				t.Fatal("no failure")
			}
			e := upstreamError(t, err)
			if e.Lost != x.lost || e.Level != x.level {
				t.Errorf("got lost %v level %d, want %v %d (%s)", e.Lost, e.Level, x.lost, x.level, e.Detail)
			}
		})
	}
}

func TestARuleMatchesACodeThatCannotBeShown(t *testing.T) {
	v := newVendor(t, says(200, "application/json", `{"message":"Wrong password!"}`))
	d := v.define(`obtain:
  post: https://example.com/t
  take: {token: token}
  error: {code: message, rules: [{code: "Wrong password!", means: credential}]}`)
	_, err := v.obtain(d, credential(nil), broker.Selection{})
	if e := upstreamError(t, err); e.Level != broker.LevelCredential || e.Code != "" {
		t.Errorf("got %+v", e)
	}
}

func TestASecretThatIsEchoedAsACodeIsNotShown(t *testing.T) {
	v := newVendor(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(400)
		_, _ = io.WriteString(w, `{"error":"hunter22-is-wrong"}`)
	})
	d := v.define("inputs: {client_id: {}, client_secret: {secret: true}}\nobtain: {oauth2: https://example.com/t}")
	_, err := v.obtain(d, credential(map[string]string{"client_id": "i", "!client_secret": "hunter22"}), broker.Selection{})
	e := upstreamError(t, err)
	if strings.Contains(e.Code, "hunter22") || strings.Contains(e.Attempts[0].UpstreamError, "hunter22") {
		t.Error("it is shown")
	}
}

func TestADeclaredRetryAfterHasItsUnit(t *testing.T) {
	v := newVendor(t, says(429, "application/json", `{"wait": 1500}`))
	d := v.define("error: {retry_after: {path: wait, unit: ms}}\nobtain: {oauth2: https://example.com/t, auth: none}")
	_, err := v.obtain(d, credential(nil), broker.Selection{})
	if e := upstreamError(t, err); e.RetryAfter.Milliseconds() != 1500 {
		t.Errorf("got %v", e.RetryAfter)
	}
}

func TestALifetimeThatNoNumberHoldsIsUnknown(t *testing.T) {
	for body, want := range map[string]bool{`1e300`: true, `-1e300`: true, `1e400`: false, `"1e400"`: false, `-1e400`: false, `"NaN"`: false, `"Infinity"`: false, `"0x10"`: false} {
		v := newVendor(t, jsonSays(`{"access_token": "t", "expires_in": `+body+`}`))
		d := v.define("obtain: {oauth2: https://example.com/t, auth: none}")
		a, err := v.obtain(d, credential(nil), broker.Selection{})
		if err != nil {
			t.Fatal(err)
		}
		if (a.Expiry.In != nil) != want {
			t.Errorf("%s: got %v", body, a.Expiry.In)
		}
	}
}

// refreshing is a vendor's refresh by a definition: what comes of it beside the failure.
func refreshing(t *testing.T, refresh, more string, answer http.HandlerFunc) (broker.Answer, *broker.UpstreamError) {
	t.Helper()
	v := newVendor(t, answer)
	d := v.define("inputs: {client_id: {}, client_secret: {secret: true}, refresh_token: {secret: true, seed: true}}\nrefresh:\n" + refresh + more)
	a, err := d.Exchange(v.context(), broker.Exchange{
		Run: broker.Refresh, Credential: credential(client), RefreshToken: broker.NewSecret("given"), BeforeSend: func(string) error { return nil },
	})
	var failure *broker.UpstreamError
	if !errors.As(err, &failure) {
		t.Fatalf("got %v", err)
	}
	return a, failure
}

// TestARefreshTokenThatCameIsNotLost: what was presented for it is spent, whatever fails beside it or after it.
func TestARefreshTokenThatCameIsNotLost(t *testing.T) {
	const (
		first   = `{"access_token": "a", "refresh_token": "rotated", "own": "o"}`
		alone   = "- {oauth2: \"https://example.com/token\", take: {own: own}}\n"
		andThen = alone + "- {get: \"https://example.com/me?o={{own}}\", with_token: true, take: {who: id}}\n"
		again   = alone + "- {post: \"https://example.com/me\", form: {refresh_token: \"{{refresh_token}}\"}, take: {who: id}}\n"
	)
	for name, c := range map[string]struct {
		refresh, more, answer string
		status                int
		second                string
		kept                  bool
		level                 broker.Level
	}{
		"a later request is not answered well":      {andThen, "attributes: [who]", first, 503, ``, true, broker.LevelUpstream},
		"a later request says invalid_grant":        {andThen, "attributes: [who]", first, 400, `{"error": "invalid_grant"}`, true, broker.LevelResponse},
		"a later request says that it is over":      {andThen, "attributes: [who]\nerror: {rules: [{code: over, means: grant}]}", first, 400, `{"error": "over"}`, true, broker.LevelResponse},
		"a later request may have spent it":         {again, "", first, 503, ``, false, broker.LevelUpstream},
		"a later request was refused before":        {again, "", first, 401, `{"error": "invalid_client"}`, true, broker.LevelCredential},
		"a later answer has its successor":          {again, "", first, 200, `{"refresh_token": "rotated"}`, true, broker.LevelResponse},
		"its answer lacks another value":            {alone, "attributes: [own]", `{"access_token": "a", "refresh_token": "rotated"}`, 0, "", true, broker.LevelResponse},
		"its answer has it in a claim":              {"- {oauth2: \"https://example.com/token\", take: {idt: idt, refresh_token: {claim: rt, of: idt}}}\n", "", `{"idt": "e30.eyJydCI6InJvdGF0ZWQifQ.x"}`, 0, "", true, broker.LevelResponse},
		"its answer lacks a token":                  {alone, "attributes: [own]", `{"own": "o", "refresh_token": "rotated"}`, 0, "", true, broker.LevelResponse},
		"its answer has a type that is none":        {alone, "attributes: [own]", `{"access_token": "a", "own": "o", "refresh_token": "rotated", "token_type": ["Bearer"]}`, 0, "", true, broker.LevelResponse},
		"its answer has it at another place":        {"- {oauth2: \"https://example.com/token\", take: {refresh_token: [a.rt, b.rt, refresh_token]}}\n", "", `{"refresh_token": "rotated", "a": {"rt": {"value": "r"}}}`, 0, "", true, broker.LevelResponse},
		"its answer is not what is expected":        {"- {oauth2: \"https://example.com/token\", expect: {own: x}}\n", "", first, 0, "", false, broker.LevelResponse},
		"its answer has another thing at its place": {alone, "", `{"access_token": "a", "own": "o", "refresh_token": ["rotated"]}`, 0, "", false, broker.LevelResponse},
	} {
		t.Run(name, func(t *testing.T) {
			refresh := c.refresh
			if name == "a later answer has its successor" {
				refresh = strings.Replace(refresh, "{who: id}", "{who: id, refresh_token: refresh_token}", 1)
			}
			a, failure := refreshing(t, refresh, c.more, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				if r.URL.Path == "/me" {
					w.WriteHeader(c.status)
					_, _ = w.Write([]byte(c.second))
					return
				}
				_, _ = w.Write([]byte(c.answer))
			})
			if got := a.RefreshToken.Reveal(); (got == "rotated") != c.kept {
				t.Errorf("got %q, want it kept: %v", got, c.kept)
			}
			if failure.Level != c.level || !failure.Lost {
				t.Errorf("got level %d, lost %v: what was presented is spent", failure.Level, failure.Lost)
			}
			if c.kept && strings.Contains(c.answer, `"own"`) && (a.Values["own"].Reveal() != "o" || a.TakenBy["own"] == "") {
				t.Errorf("got %+v, want what is held with it", a)
			}
		})
	}
}

// TestAnObtainThatFailsLeavesNothing: it can be made again, and a grant without all that is held with it could not be used.
func TestAnObtainThatFailsLeavesNothing(t *testing.T) {
	v := newVendor(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/me" {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"access_token": "a", "refresh_token": "first"}`))
	})
	d := v.define("inputs: {client_id: {}, client_secret: {secret: true}}\nobtain:\n- {oauth2: \"https://example.com/token\"}\n" +
		"- {get: \"https://example.com/me\", with_token: true, take: {account: id}}\nrefresh: {oauth2: \"https://example.com/token\"}\nbase_url: \"https://example.com/{{account}}\"")
	a, err := v.obtain(d, credential(client), broker.Selection{})
	if e := upstreamError(t, err); e.Status != 503 || !a.RefreshToken.IsZero() || len(a.Values) > 0 {
		t.Errorf("got %+v, %+v", a, e)
	}
}

// TestARequestThatPresentsNoRefreshTokenRefusesNone: an invalid_grant to it is of another grant.
func TestARequestThatPresentsNoRefreshTokenRefusesNone(t *testing.T) {
	_, failure := refreshing(t, "- {oauth2: \"https://example.com/token\", take: {token: null, first: access_token}}\n"+
		"- {post: \"https://example.com/exchange\", form: {subject_token: \"{{first}}\"}, take: {token: access_token}}\n", "", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.URL.Path == "/exchange" {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = w.Write([]byte(`{"error": "invalid_grant"}`))
			return
		}
		_, _ = w.Write([]byte(`{"access_token": "a"}`))
	})
	if failure.Level != broker.LevelResponse || failure.InvalidClient {
		t.Errorf("got level %d, %v: want it this key's, and no secret's", failure.Level, failure.InvalidClient)
	}
}

// TestWhatACallerChoseIsNobodyElsesFault: a request that cannot be made of it is refused for that choice alone. One that cannot be made of a secret may be
// made of the former one.
func TestWhatACallerChoseIsNobodyElsesFault(t *testing.T) {
	twice := func(name string) string { return strings.Repeat("{{"+name+"}}", 16) }
	for name, c := range map[string]struct {
		define, value string
		level         broker.Level
	}{
		"a computation":             {"parameters: {p: {optional: true}}\nlet: {l: {split: {of: \"{{p}}\", by: \".\", at: 1}}}\nobtain: {post: \"https://example.com/t\", form: {l: \"{{l}}\"}, take: {token: t}}", "none", broker.LevelRequest},
		"what authenticates":        {"parameters: {p: {optional: true}}\nobtain: {post: \"https://example.com/t\", auth: {basic: [\"{{client_id}}\", \"{{p}}\"]}, take: {token: t}}", "", broker.LevelRequest},
		"too much":                  {"parameters: {p: {optional: true}}\nlet: {a: \"" + twice("p") + "\", b: \"" + twice("a") + "\", c: \"" + twice("b") + "\"}\nobtain: {post: \"https://example.com/t\", form: {l: \"{{c}}\"}, take: {token: t}}", strings.Repeat("x", 8000), broker.LevelRequest},
		"a computation of a secret": {"let: {l: {from_base64: \"{{client_secret}}\"}}\nobtain: {post: \"https://example.com/t\", form: {l: \"{{l}}\"}, take: {token: t}}", "", broker.LevelCredential},
		"a token, made of a choice": {"parameters: {p: {optional: true}}\nlet: {l: {split: {of: \"{{p}}\", by: \".\", at: 1}}}\ntoken: \"{{l}}\"", "none", broker.LevelRequest},
		"a token, made of an input": {"let: {l: {from_base64: \"{{key}}\"}}\ntoken: \"{{l}}\"", "", broker.LevelCredential},
	} {
		t.Run(name, func(t *testing.T) {
			v := newVendor(t, jsonSays(`{"t": "t"}`))
			d := v.define("inputs: {client_id: {}, key: {}, client_secret: {secret: true}}\n" + c.define)
			sel := broker.Selection{}
			if c.value != "" {
				sel.Parameters = broker.NewPairs(map[string]string{"p": c.value})
			}
			_, err := v.obtain(d, credential(map[string]string{"client_id": "id", "!client_secret": "no base64, of any kind!", "key": "no base64"}), sel)
			e := upstreamError(t, err)
			if e.Level != c.level {
				t.Errorf("got level %d (%s), want %d", e.Level, e.Detail, c.level)
			}
			if e.InvalidClient != (c.level == broker.LevelCredential && strings.Contains(c.define, "obtain")) {
				t.Errorf("got %v: a former secret is tried where the new one may be what is wrong", e.InvalidClient)
			}
		})
	}
}

// TestARuleEndsAGrantThatCanBeObtainedAnew: a later request of a refresh says that it is over. Where it cannot be obtained anew, that is no reason to throw
// away a refresh token that was taken.
func TestARuleEndsAGrantThatCanBeObtainedAnew(t *testing.T) {
	for obtain, want := range map[string]broker.Level{"": broker.LevelResponse, "\nobtain: {oauth2: \"https://example.com/token\"}": broker.LevelGrant} {
		a, failure := refreshing(t, "- {oauth2: \"https://example.com/token\"}\n- {get: \"https://example.com/me\", with_token: true, take: {who: id}}\n",
			"attributes: [who]\nerror: {rules: [{status: 401, means: grant}]}"+obtain, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/me" {
					w.WriteHeader(http.StatusUnauthorized)
					return
				}
				w.Header().Set("Content-Type", "application/json")
				_, _ = w.Write([]byte(`{"access_token": "a", "refresh_token": "rotated", "id": "i"}`))
			})
		if failure.Level != want || a.RefreshToken.IsZero() != (want == broker.LevelGrant) {
			t.Errorf("%q: got level %d, want %d; %+v", obtain, failure.Level, want, a)
		}
	}
}

// TestARuleEndsAGrantBeforeItIsPresented: a request of a refresh asks whether it is still good, and nothing is spent when it is not.
func TestARuleEndsAGrantBeforeItIsPresented(t *testing.T) {
	_, failure := refreshing(t, "- {post: \"https://example.com/check\", form: {c: \"{{client_secret}}\"}, take: {own: own}}\n- {oauth2: \"https://example.com/token\", params: {o: \"{{own}}\"}}\n",
		"error: {rules: [{code: revoked, means: grant}]}", says(400, "application/json", `{"error":"revoked"}`))
	if failure.Level != broker.LevelGrant || failure.Lost {
		t.Errorf("got level %d, lost %v", failure.Level, failure.Lost)
	}
}

// TestAScopeThatAnAnswerBroughtIsNobodysChoice where a request cannot be made of it.
func TestAScopeThatAnAnswerBroughtIsNobodysChoice(t *testing.T) {
	v := newVendor(t, jsonSays(`{"access_token": "a", "scope": "x\ny"}`))
	d := v.define("inputs: {client_id: {}, client_secret: {secret: true}}\nobtain:\n- {oauth2: \"https://example.com/one\"}\n- {get: \"https://example.com/two\", headers: {X-S: \"{{scope}}\"}, take: {token: access_token}}")
	_, err := v.obtain(d, credential(client), broker.Selection{})
	if e := upstreamError(t, err); e.Level != broker.LevelResponse {
		t.Errorf("got level %d", e.Level)
	}
}
