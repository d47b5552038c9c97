package provider

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/jsondoc"
	"github.com/tokenbroker/tokenbroker/internal/suggest"
)

// Explain returns the requests that a definition would send, for people, and what is wrong with the inputs. Nothing is sent.
// Secrets stand as `<client_secret>`, and so does what only an answer will bring. It fails with NotFound or ProviderInvalid.
func (c *Catalog) Explain(name string, inputs map[string]string, sel broker.Selection) (requests []string, problems []Problem, err error) {
	c.mu.RLock()
	d, e := c.loaded[name], c.entries[name]
	c.mu.RUnlock()
	if d == nil {
		if e.Name == "" {
			return nil, nil, &broker.Failure{Kind: broker.NotFound, Provider: name}
		}
		return nil, e.Problems, &broker.Failure{Kind: broker.ProviderInvalid, Provider: name}
	}
	cred := broker.Credential{Inputs: inputs, Secrets: map[string]broker.SecretInput{}, Seeds: map[string]broker.Seed{}}
	for in, x := range d.inputs {
		switch {
		case x.seed:
			cred.Seeds[in] = broker.Seed{Hash: broker.NewID()}
		case x.secret:
			cred.Secrets[in] = broker.SecretInput{Value: broker.NewSecret(shownAs(in))}
		}
	}
	for _, v := range d.Check(cred) {
		if !strings.HasPrefix(v.Field, "secrets.") { // they are not given here
			problems = append(problems, Problem{Message: v.Field + " " + v.Description})
		}
	}
	for _, in := range slices.Sorted(maps.Keys(inputs)) {
		if d.inputs[in] == nil {
			problems = append(problems, Problem{Message: "credential.inputs." + in + ": provider " + name + " has no such input", Suggestion: suggest.Nearest(in, slices.Collect(maps.Keys(d.inputs)))})
		}
	}
	if chosen, err := d.Select(cred, sel); err != nil {
		problems = append(problems, Problem{Message: err.Error()})
	} else {
		sel = chosen
	}
	if d.token != nil {
		requests = append(requests, "nothing is asked: the token is made of the credential's inputs\n")
	}
	requests = append(requests, d.explainRun(broker.Obtain, d.obtain, cred, sel)...)
	requests = append(requests, d.explainRun(broker.Refresh, d.refresh, cred, sel)...)
	return requests, problems, nil
}

// shownAs is what stands for a value that is not shown. It is made of letters that no encoding changes, and ends where the
// name ends: token is not the beginning of token_type.
func shownAs(name string) string { return "masked." + name + ".~" }

var masked = regexp.MustCompile(`masked\.([a-z][a-z0-9_]{0,63})\.~`)

func mask(s string) string { return masked.ReplaceAllString(s, "<$1>") }

func (d *definition) explainRun(run broker.Run, qs []*request, c broker.Credential, sel broker.Selection) []string {
	v := newValues(nil)
	d.give(v, c, sel)
	for name := range d.let {
		v.set(name, shownAs(name), true)
	}
	for name, in := range d.inputs {
		if x := v.fixed[name]; x.absent() && !in.optional {
			v.set(name, shownAs(name), false)
		}
	}
	for name, in := range d.parameters {
		if x := v.fixed[name]; in.secret && !x.absent() || x.absent() && !in.optional {
			v.set(name, shownAs(name), true)
		}
	}
	if run == broker.Refresh {
		v.set("refresh_token", shownAs("refresh_token"), true)
		for _, h := range d.held() {
			v.set(h, shownAs(h), true)
		}
	}
	var out []string
	for i, q := range qs {
		title := fmt.Sprintf("%s, request %d of %d", run, i+1, len(qs))
		out = append(out, title+"\n"+d.explainRequest(q, v))
		for _, t := range q.take {
			v.set(t.name, shownAs(t.name), true)
		}
	}
	return out
}

// explainURL writes a URL for people. One that cannot be made yet is written as it stands, with what is known.
func (d *definition) explainURL(t urlTemplate, v *values) string {
	if u, err := d.url(t, v); err == nil {
		return printable(mask(u.String()))
	}
	return explainText(t.written, v)
}

// explainText writes a text for people: names that stand for nothing yet are left in it.
func explainText(t text, v *values) string {
	var b strings.Builder
	for _, p := range t.parts {
		b.WriteString(p.literal)
		if p.name == "" {
			continue
		}
		if s := v.fixed[p.name].String(); s != "" {
			b.WriteString(s)
		} else {
			b.WriteString("<" + p.name + ">")
		}
	}
	return printable(mask(b.String()))
}

func (d *definition) explainRequest(q *request, v *values) string {
	var b strings.Builder
	to := "<token_endpoint>"
	if q.issuer != nil {
		fmt.Fprintf(&b, "  GET %s/.well-known/openid-configuration\n  then\n", trimSlash(d.explainURL(*q.issuer, v)))
	} else {
		to = d.explainURL(q.url, v)
	}
	w, err := d.buildAt(q, &url.URL{Scheme: "https", Host: "example.com"}, v)
	if err != nil {
		return "  cannot be made: " + err.Error() + "\n"
	}
	if w.URL.RawQuery != "" {
		separator := "?"
		if strings.Contains(to, "?") {
			separator = "&"
		}
		to += separator + mask(w.URL.RawQuery)
	}
	fmt.Fprintf(&b, "  %s %s\n", w.Method, to)
	for _, name := range slices.Sorted(maps.Keys(w.Header)) {
		for _, h := range w.Header[name] {
			if name == "Authorization" && (q.auth.kind == secretBasic || q.auth.kind == rawBasic) {
				h = "Basic " + explainText(q.auth.id, v) + ":" + explainText(q.auth.secret, v)
			}
			fmt.Fprintf(&b, "  %s: %s\n", name, mask(h))
		}
	}
	if len(w.Body) > 0 {
		fmt.Fprintf(&b, "\n  %s\n", mask(strings.ReplaceAll(string(w.Body), "\n", "\n  ")))
	}
	for _, t := range q.take {
		need := ""
		if t.where.optional || builtinNames[t.name] && t.name != "token" {
			need = ", if it is there"
		}
		fmt.Fprintf(&b, "  takes %s from %s%s\n", t.name, t.where.written, need)
	}
	return b.String()
}

// A TryReport says what a run did, for an operator at a terminal.
type TryReport struct {
	Requests []TryRequest
	// Failure is why it did not work; nil: it did.
	Failure *broker.UpstreamError
	// ExpiresIn is what the answer says; nil: nothing.
	ExpiresIn *time.Duration
	ExpiresAt time.Time
	TokenType string
	Scopes    []string
	// RefreshToken: the answer brought one.
	RefreshToken bool
}

// A TryRequest is one request that was sent.
type TryRequest struct {
	Method, Host string
	Status       int
	// Taken says of each value where it came from; the values are not shown.
	Taken map[string]string
	// Message is what the upstream says about its failure: the declared error.message, else the beginning of its answer, made
	// printable. It is shown at the operator's terminal and goes nowhere else.
	Message string
}

// messageMost bounds an upstream's message.
const messageMost = 500

// Try runs a definition for real with the credential's inputs: refresh where seed is given, else obtain. What comes of it is
// not kept: a refresh token that the upstream rotates is lost, unless the caller keeps the report's answer.
func (c *Catalog) Try(ctx context.Context, cred broker.Credential, sel broker.Selection, seed broker.Secret) (TryReport, broker.Answer, error) {
	def, err := c.Definition(cred.Provider)
	if err != nil {
		return TryReport{}, broker.Answer{}, err
	}
	d := def.(*definition) // a catalog holds no others
	if wrong := d.Check(cred); len(wrong) > 0 {
		return TryReport{}, broker.Answer{}, broker.Invalid(wrong...)
	}
	if sel, err = d.Select(cred, sel); err != nil {
		return TryReport{}, broker.Answer{}, err
	}
	x := broker.Exchange{Credential: cred, Selection: sel, BeforeSend: func(string) error { return nil }}
	if !seed.IsZero() {
		x.Run, x.RefreshToken = broker.Refresh, seed
	}
	var rep TryReport
	ans, failure := d.exchange(ctx, x, func(e *exchange, q *request, at broker.Attempt, a *answer, from map[string]*where) {
		r := TryRequest{Method: q.method, Host: at.Host, Status: at.Status}
		switch {
		case from != nil:
			r.Taken = map[string]string{}
			for name, w := range from {
				r.Taken[name] = w.written
			}
		case a != nil:
			r.Message = e.messageOf(q, a)
		}
		rep.Requests = append(rep.Requests, r)
	})
	if failure != nil {
		rep.Failure = failure
		return rep, broker.Answer{}, nil //nolint:nilerr // that it did not work is what was found out
	}
	rep.ExpiresIn, rep.ExpiresAt, rep.TokenType = ans.Expiry.In, ans.Expiry.At, ans.TokenType
	rep.Scopes, rep.RefreshToken = ans.Scopes, !ans.RefreshToken.IsZero()
	return rep, ans, nil
}

// messageOf is what an upstream says about its failure, without the secrets that it was sent, should it echo them. An answer
// that looked like success may hold a token under a name that nobody expects: of it only the names are shown.
func (e *exchange) messageOf(q *request, a *answer) string {
	a.read(q.answer)
	rules := e.d.rulesOf(q)
	m, _ := a.doc.(map[string]any)
	s := ""
	switch said := rules.find(a); {
	case rules.message != nil:
		v, _ := rules.message.find(a)
		s = v.String()
	case m["error_description"] != nil:
		s = jsondoc.Text(m["error_description"])
	case a.Status < 200 || a.Status > 299 || said.there:
		s = string(a.Body)
	case m != nil:
		s = "the answer has " + list(slices.Sorted(maps.Keys(m)))
	case a.html:
		s = "the answer is a page for people"
	default:
		s = fmt.Sprintf("the answer has %d bytes", len(a.Body))
	}
	return printable(e.v.conceal(s))
}

// conceal replaces secrets by their names, in the forms in which an upstream echoes what it was sent. What contains another is
// replaced first.
func (v *values) conceal(s string) string {
	names := slices.SortedFunc(maps.Keys(v.fixed), func(a, b string) int {
		return cmp.Or(cmp.Compare(len(v.fixed[b].String()), len(v.fixed[a].String())), cmp.Compare(a, b))
	})
	var pairs []string
	for _, name := range names {
		x := v.fixed[name]
		secret := x.String()
		if !x.secret || len(secret) < shortestSecret {
			continue
		}
		quoted, _ := json.Marshal(secret) // a string has no way to fail
		for _, form := range []string{
			secret, url.QueryEscape(secret), url.PathEscape(secret), strings.Trim(string(quoted), `"`), html.EscapeString(secret),
			base64.StdEncoding.EncodeToString([]byte(secret)), base64.RawURLEncoding.EncodeToString([]byte(secret)),
		} {
			pairs = append(pairs, form, "<"+name+">")
		}
	}
	return basicPair.ReplaceAllString(strings.NewReplacer(pairs...).Replace(s), "Basic <hidden>")
}

// basicPair is a client's id and secret as they were sent: encoded together, neither is found in it.
var basicPair = regexp.MustCompile(`(?i)\bbasic [A-Za-z0-9+/_-]{4,}=*`)

// printable bounds a text and leaves nothing in it that a terminal obeys.
func printable(s string) string {
	var b strings.Builder
	for n, r := range []rune(s) {
		if n == messageMost {
			b.WriteString("…")
			break
		}
		if !unicode.IsPrint(r) {
			r = ' '
		}
		b.WriteRune(r)
	}
	return b.String()
}
