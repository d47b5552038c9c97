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

// TestARefreshTokenOfAnEarlierAnswerComesWithTheFailure: what was presented for it is spent.
func TestARefreshTokenOfAnEarlierAnswerComesWithTheFailure(t *testing.T) {
	v := newVendor(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/me" {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"access_token": "a", "refresh_token": "rotated", "own": "o"}`))
	})
	d := v.define("inputs: {client_id: {}, client_secret: {secret: true}, refresh_token: {secret: true, seed: true}}\n" +
		"refresh:\n- {oauth2: \"https://example.com/token\", take: {own: own}}\n- {get: \"https://example.com/me?o={{own}}\", with_token: true, take: {who: id}}\nattributes: [who]")
	a, err := d.Exchange(v.context(), broker.Exchange{
		Run: broker.Refresh, Credential: credential(client), RefreshToken: broker.NewSecret("given"), BeforeSend: func(string) error { return nil },
	})
	var failure *broker.UpstreamError
	if !errors.As(err, &failure) || failure.Status != 503 {
		t.Fatalf("got %v", err)
	}
	if a.RefreshToken.Reveal() != "rotated" || a.Values["own"].Reveal() != "o" || a.TakenBy["own"] == "" {
		t.Errorf("got %+v, want the refresh token, and what is held with it", a)
	}
}
