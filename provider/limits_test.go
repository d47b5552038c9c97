package provider

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/provider/transport"
)

// stepsOf is how often checking a definition looks at something.
func stepsOf(t *testing.T, text string) int {
	t.Helper()
	r := newReader("")
	r.check(r.definition(r.Document([]byte(text))))
	if len(r.Problems) > 0 {
		t.Fatal(r.Problems)
	}
	return r.steps
}

func TestCheckingIsLinear(t *testing.T) {
	chain := func(n int) string {
		var b strings.Builder
		b.WriteString("name: x\nlet:\n  a0: x\n")
		for i := 1; i < n; i++ {
			fmt.Fprintf(&b, "  a%d: \"{{a%d}}{{a%d}}\"\n", i, i-1, max(0, i-2))
		}
		b.WriteString("obtain:\n  post: https://example.com/\n  take: {token: t}\n  form:\n")
		for i := range n {
			fmt.Fprintf(&b, "    f%d: \"{{a%d}}\"\n", i, i)
		}
		return b.String()
	}
	few, many := stepsOf(t, chain(200)), stepsOf(t, chain(800))
	if few < 200 || many > 5*few {
		t.Errorf("got %d steps for 200 names and %d for 800", few, many)
	}
}

func TestADefinitionIsOfBoundedSize(t *testing.T) {
	many := func(n int, line string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, line, i)
		}
		return b.String()
	}
	for name, c := range map[string]struct{ text, want string }{
		"names":    {"name: x\ntoken: t\nlet:\n" + many(mostNames+1, "  a%d: x\n"), "1001 names; inputs, parameters, let and take together have 1000 at most"},
		"inputs":   {"name: x\ntoken: t\ninputs:\n" + many(2000, "  a%d: {}\n"), "2000 names"},
		"requests": {"name: x\nobtain:\n" + many(mostRequests+1, "- {post: 'https://example.com/%d', take: {token: t}}\n"), "17 requests; a run has 16 at most"},
		"secrets":  {"name: x\ninputs:\n" + many(800, "  a%d: {secret: true}\n") + "obtain:\n  post: https://example.com/\n  take: {token: t}\n  form:\n" + many(800, "    a%d: '{{a%[1]d}}'\n"), "more than 128 ways of secrets"},
		"values":   {"name: x\nscopes:\n  default:\n" + many(mostWords, "  - a%d\n") + "obtain: {oauth2: 'https://example.com/', auth: none}", "5013 words and values"},
		"classes":  {"name: x\ntoken: t\ninputs:\n" + many(900, "  a%d: {pattern: '[\\pL\\pN]{20}'}\n"), "those of a file have 20000 of both at most"},
		"a class":  {"name: x\ntoken: t\ninputs: {a: {pattern: '(?i)[\\pL\\pN\\pM]{240}'}}", "those of a file have 20000 of both at most"},
		"texts":    {"name: x\ntoken: t\ninputs: {a: {pattern: '" + strings.Repeat("a", mostPattern+1) + "'}}", "an expression of 1001 bytes"},
		"naming":   {"name: x\ninputs: {a: {}}\nobtain: {post: 'https://example.com/', take: {token: t}, text: '" + strings.Repeat("{{a}}", mostReferences+1) + "'}", "names something 2001 times"},
		"lists":    {"name: x\nobtain: {post: 'https://example.com/', take: {token: t}, json: " + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + "}", "nested deeper than 64 levels"},
		"mappings": {"name: x\ntoken: t\nlet: {a: " + strings.Repeat("{base64: ", 2000) + "x" + strings.Repeat("}", 2000) + "}", "nested deeper than 64 levels"},
		"words":    {"name: x\ntoken: t\n" + many(2000, "w%d: 1\n"), "and 1901 problems more"},
		"unknown":  {"name: x\nobtain:\n  post: https://example.com/\n  take: {token: t}\n  form:\n" + many(1900, "    f%d: '{{zz}}'\n"), "nothing gives {{zz}} here"},
	} {
		got := check(t, c.text)
		if all := strings.Join(got, "\n"); !strings.Contains(all, c.want) || len(got) > mostProblems+1 {
			t.Errorf("%s: got %d problems, %.200q, want %q", name, len(got), all, c.want)
		}
	}
}

func TestWhatValuesGrowToIsBounded(t *testing.T) {
	v := newVendor(t, jsonSays(`{"t": "token"}`))
	doubling := "  a0: xxxxxxxxxxxxxxxx\n"
	for i := 1; i <= 24; i++ {
		doubling += fmt.Sprintf("  a%d: \"{{a%d}}{{a%d}}\"\n", i, i-1, i-1)
	}
	for name, text := range map[string]string{
		"doubling": "let:\n" + doubling + "obtain: {post: 'https://example.com/', form: {a: '{{a24}}'}, take: {token: t}}",
		"wrapping": "let: {a: " + strings.Repeat("{hex: ", 30) + "x" + strings.Repeat("}", 30) + "}\nobtain: {post: 'https://example.com/', form: {a: '{{a}}'}, take: {token: t}}",
		"naming":   "inputs: {i: {}}\nobtain: {post: 'https://example.com/', json: {a: '" + strings.Repeat("{{i}}", 1000) + "'}, take: {token: t}}",
		"listing":  "inputs: {i: {}}\nobtain: {post: 'https://example.com/', json: [" + strings.Repeat("'{{i}}',", 1000) + "], take: {token: t}}",
		"asking":   "inputs: {i: {}}\nobtain: {post: 'https://example.com/?a=" + strings.Repeat("{{i}}", 1000) + "', take: {token: t}}",
	} {
		_, err := v.obtain(v.define(text), credential(map[string]string{"i": strings.Repeat("x", 60000)}), broker.Selection{})
		if e := upstreamError(t, err); !strings.Contains(e.Detail, "together longer than 4194304 bytes") || len(e.Detail) > 200 {
			t.Errorf("%s: got %.200q", name, e.Detail)
		}
	}
	if n := len(v.requests()); n > 0 {
		t.Errorf("got %d requests", n)
	}
}

// TestWhatIsLookedForIsBounded: by the time that all expressions of a run take together, and by its deadline. A refresh token that came is kept all the same,
// also by an expression.
func TestWhatIsLookedForIsBounded(t *testing.T) {
	v := newVendor(t, nil)
	body := `{"access_token": "t", "page": "` + strings.Repeat("a", 1_000_000) + `"}`
	for name, c := range map[string]struct {
		takes  int
		looked time.Duration
		over   bool // the deadline
		wrong  bool
	}{
		"much that is found fast":         {12, 0, false, false},
		"too much":                        {1, longestLook, false, true},
		"little, when the time was over":  {1, 0, true, true},
		"nothing, when the time was over": {0, 0, true, false},
	} {
		takes := ""
		for i := range c.takes { // what begins with z is looked for fast
			takes += fmt.Sprintf(", x%d: {path: page, optional: true, pattern: \"z(?:a?a?a?a?a?){22}(b)\"}", i)
		}
		d := v.define("inputs: {refresh_token: {secret: true, seed: true}}\nrefresh: {oauth2: 'https://example.com/t', auth: none, take: {first: {path: access_token}" + takes + ", last: access_token, refresh_token: {header: X-Next, pattern: \"rt=([^;]+)\"}}}")
		ctx, cancel := context.WithCancel(t.Context())
		if c.over {
			cancel()
		}
		e := &exchange{d: d, v: newValues(d.let), x: broker.Exchange{Run: broker.Refresh}, attempts: make([]broker.Attempt, 1)}
		came := &answer{Answer: transport.Answer{Status: http.StatusOK, Header: http.Header{"X-Next": {"rt=next; a"}}, Body: []byte(body)}, names: e.v}
		e.v.looked = c.looked
		came.read("json")
		out := broker.Answer{Values: map[string]broker.Secret{}, TakenBy: map[string]string{}}
		f := e.taking(ctx, d.refresh[0], came, &out)
		cancel()
		if out.RefreshToken.Reveal() != "next" {
			t.Errorf("%s: got no refresh token", name)
		}
		if (f != nil) != c.wrong {
			t.Errorf("%s: got %+v", name, f)
		} else if c.wrong && (f.Level != broker.LevelResponse || !f.Lost || !strings.Contains(f.Detail, "than there is time for")) {
			t.Errorf("%s: got %+v", name, f)
		}
	}
}

// takingOf takes what the last request of a refresh declares of an answer, by a run that has looked so long.
func takingOf(ctx context.Context, d *definition, h http.Header, body string, looked, urgently time.Duration) (broker.Answer, *broker.UpstreamError) {
	e := &exchange{d: d, v: newValues(d.let), x: broker.Exchange{Run: broker.Refresh}, attempts: make([]broker.Attempt, 1)}
	e.v.looked, e.v.urgently = looked, urgently
	came := &answer{Answer: transport.Answer{Status: http.StatusOK, Header: h, Body: []byte(body)}, names: e.v}
	came.read("json")
	out := broker.Answer{Values: map[string]broker.Secret{}, TakenBy: map[string]string{}}
	f := e.taking(ctx, d.refresh[0], came, &out)
	return out, f
}

// TestARefreshTokenHasATimeOfItsOwn to be looked for: neither what else is looked for nor the deadline takes it, and it ends.
func TestARefreshTokenHasATimeOfItsOwn(t *testing.T) {
	d := newVendor(t, nil).define(`inputs: {refresh_token: {secret: true, seed: true}}
refresh: {oauth2: 'https://example.com/t', auth: none, take: {refresh_token: [{header: X-None, pattern: "(a)"}, {header: X-Next, pattern: "rt=([^;]+)"}]}}`)
	over, cancel := context.WithCancel(t.Context())
	cancel()
	for name, c := range map[string]struct {
		ctx              context.Context
		looked, urgently time.Duration
		found            bool
	}{
		"at first":            {t.Context(), 0, 0, true},
		"after all others":    {t.Context(), longestLook, 0, true},
		"after the deadline":  {over, 0, longestUrgent - 1, true},
		"when its own is out": {t.Context(), 0, longestUrgent, false},
	} {
		out, f := takingOf(c.ctx, d, http.Header{"X-Next": {"rt=next; a"}}, `{"access_token": "t"}`, c.looked, c.urgently)
		if !c.found {
			if !out.RefreshToken.IsZero() || f == nil || f.Level != broker.LevelResponse || !f.Lost || !strings.Contains(f.Detail, "than there is time for") {
				t.Errorf("%s: got %+v", name, f)
			}
			continue
		}
		if f != nil || out.RefreshToken.Reveal() != "next" {
			t.Errorf("%s: got %+v", name, f)
		}
	}
}

// TestTheClaimsOfATokenAreReadOnce, however many are taken, and not when the time is over.
func TestTheClaimsOfATokenAreReadOnce(t *testing.T) {
	v := newVendor(t, nil)
	token := "e30." + base64.RawURLEncoding.EncodeToString([]byte(`{"exp": 4102444800, "l": [`+strings.Repeat(`{"":1},`, mostClaims/2-10)+`1]}`)) + ".x"
	allocated := func(takes int) uint64 {
		text := ""
		for i := range takes {
			text += fmt.Sprintf(", x%d: {claim: b%d, of: token, optional: true}", i, i)
		}
		d := v.define("inputs: {refresh_token: {secret: true, seed: true}}\nrefresh: {oauth2: 'https://example.com/t', auth: none, take: {token: access_token" + text + "}}")
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		out, f := takingOf(t.Context(), d, http.Header{}, `{"access_token": "`+token+`"}`, 0, 0)
		runtime.ReadMemStats(&after)
		if f != nil || out.Expiry.Claim.IsZero() {
			t.Errorf("%d: got %+v, %v", takes, f, out.Expiry.Claim)
		}
		return after.TotalAlloc - before.TotalAlloc
	}
	one, many := allocated(1), allocated(100)
	if many > one+one/2 {
		t.Errorf("one claim takes %d bytes, a hundred %d", one, many)
	}
	d := v.define("inputs: {refresh_token: {secret: true, seed: true}}\nrefresh: {oauth2: 'https://example.com/t', auth: none, take: {token: access_token, x: {claim: exp, of: token, optional: true}}}")
	over, cancel := context.WithCancel(t.Context())
	cancel()
	out, f := takingOf(over, d, http.Header{}, `{"access_token": "`+token+`", "refresh_token": "next"}`, 0, 0)
	if f == nil || !strings.Contains(f.Detail, "than there is time for") || out.RefreshToken.Reveal() != "next" {
		t.Errorf("when the time was over: got %+v", f)
	}
}

// TestClaimsAreOfABoundedNumber: of more nobody knows when the token ends.
func TestClaimsAreOfABoundedNumber(t *testing.T) {
	v := newVendor(t, nil)
	d := v.define("inputs: {refresh_token: {secret: true, seed: true}}\nrefresh: {oauth2: 'https://example.com/t', auth: none, take: {token: access_token}}")
	for n, read := range map[int]bool{mostClaims - 3: true, mostClaims - 2: false} {
		token := "e30." + base64.RawURLEncoding.EncodeToString([]byte(`{"exp": 4102444800, "l": [`+strings.TrimSuffix(strings.Repeat("1,", n), ",")+`]}`)) + ".x"
		out, f := takingOf(t.Context(), d, http.Header{}, `{"access_token": "`+token+`"}`, 0, 0)
		if f != nil || out.Expiry.Claim.IsZero() == read || (out.Expiry.Unread == "exp") == read {
			t.Errorf("%d: got %+v, %+v", n, f, out.Expiry)
		}
	}
}

// TestADefaultIsAsLongAsWhatIsChosen: a longer one is held against no pattern, which could take seconds for each call. It is the credential's, and said
// when that is given; what a caller chooses is not.
func TestADefaultIsAsLongAsWhatIsChosen(t *testing.T) {
	v := newVendor(t, nil)
	const after = "\nobtain: {oauth2: 'https://example.com/t', auth: none, params: {x: '{{%s}}'}}"
	for _, what := range [][2]string{{"parameters: {p: {pattern: '[ab]*a[ab]{250}c|.*', default: '%s'}}", "p"}, {"audience: {pattern: '[ab]*a[ab]{250}c|.*', default: '%s'}", "audience"}} {
		for size, fits := range map[int]bool{81: true, 82: false, 60_000: false} { // a hundred times that
			d := v.define("inputs: {big: {}}\n" + fmt.Sprintf(what[0], strings.Repeat("{{big}}", 100)+strings.Repeat("b", 92)) + fmt.Sprintf(after, what[1]))
			cred := credential(map[string]string{"big": strings.Repeat("a", size)})
			chosen, err := d.Select(cred, broker.Selection{})
			wrong := d.wrong(cred)
			if fits {
				if err != nil || len(wrong) > 0 || len(chosen.Audience)+len(chosen.Parameters.Map()["p"]) != longestDefault {
					t.Errorf("%s, %d: got %v, %v", what[1], size, err, wrong)
				}
				continue
			}
			if broker.KindOf(err) != broker.CredentialIncomplete || !strings.Contains(fmt.Sprint(err), "longer than 8192 bytes") {
				t.Errorf("%s, %d: got %v", what[1], size, err)
			}
			if len(wrong) != 1 || wrong[0].Field != "credential.inputs.big" || wrong[0].Code != broker.CodeTooLarge || !strings.Contains(wrong[0].Description, "longer than 8192 bytes") {
				t.Errorf("%s, %d: got %v", what[1], size, wrong)
			}
		}
	}
}

// TestADefaultThatTheInputsMakeIsNoCallersFault: whoever chooses goes on.
func TestADefaultThatTheInputsMakeIsNoCallersFault(t *testing.T) {
	v := newVendor(t, nil)
	d := v.define("inputs: {i: {}}\nparameters: {p: {pattern: '[a-z]+', default: '{{i}}'}}\nobtain: {oauth2: 'https://example.com/t', auth: none, params: {x: '{{p}}'}}")
	cred := credential(map[string]string{"i": "1"})
	_, err := d.Select(cred, broker.Selection{})
	failure := (*broker.Failure)(nil)
	if !errors.As(err, &failure) || failure.Kind != broker.CredentialIncomplete || len(failure.Violations) != 1 || failure.Violations[0].Field != "credential.inputs.i" {
		t.Errorf("got %v", err)
	}
	if _, err := d.Select(cred, broker.Selection{Parameters: broker.NewPairs(map[string]string{"p": "a"})}); err != nil {
		t.Errorf("who chooses: got %v", err)
	}
	if _, err := d.Select(cred, broker.Selection{Parameters: broker.NewPairs(map[string]string{"p": "2"})}); broker.KindOf(err) != broker.RequestInvalid {
		t.Errorf("who chooses wrongly: got %v", err)
	}
}
