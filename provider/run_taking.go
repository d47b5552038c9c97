package provider

import (
	"cmp"
	"context"
	"net/http"
	"slices"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/jsondoc"
)

// taking takes what is declared. What has a meaning goes where it belongs, everything else among the values.
func (e *exchange) taking(ctx context.Context, q *request, a *answer, out *broker.Answer) *broker.UpstreamError {
	if e.taken == nil {
		e.taken = map[string]bool{}
	}
	taken, from := map[string]value{}, map[string]*where{}
	at := &e.attempts[len(e.attempts)-1]
	var lacks *broker.UpstreamError // what comes of it; what else is there is taken all the same
	claimsLast := slices.Clone(q.take)
	slices.SortStableFunc(claimsLast, func(a, b take) int { return cmp.Compare(order(a), order(b)) })
	for _, t := range claimsLast {
		if ctx.Err() != nil {
			e.v.looked = max(e.v.looked, longestLook) // what needs no search is still taken
		}
		e.v.urgent = t.name == "refresh_token" // what was presented for it may be spent
		v, found := t.where.find(a)
		for _, x := range t.where.anyOf { // another place may have one that fits
			if unfit(t.name, v) == "" {
				break
			}
			if y, from := x.find(a); !y.absent() {
				v, found = y, from
			}
		}
		if e.v.urgent = false; e.v.over && lacks == nil {
			lacks = &broker.UpstreamError{Level: broker.LevelResponse, Status: a.Status, Lost: true, Detail: "the definition looks for more in its answers than there is time for: it has too many expressions or claims, or too long ones"}
		}
		if what := unfit(t.name, v); what != "" {
			if lacks == nil {
				lacks = e.missing(q, a, "the answer has "+what+" for "+t.name+" at "+t.where.written)
			}
			continue
		}
		if v.absent() {
			_, held := e.held(t.name)
			if !t.where.optional && (!builtinNames[t.name] || t.name == "token") && (!t.inherited || !held) {
				if lacks == nil {
					lacks = e.missing(q, a, "the answer has no "+t.name+" at "+t.where.written)
				}
			}
			continue
		}
		taken[t.name], from[t.name], out.TakenBy[t.name] = v, found, t.by
		e.v.take(t.name, v.compact())
		e.taken[t.name] = true
	}
	if v, ok := taken["refresh_token"]; ok { // what was presented for it is spent, whatever the answer lacks
		out.RefreshToken = broker.NewSecret(v.String())
	}
	for name, v := range taken { // and so may be what it goes with
		if !builtinNames[name] {
			out.Values[name] = broker.NewSecret(v.String())
		}
	}
	if lacks != nil {
		return lacks
	}
	for _, t := range q.take {
		if _, ok := taken[t.name]; ok && (t.name == "token" || !t.where.judges()) {
			at.Taken = append(at.Taken, t.name)
		}
	}
	if e.see != nil {
		e.see(e, q, *at, a, from)
	}
	e.meaning(a, taken, from, out)
	return nil
}

// order: claims are looked for when what they are of is there.
func order(t take) int {
	if t.where.ofClaim() {
		return 1
	}
	return 0
}

// missing: the answer looked like success, and what is needed is not there. An error code in it says more.
func (e *exchange) missing(q *request, a *answer, detail string) *broker.UpstreamError {
	rules := e.d.rulesOf(q)
	if e.see != nil {
		e.see(e, q, e.attempts[len(e.attempts)-1], a, nil)
	}
	if said := rules.find(a); said.there {
		return e.d.classify(rules, a, said, e.posed(), "")
	}
	if a.unread != "" {
		detail += ": " + a.unread
	}
	return &broker.UpstreamError{Level: broker.LevelResponse, Status: a.Status, Lost: true, Detail: detail}
}

// unfit says what a value is that cannot be a token, or its type; empty: it can.
func unfit(name string, v value) string {
	if name != "token" && name != "token_type" && name != "refresh_token" {
		return ""
	}
	switch v.v.(type) {
	case bool:
		return "true or false"
	case []any:
		return "a list"
	case map[string]any:
		return "an object"
	}
	if name == "token_type" && !v.absent() && !visible(v.String()) {
		return "no word"
	}
	return ""
}

// meaning reads what an answer says about the token. What was said of one that came before does not hold for a new one.
func (e *exchange) meaning(a *answer, taken map[string]value, from map[string]*where, out *broker.Answer) {
	if token, ok := taken["token"]; ok {
		out.Values["token"] = broker.NewSecret(token.String())
		out.TokenType, out.Scopes = "", nil
		out.Expiry = broker.Expiry{SentAt: a.SentAt}
		ownEnd(e.v.claimsOf(token.String()), &out.Expiry)
		if date, err := http.ParseTime(a.Header.Get("Date")); err == nil {
			out.Expiry.Date = date
		}
	}
	if v, ok := taken["token_type"]; ok {
		out.TokenType = v.String()
	}
	if v, ok := taken["scope"]; ok {
		out.Scopes = scopesOf(v, e.d.scopes)
	}
	if v, ok := taken["expires_in"]; ok {
		if in, ok := relative(v.String(), from["expires_in"].unit); ok {
			out.Expiry.In = &in
		} else {
			out.Expiry.Unread = "expires_in"
		}
	}
	if v, ok := taken["expires_at"]; ok {
		w := from["expires_at"]
		at, ok := parseTime(v.String(), w.layout)
		switch {
		case !ok:
			out.Expiry.Unread = "expires_at"
		case w.claim != nil && w.of == "token": // it is the token that says so
			if out.Expiry.Claim.IsZero() || at.Before(out.Expiry.Claim) {
				out.Expiry.Claim = at
			}
			if out.Expiry.Unread == "exp" {
				out.Expiry.Unread = "" // the definition says how it is to be read
			}
		default:
			out.Expiry.At = at
		}
	}
}

// ownEnd reads the `exp` of a token that is a JWT (RFC 7519 section 4.1.4).
func ownEnd(c claims, e *broker.Expiry) {
	exp := c.are["exp"]
	if exp == nil {
		if c.tooMany {
			e.Unread = "exp"
		}
		return
	}
	var ok bool
	if e.Claim, ok = parseTime(jsondoc.Text(exp), "unix"); !ok {
		e.Unread = "exp"
	}
}
