package provider

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/yamldoc"
	"github.com/tokenbroker/tokenbroker/provider/transport"
)

// A trail is a definition of few requests, what its record would say, and what it really has sent: values that say where they are from.
type trail struct {
	text string
	d    *definition
	ways []broker.Destination
	sent map[string]bool
	kept []keeping // after each exchange
	// after is what a refresh sends with what another has kept, by what that is.
	after map[string]map[string]bool
}

// keeping is what is kept between exchanges.
type keeping struct {
	refreshToken broker.Secret
	held         map[string]broker.HeldValue
	written      string // all of it
}

// TestNothingGoesWhereTheRecordDoesNotSay: of all short chains of requests, each is edited into each other. Where the other's ways are all in the record of
// the first, it sends nothing anywhere, of its own or of what the first has kept, that the first has not sent there.
func TestNothingGoesWhereTheRecordDoesNotSay(t *testing.T) {
	requests := []string{
		`{oauth2: "https://a.example.com/first"}`,
		`{oauth2: "https://a.example.com/lesser", auth: none, params: {subject_token: "{{token}}"}, take: {own: {path: own, optional: true}}}`,
		`{oauth2: "https://b.example.com/other", auth: none, params: {client_id: "{{client_id}}"}}`,
		`{get: "https://b.example.com/me", with_token: true, take: {own: own}}`,
		`{get: "https://a.example.com/me", with_token: true, take: {own: own}}`,
		`{get: "https://b.example.com/see", query: {o: "{{own}}"}, take: {seen: own}}`,
		`{get: "https://b.example.com/see", query: {o: "{{same}}"}, take: {seen: own}}`,
	}
	refreshes := []string{
		``,
		`refresh: {oauth2: "https://a.example.com/first"}`,
		`refresh: {oauth2: "https://b.example.com/other", auth: none, params: {client_id: "{{client_id}}"}}`,
		`refresh: {oauth2: "https://b.example.com/other", auth: none, params: {client_id: "{{client_id}}", o: "{{own}}"}}`,
		`refresh: [{get: "https://a.example.com/none", query: {r: "{{refresh_token}}"}, take: {own: {path: none, optional: true}}}, {oauth2: "https://b.example.com/other", auth: none, params: {client_id: "{{client_id}}", o: "{{own}}"}}]`,
	}
	v := newVendor(t, func(w http.ResponseWriter, r *http.Request) {
		from := r.Host + r.URL.Path
		_ = json.NewEncoder(w).Encode(map[string]any{"access_token": "at:" + from + ";", "refresh_token": "rt:" + from + ";", "own": "own:" + from + ";", "token_type": "Bearer", "expires_in": 60})
	}, func(s *transport.Settings) {
		for _, h := range []string{"a", "b"} {
			s.ConnectTo[h+".example.com:443"] = s.ConnectTo["example.com:443"]
		}
	})
	var trails []*trail
	var build func(obtain []string)
	build = func(obtain []string) {
		for _, refresh := range refreshes {
			for _, shows := range []string{"", "attributes: [own]\n"} {
				if c := v.trail("obtain: [" + strings.Join(obtain, ", ") + "]\n" + refresh + "\n" + shows); c != nil {
					trails = append(trails, c)
				}
			}
		}
		if len(obtain) == 3 {
			return
		}
		for _, q := range requests {
			build(append(slices.Clip(obtain), q))
		}
	}
	for _, q := range requests {
		build([]string{q})
	}
	edits := 0
	for _, before := range trails {
		for _, after := range trails {
			record := broker.Credential{Destinations: before.ways}
			if before == after || len(record.Unaccepted(after.ways)) > 0 {
				continue
			}
			edits++
			sent := maps.Clone(after.sent)
			if after.d.refresh != nil && before.d.refresh != nil {
				for _, k := range before.kept {
					if after.after[k.written] == nil {
						after.after[k.written], _ = v.run(after.d, broker.Refresh, k)
					}
					maps.Copy(sent, after.after[k.written])
				}
			}
			for what := range sent {
				if !before.sent[what] {
					t.Errorf("%s\nis not asked about behind\n%s\nand sends %s", after.text, before.text, what)
				}
			}
			if t.Failed() {
				return
			}
		}
	}
	if len(trails) < 400 || edits < 5000 {
		t.Errorf("got %d definitions and %d edits that nobody is asked about, want more", len(trails), edits)
	}
	t.Logf("%d definitions, %d edits that nobody is asked about", len(trails), edits)
}

// trail runs a definition, if it is one.
func (v *vendor) trail(text string) *trail {
	d, problems := parse("", []byte("name: test\ninputs: {client_id: {}, client_secret: {secret: true}}\nlet: {same: \"{{own}}\"}\n"+text))
	if len(yamldoc.Errors(problems)) > 0 {
		return nil
	}
	d.transport, d.digest = v.tr, ""
	c := &trail{text: text, d: d, after: map[string]map[string]bool{}, ways: d.Destinations(credential(client))}
	sent, k := v.run(d, broker.Obtain, keeping{})
	c.sent, c.kept = sent, []keeping{k}
	for range 2 { // with what the obtain brought, and with what a refresh brought
		if d.refresh != nil {
			sent, k = v.run(d, broker.Refresh, k)
			maps.Copy(c.sent, sent)
			c.kept = append(c.kept, k)
		}
	}
	return c
}

// only has every token and refresh token be the same one where an exchange asks for one: it is where RFC 6749 has it, and that says it all.
func only(d *definition, s string) string {
	for _, run := range [][]*request{d.obtain, d.refresh} {
		if len(slices.DeleteFunc(slices.Clone(run), func(q *request) bool { return !takesToken(q) })) > 1 {
			return s
		}
	}
	return fromWhere.ReplaceAllString(s, "$1:the only one")
}

var fromWhere = regexp.MustCompile(`(at|rt|own):([ab])\.example\.com/[a-z]+`)

// run is what goes to another place than where it is from, to the other host or to callers, and what is kept then.
func (v *vendor) run(d *definition, run broker.Run, k keeping) (map[string]bool, keeping) {
	v.mu.Lock()
	v.asked = nil
	v.mu.Unlock()
	cred := credential(client)
	ans, err := d.Exchange(v.context(), broker.Exchange{
		Run: run, Credential: cred, RefreshToken: k.refreshToken, Held: k.held, BeforeSend: func(string) error { return nil },
	})
	sent := map[string]bool{}
	for _, a := range v.requests() {
		all := strings.NewReplacer("%3A", ":", "%2F", "/", "%3B", ";").Replace(fmt.Sprint(a.uri, a.body, a.header))
		for _, m := range fromWhere.FindAllStringSubmatch(all, -1) {
			if m[2] != a.host[:1] || m[1] == "rt" {
				what := m[0]
				if m[1] != "own" {
					what = only(d, what)
				}
				sent[what+" to "+a.host] = true
			}
		}
	}
	if err != nil {
		return sent, k
	}
	next := keeping{ans.RefreshToken, map[string]broker.HeldValue{}, ans.RefreshToken.Reveal()}
	for _, n := range slices.Sorted(maps.Keys(ans.Values)) {
		next.held[n] = broker.HeldValue{Value: ans.Values[n], TakenBy: ans.TakenBy[n]}
		next.written += " " + n + " " + ans.Values[n].Reveal() + " " + ans.TakenBy[n]
	}
	shown, err := d.Present(cred, broker.Selection{}, broker.Issued{Values: ans.Values, Headers: ans.Headers, TokenType: ans.TokenType})
	if err != nil {
		v.t.Fatal(err)
	}
	for _, h := range shown.Headers {
		sent[only(d, h.Value.Reveal())+" to callers"] = true
	}
	for n, a := range shown.Attributes {
		sent[n+" "+a+" to callers"] = true
	}
	return sent, next
}
