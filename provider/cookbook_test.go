package provider

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/yamldoc"
	"github.com/tokenbroker/tokenbroker/provider/transport"
)

// TestCookbook loads each recipe, runs it against a server that answers as the page says, and compares what arrives.
func TestCookbook(t *testing.T) {
	recipes := cookbook(t)
	if len(recipes) < 25 {
		t.Errorf("found %d recipes", len(recipes))
	}
	names := map[string]bool{}
	for _, r := range recipes {
		name := regexp.MustCompile(`(?m)^name: (.*)$`).FindStringSubmatch(r.definition)
		if len(name) == 0 || names[name[1]] {
			t.Errorf("%s: its name is missing, or another's", r.title)
			continue
		}
		names[name[1]] = true
		t.Run(name[1], func(t *testing.T) {
			for _, p := range Check(name[1]+".yaml", []byte(r.definition)) {
				t.Error(p) // and no warnings
			}
			d, problems := parse("", []byte(r.definition))
			if len(yamldoc.Errors(problems)) > 0 || len(r.dialogs) == 0 {
				t.Fatalf("got %v, and %d dialogs", problems, len(r.dialogs))
			}
			for _, x := range r.dialogs {
				x.hold(t, d)
			}
		})
	}
}

// hold runs the dialog.
func (d *dialog) hold(t *testing.T, def *definition) {
	t.Helper()
	n := 0
	v := newVendor(t, func(w http.ResponseWriter, _ *http.Request) {
		if n >= len(d.answers) {
			t.Errorf("a request more than the page has")
			return
		}
		a := d.answers[n]
		n++
		w.Header().Set("Content-Type", "application/json")
		for _, h := range a.headers {
			name, value, _ := strings.Cut(h, ": ")
			if name == "Content-Type" {
				w.Header().Del(name)
			}
			w.Header().Add(name, value)
		}
		status, err := strconv.Atoi(strings.TrimSpace(a.first))
		if err != nil {
			t.Error(err)
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, a.body)
	}, func(s *transport.Settings) {
		for _, h := range []string{"login", "eu", "us", "acme", "api"} {
			s.ConnectTo[h+".example.com:443"] = s.ConnectTo["example.com:443"]
		}
	})
	def.transport = v.tr
	c, sel, run, held := d.situation(t, def)
	sel, err := def.Select(c, sel)
	if err != nil {
		t.Fatal(err)
	}
	ans, err := def.Exchange(v.context(), broker.Exchange{Run: run, Credential: c, Selection: sel, RefreshToken: held, BeforeSend: func(string) error { return nil }})
	var outcome []string
	if err != nil {
		outcome = []string{strings.ToUpper(upstreamError(t, err).Kind().Name())}
	} else {
		outcome = shownOf(t, def, c, sel, ans)
	}
	for _, want := range d.outcome {
		if !slices.Contains(outcome, want) {
			t.Errorf("got %q, want %q among it", outcome, want)
		}
	}
	if len(d.outcome) == 0 {
		t.Error("the page does not say what comes of it")
	}
	asked := v.requests()
	if len(asked) != len(d.sent) {
		t.Fatalf("got %d requests, want %d; %v", len(asked), len(d.sent), outcome)
	}
	for i, a := range asked {
		a.compare(t, d.sent[i])
	}
}

func (a asked) compare(t *testing.T, m message) {
	t.Helper()
	if got, want := a.method+" https://"+a.host+a.uri, strings.TrimSpace(m.first); !likePage(want).MatchString(got) {
		t.Errorf("got %s\nwant %s", got, want)
	}
	for _, h := range m.headers {
		name, want, _ := strings.Cut(h, ": ")
		if got := a.header.Get(name); !likePage(want).MatchString(got) {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	if !likePage(m.body).MatchString(a.body) {
		t.Errorf("got the body\n%s\nwant\n%s", a.body, m.body)
	}
}

// situation is what the dialog has: the credential, with its inputs' names in capitals as values, and what is given besides.
func (d *dialog) situation(t *testing.T, def *definition) (broker.Credential, broker.Selection, broker.Run, broker.Secret) {
	t.Helper()
	inputs := map[string]string{}
	for name, in := range def.inputs {
		switch {
		case in.optional, in.hasDefault, in.seed:
		case in.format == "url":
			inputs[name] = "https://acme.example.com"
		default:
			inputs[name] = strings.ToUpper(name)
		}
	}
	var scopes, resources []string
	sel, run, held := broker.Selection{}, broker.Obtain, broker.Secret{}
	params := map[string]string{}
	for _, g := range d.given {
		name, value, _ := strings.Cut(g, " ")
		switch name {
		case "scope":
			scopes = append(scopes, value)
		case "resource":
			resources = append(resources, value)
		case "audience":
			sel.Audience = value
		case "refresh_token":
			run, held = broker.Refresh, broker.NewSecret(value)
		default:
			if def.parameters[name] != nil {
				params[name] = value
			} else {
				inputs[name] = value
			}
		}
	}
	var err error
	if sel.Scopes, err = broker.ParseSet("scope", scopes); err != nil {
		t.Fatal(err)
	}
	if sel.Resources, err = broker.ParseSet("resource", resources); err != nil {
		t.Fatal(err)
	}
	sel.Parameters = broker.NewPairs(params)
	for name := range maps.Clone(inputs) {
		if in := def.inputs[name]; in == nil {
			t.Errorf("given %s, and it is no input", name)
		} else if in.secret {
			inputs["!"+name] = inputs[name]
			delete(inputs, name)
		}
	}
	return credential(inputs), sel, run, held
}

// shownOf is what comes of an answer: how the token is presented, when it ends, the refresh token.
func shownOf(t *testing.T, d *definition, c broker.Credential, sel broker.Selection, a broker.Answer) []string {
	t.Helper()
	p, err := d.Present(c, sel, broker.Issued{Values: a.Values, Headers: a.Headers, TokenType: a.TokenType})
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, f := range p.Headers {
		out = append(out, f.Name+": "+f.Value.Reveal())
	}
	for _, f := range p.Cookies {
		out = append(out, "Cookie: "+f.Name+"="+f.Value.Reveal())
	}
	for _, f := range p.Query {
		out = append(out, "?"+f.Name+"="+f.Value.Reveal())
	}
	for name, value := range p.Attributes {
		out = append(out, fmt.Sprintf("attribute %s %s", name, value))
	}
	if p.BaseURL != "" {
		out = append(out, "base_url "+p.BaseURL)
	}
	if !a.RefreshToken.IsZero() {
		out = append(out, "refresh token "+a.RefreshToken.Reveal())
	}
	if !a.Expiry.At.IsZero() {
		return append(out, "ends at "+formatTime(a.Expiry.At, "rfc3339"))
	}
	at, _ := a.Expiry.Ends(d.Facts())
	return append(out, "ends in "+at.Sub(a.Expiry.SentAt).String())
}
