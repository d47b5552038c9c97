package provider

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/jsondoc"
	"github.com/tokenbroker/tokenbroker/provider/transport"
)

// A TryReport says what a run did, for an operator at a terminal.
type TryReport struct {
	Requests []TryRequest
	// Failure is why it did not work; nil: it did.
	Failure *broker.UpstreamError
	// ExpiresAt is when serve would take the token to end, and Source what decided it.
	ExpiresAt time.Time
	Source    broker.ExpirySource
	// Unread is what the answer says of the end and nobody can read, as in broker.Expiry; empty: nothing.
	Unread    string
	TokenType string
	Scopes    []string
	// Presented is how the token would be shown to the API, a line each, with names for secrets.
	Presented []string
	// RefreshToken: the answer brought one.
	RefreshToken bool
	// Refusals say of what an upstream may answer to a wrong secret what callers would be told.
	Refusals []string
}

// A TryRequest is one request that was sent.
type TryRequest struct {
	Method, Host string
	Status       int
	// Taken says of each value where it came from; the values are not shown, but for TokenType.
	Taken     map[string]string
	TokenType string
	// Message is what the upstream says about its failure: the declared error.message, else the beginning of its answer, made
	// printable. It is shown at the operator's terminal and goes nowhere else.
	Message string
}

// Try runs a definition for real with the credential's inputs: refresh where seed is given, else obtain. What comes of it is
// not kept: a refresh token that the upstream rotates is lost, unless the caller keeps the report's answer.
func (c *Catalog) Try(ctx context.Context, cred broker.Credential, sel broker.Selection, seed broker.Secret) (TryReport, broker.Answer, error) {
	def, err := c.Definition(cred.Provider)
	if err != nil {
		return TryReport{}, broker.Answer{}, err
	}
	d := def.(*definition) // a catalog holds no others
	if wrong := d.Check(cred, cred.SecretNames()); len(wrong) > 0 {
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
			r.TokenType = e.tokenType()
		case a != nil:
			r.Message = e.messageOf(q, a)
		}
		rep.Requests = append(rep.Requests, r)
	})
	rep.Refusals = d.refusals(x.Run)
	if failure != nil {
		rep.Failure = failure
		return rep, broker.Answer{}, nil //nolint:nilerr // that it did not work is what was found out
	}
	rep.ExpiresAt, rep.Source = ans.Expiry.Ends(d.Facts())
	rep.Unread, rep.TokenType, rep.Scopes, rep.RefreshToken = ans.Expiry.Unread, ans.TokenType, ans.Scopes, !ans.RefreshToken.IsZero()
	var unfit error
	if rep.Presented, unfit = d.presentedAs(cred, sel, ans); unfit != nil { // an obtain has been held against it
		rep.Failure = &broker.UpstreamError{Level: broker.LevelResponse, Detail: "the token cannot be shown: " + unfit.Error()}
	} else if !time.Now().Before(rep.ExpiresAt) {
		rep.Failure = &broker.UpstreamError{Level: broker.LevelResponse, Detail: "the token that it gave has expired already"}
	}
	return rep, ans, nil
}

// tokenType is what the upstream calls its token, for people.
func (e *exchange) tokenType() string {
	x := e.v.fixed["token_type"]
	others := newValues(nil)
	others.fixed = maps.Clone(e.v.fixed)
	delete(others.fixed, "token_type")
	return printable(others.conceal(x.String()))
}

// presentedAs is how a token would be shown: what was taken and what is secret stand as names, of what was not computed of them.
func (d *definition) presentedAs(c broker.Credential, sel broker.Selection, a broker.Answer) ([]string, error) {
	issued := broker.Issued{Values: a.Values, Headers: a.Headers, TokenType: a.TokenType}
	p, err := d.Present(c, sel, issued)
	if err != nil {
		return nil, err
	}
	v := newValues(nil)
	d.give(v, c, sel)
	for name, s := range a.Values {
		v.set(name, s.Reveal(), true)
	}
	known := newValues(d.let)
	known.fixed = maps.Clone(v.fixed)
	for name := range d.let {
		if x, err := known.get(name); err == nil && !x.absent() {
			v.set(name, x.v, true)
		}
	}
	var out []string
	add := func(format, name string, s broker.Secret) {
		out = append(out, fmt.Sprintf(format, name, printable(v.conceal(v.masked(s.Reveal())))))
	}
	for _, f := range p.Headers {
		add("header %s: %s", f.Name, f.Value)
	}
	for _, f := range p.Cookies {
		add("cookie %s=%s", f.Name, f.Value)
	}
	for _, f := range p.Query {
		add("query %s=%s", f.Name, f.Value)
	}
	if p.BaseURL != "" {
		out = append(out, "base_url "+printable(v.conceal(v.masked(p.BaseURL))))
	}
	for _, name := range slices.Sorted(maps.Keys(p.Attributes)) {
		out = append(out, "attribute "+name)
	}
	if len(p.Headers)+len(p.Cookies)+len(p.Query) == 0 {
		out = append(out, "nothing: the definition says so")
	}
	return out, nil
}

// masked replaces secrets by their names, however short; what contains another is replaced first.
func (v *values) masked(s string) string {
	var pairs []string
	for _, x := range v.all() {
		if x.secret && x.String() != "" {
			pairs = append(pairs, x.String(), "<"+x.name+">")
		}
	}
	return strings.NewReplacer(pairs...).Replace(s)
}

// refusals say what callers would be told of what upstreams answer to a wrong secret: by the definition's rules for its last request.
func (d *definition) refusals(run broker.Run) []string {
	qs := d.obtain
	if run == broker.Refresh {
		qs = d.refresh
	}
	if len(qs) == 0 {
		return nil
	}
	q, refreshes := qs[len(qs)-1], run == broker.Refresh
	by := posed{refreshes, refreshes && d.uses(q, "refresh_token"), refreshes && d.sentBy(qs[:len(qs)-1])["refresh_token"]}
	var out []string
	for _, kind := range broker.Kinds() {
		var answers []string
		for _, x := range []struct {
			as, code string
			status   int
		}{
			{"401", "", 401}, {"403", "", 403}, {"400 without a code that is known", "", 400}, {"invalid_client", "invalid_client", 401},
			{"invalid_grant", "invalid_grant", 400}, {"200 without a token", "", 200},
		} {
			said := saidError{there: x.code != "", spelled: x.code, code: x.code}
			a := &answer{Answer: transport.Answer{Status: x.status, Header: http.Header{}}, parsed: true}
			if d.classify(d.rulesOf(q), a, said, by, "").Kind() == kind {
				answers = append(answers, x.as)
			}
		}
		if len(answers) > 0 {
			out = append(out, strings.Join(answers, ", ")+": "+strings.ToUpper(kind.Name()))
		}
	}
	return out
}

// with is a message behind the error's code, where nothing else tells that because no rule names it.
func (e *errorRules) with(s saidError, message string) string {
	if s.spelled == "" || message == "" || e.public(s.code) != "" || strings.Contains(message, s.spelled) {
		return message
	}
	return s.spelled + ": " + message
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
		s = rules.with(said, v.String())
	case m["error_description"] != nil:
		s = rules.with(said, jsondoc.Text(m["error_description"]))
	case a.Status < 200 || a.Status > 299 || said.there:
		s = string(a.Body)
	case m != nil:
		s = "the answer has " + list(slices.Sorted(maps.Keys(m)))
	case a.html:
		s = "the answer is a page for people"
	default:
		s = fmt.Sprintf("an answer of which nothing can be shown, bytes: %d", len(a.Body))
	}
	return printable(e.v.conceal(s))
}
