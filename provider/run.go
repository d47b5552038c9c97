package provider

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/provider/transport"
)

// An observer sees what a run asks and takes, for Try. from says of each value where it was found; nil: the request failed.
type observer func(e *exchange, q *request, at broker.Attempt, a *answer, from map[string]*where)

// Exchange implements broker.Definition.
func (d *definition) Exchange(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
	ans, failure := d.exchange(ctx, x, nil)
	if failure != nil {
		return ans, failure
	}
	return ans, nil
}

// An exchange is a run at work.
type exchange struct {
	d        *definition
	x        broker.Exchange
	v        *values
	attempts []broker.Attempt
	see      observer
	// spends: the request that is being made presents a refresh token. spent: one of this run did before.
	spends, spent bool
	// taken are the names that answers of this run brought.
	taken map[string]bool
	// unsent is the request that could not be made; nil: none.
	unsent *request
	// room is what the last answer takes among those that the process holds; 0: nothing.
	room int
}

func (d *definition) exchange(ctx context.Context, x broker.Exchange, see observer) (broker.Answer, *broker.UpstreamError) {
	v := newValues(d.let)
	d.give(v, x.Credential, x.Selection)
	e := &exchange{d: d, x: x, v: v, see: see}
	defer e.leave()
	qs := d.obtain
	if x.Run == broker.Refresh {
		qs = d.refresh
		for _, name := range d.held() {
			s, ok := e.held(name)
			if _, kept := x.Held[name]; kept && !ok && d.needs[name] {
				// Without it a refresh would ask for something else, or bring what nobody can be shown, and spend the refresh token.
				return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelGrant, Unsent: true, Detail: "the request was not sent: what is kept as " + name + " was taken otherwise by a former definition"}
			}
			if ok {
				v.set(name, s.Reveal(), true)
			}
		}
		v.set("refresh_token", x.RefreshToken.Reveal(), true)
	}
	if failure := e.noAPI(); failure != nil {
		return broker.Answer{}, e.failed(failure, false)
	}
	if d.token != nil {
		return e.static()
	}
	out := broker.Answer{Values: map[string]broker.Secret{}, TakenBy: map[string]string{}}
	for _, q := range qs {
		spends := x.Run == broker.Refresh && d.uses(q, "refresh_token")
		a, failure := e.ask(ctx, q, spends)
		if failure != nil && spends && failure.Lost {
			out.RefreshToken = broker.Secret{} // an earlier answer's, and it may be spent by now
		}
		if failure == nil {
			failure = e.taking(ctx, q, a, &out)
		}
		if failure != nil {
			return e.brought(out, failure), e.failed(failure, spends)
		}
		e.spent = e.spent || spends
	}
	out.Headers = e.headers()
	if x.Run == broker.Obtain {
		// A refresh is not held against it: what it rotated must be kept.
		shown := broker.Issued{Values: out.Values, Headers: out.Headers, TokenType: out.TokenType}
		if _, err := d.Present(x.Credential, x.Selection, shown); err != nil {
			return broker.Answer{}, e.failed(&broker.UpstreamError{Level: broker.LevelResponse, Lost: true, Detail: "the token cannot be shown: " + err.Error()}, false)
		}
	}
	e.keep(&out)
	out.Attempts = e.attempts
	return out, nil
}

// noAPI is why no caller could be told where the API is, which is known before anything is asked: a token for it would be asked for again and again, and
// help nobody. What an answer or a caller decides shows itself later.
func (e *exchange) noAPI() *broker.UpstreamError {
	to := e.d.baseURL
	if to == nil || !e.d.allCertain(to.names()) {
		return nil
	}
	if _, err := e.d.url(*to, e.v); err != nil {
		return &broker.UpstreamError{Level: broker.LevelCredential, Unsent: true, Detail: "nothing was asked, because callers cannot be told where the API is: base_url: " + err.Error()}
	}
	return nil
}

// keep adds what goes on being held because no answer has brought another.
func (e *exchange) keep(out *broker.Answer) {
	for _, name := range e.d.own() {
		if s, ok := e.held(name); ok && out.Values[name].IsZero() && e.x.Run == broker.Refresh {
			out.Values[name], out.TakenBy[name] = s, e.x.Held[name].TakenBy
		}
	}
}

// brought is what a refresh has brought that fails all the same: a refresh token, with what is held beside it. What was presented for it is spent. An
// obtain can be made again, and has nothing to be kept; nor has a grant that is over.
func (e *exchange) brought(out broker.Answer, failure *broker.UpstreamError) broker.Answer {
	if out.RefreshToken.IsZero() || e.x.Run == broker.Obtain || failure.Level == broker.LevelGrant {
		return broker.Answer{}
	}
	e.keep(&out)
	return broker.Answer{RefreshToken: out.RefreshToken, Values: out.Values, TakenBy: out.TakenBy}
}

// held is what is kept of a former exchange by a name, if it was taken as this definition takes it: a file gives its own meaning to a name.
func (e *exchange) held(name string) (broker.Secret, bool) {
	h, ok := e.x.Held[name]
	return h.Value, ok && (h.TakenBy == "" || slices.Contains(e.d.keeps[name], h.TakenBy))
}

// failed completes a failure by what was done until then. A refresh has lost something only where something was spent.
func (e *exchange) failed(failure *broker.UpstreamError, spends bool) *broker.UpstreamError {
	if e.x.Run == broker.Refresh {
		failure.Lost = e.spent || spends && failure.Lost
		failure.InvalidClient = failure.InvalidClient && !e.spent // a former secret would come with a spent refresh token
	}
	failure.Attempts = e.attempts
	if n := len(e.attempts); n > 0 && e.unsent == nil && !failure.Refused {
		e.attempts[n-1].Reason = failure.Kind().Name()
		e.attempts[n-1].UpstreamError, e.attempts[n-1].Detail = failure.Code, failure.Detail
	}
	return failure
}

// static makes a token that is computed here: nothing is asked.
func (e *exchange) static() (broker.Answer, *broker.UpstreamError) {
	fails := func(of []text, detail string) (broker.Answer, *broker.UpstreamError) {
		level := broker.LevelCredential
		if e.chosen(e.d.named(of)) {
			level = broker.LevelRequest
		}
		return broker.Answer{}, &broker.UpstreamError{Level: level, Detail: detail}
	}
	s, ok, err := e.d.token.expand(e.v)
	if err != nil || !ok || s == "" {
		return fails([]text{*e.d.token}, "the token cannot be computed of the credential's inputs, and of what was chosen")
	}
	out := broker.Answer{Values: map[string]broker.Secret{"token": broker.NewSecret(s)}, Headers: e.headers()}
	if _, err := e.d.Present(e.x.Credential, e.x.Selection, broker.Issued{Values: out.Values, Headers: out.Headers}); err != nil {
		return fails(slices.Concat(e.d.presented(), textsOf(e.d.headers), []text{*e.d.token}), "the token cannot be shown: "+err.Error())
	}
	out.Expiry.SentAt = time.Now()
	ownEnd(e.v.claimsOf(s), &out.Expiry)
	return out, nil
}

// ask sends one declared request, after finding its URL where it is found by discovery.
func (e *exchange) ask(ctx context.Context, q *request, spends bool) (*answer, *broker.UpstreamError) {
	u, failure := e.where(ctx, q)
	if failure != nil {
		return nil, failure
	}
	w, err := e.d.buildAt(q, u, e.v)
	if err != nil {
		return nil, e.cannotBuild(e.d.sent(q), q, err)
	}
	e.spends = spends
	a, failure := e.send(ctx, q, w)
	if q.issuer != nil && failure != nil && moved(failure) {
		e.d.endpoints.forget(u)
	}
	return a, failure
}

// cannotBuild says whose fault it is that a request cannot be made of its values: the caller's where what it chose is in the
// part that failed, the answer's before where that is, the grant's where that held it, and else the credential's. Where err does not say which part
// failed, it is any of these.
func (e *exchange) cannotBuild(these []text, q *request, err error) *broker.UpstreamError {
	e.unsent = q
	f := &broker.UpstreamError{Level: broker.LevelCredential, Unsent: true, Detail: "the request cannot be made, and was not sent: " + err.Error()}
	names := e.d.named(these)
	if bad := (*badValue)(nil); errors.As(err, &bad) {
		clear(names)
		for _, n := range bad.names {
			e.d.behind(n, names)
		}
	}
	if e.chosen(names) {
		f.Level = broker.LevelRequest
		return f
	}
	for n := range names {
		switch {
		case e.taken[n]:
			f.Level = broker.LevelResponse
		case e.x.Run == broker.Refresh && slices.Contains(e.d.held(), n) && f.Level == broker.LevelCredential:
			f.Level = broker.LevelGrant
		}
	}
	f.InvalidClient = f.Level == broker.LevelCredential // the secret that is set may be what it cannot be made of
	return f
}

// chosen reports whether callers choose something of what has these names.
func (e *exchange) chosen(names map[string]bool) bool {
	for n := range names {
		if _, parameter := e.d.parameters[n]; parameter || !e.taken[n] && (n == "scope" || n == "audience" || n == "resources") {
			return true
		}
	}
	return false
}

func (e *exchange) where(ctx context.Context, q *request) (*url.URL, *broker.UpstreamError) {
	if q.issuer == nil {
		u, err := e.d.url(q.url, e.v)
		if err != nil {
			return nil, e.cannotBuild([]text{q.url.written}, q, err)
		}
		return u, nil
	}
	return e.discover(ctx, q)
}

// send sends a request once.
func (e *exchange) send(ctx context.Context, q *request, w *transport.Request) (*answer, *broker.UpstreamError) {
	e.leave()
	attempt := broker.Attempt{Start: time.Now(), Host: transport.HostPort(w.URL)}
	came, sendErr := e.d.transport.Send(ctx, w, e.spends, e.x.BeforeSend)
	if sendErr != nil && sendErr.Refused {
		return nil, &broker.UpstreamError{Level: broker.LevelUpstream, Refused: true, Detail: sendErr.Detail}
	}
	attempt.Duration = time.Since(attempt.Start)
	var a *answer
	if came != nil {
		a = &answer{Answer: *came, names: e.v}
		attempt.Status = a.Status
	}
	e.attempts = append(e.attempts, attempt)
	var failure *broker.UpstreamError
	if sendErr == nil {
		failure = e.enter(ctx, q, a)
	}
	if failure == nil {
		failure = e.wrong(q, a, sendErr)
	}
	if failure == nil {
		return a, nil
	}
	if e.see != nil {
		e.see(e, q, attempt, a, nil)
	}
	return nil, failure
}

// wrong is why an answer cannot be taken from; nil: it can.
func (e *exchange) wrong(q *request, a *answer, sendErr *transport.Error) *broker.UpstreamError {
	if sendErr != nil && sendErr.TooLarge {
		return e.tooLarge(q, a, sendErr.Detail)
	}
	if sendErr != nil {
		f := &broker.UpstreamError{Level: broker.LevelUpstream, Lost: sendErr.Sent, Detail: sendErr.Detail}
		if a != nil {
			f.Status = a.Status
		}
		if sendErr.Never {
			f.Level, f.Unsent = broker.LevelCredential, true
		}
		return f
	}
	failure := e.d.judge(q, a, e.posed())
	if a.tooMany {
		return e.tooLarge(q, a, fmt.Sprintf("the answer has too many values: more than %d, or %d fields of a form", mostValues, mostFields))
	}
	if failure != nil {
		if failure.Level == broker.LevelScope && failure.Detail == "" && e.d.scopes != nil {
			if there := e.d.scopes.offered(e.x.Selection.Scopes.List()); there != "" {
				failure.Detail = "the definition knows " + there
			}
		}
		return failure
	}
	f := &broker.UpstreamError{Level: broker.LevelResponse, Status: a.Status, Lost: true}
	if name := ambiguous(q, a); name != "" {
		f.Detail = "the answer is a form that has " + name + " twice, of which nobody knows which is meant"
		return f
	}
	switch {
	case len(q.take) == 0 || takesHeaders(q):
		return nil
	case len(bytes.TrimSpace(a.Body)) == 0:
		f.Detail = "the answer is empty"
	case a.html && !takesText(q):
		f.Detail = "the answer is a page for people, as a proxy's or a login form"
	default:
		return nil
	}
	return f
}

// tooLarge is of an answer that is not read: its status is there, and says whose failure it is.
func (e *exchange) tooLarge(q *request, a *answer, detail string) *broker.UpstreamError {
	f := e.d.judge(q, a, e.posed())
	if f == nil {
		f = &broker.UpstreamError{Level: broker.LevelResponse, Status: a.Status, Lost: true}
	}
	f.Detail = detail
	return f
}

// ambiguous is a name that something is taken from or expected at, and that the answer has more than once; empty: there is none.
func ambiguous(q *request, a *answer) string {
	for _, t := range q.take {
		if name := t.where.ambiguous(a); name != "" {
			return name
		}
	}
	for _, x := range q.expect {
		if name := x.path.ambiguous(a); name != "" {
			return name
		}
	}
	return ""
}

// takesHeaders reports whether what is taken is in headers and cookies alone: then an empty body says nothing.
func takesHeaders(q *request) bool {
	for _, t := range q.take {
		if t.where.optional {
			continue
		}
		ws := t.where.anyOf
		if len(ws) == 0 {
			ws = []*where{t.where}
		}
		headers := false
		for _, w := range ws {
			headers = headers || w.header != "" || w.cookie != "" || w.cookies
		}
		if !headers {
			return false
		}
	}
	return true
}

// takesText reports whether something is picked out of a text by a pattern: then a page may be what is wanted.
func takesText(q *request) bool {
	picks := func(w *where) bool { return w.text && w.pattern != nil }
	return slices.ContainsFunc(q.take, func(t take) bool { return picks(t.where) || slices.ContainsFunc(t.where.anyOf, picks) })
}

// posed is what a request of the exchange's was, for whoever judges its answer.
func (e *exchange) posed() posed {
	return posed{refreshes: e.x.Run == broker.Refresh, presents: e.spends, spent: e.spent}
}

// headers are the definition's own as they were sent: they are handed out with the token.
func (e *exchange) headers() []broker.Field {
	var out []broker.Field
	for _, f := range e.d.headers {
		for _, t := range f.values {
			if s, ok, err := t.expand(e.v); err == nil && ok {
				out = append(out, broker.Field{Name: f.name, Value: broker.NewSecret(s)})
			}
		}
	}
	return out
}
