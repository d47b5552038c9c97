package provider

import (
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

var errorCode = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// defaultCode is where RFC 6749 section 5.2 has its error.
var defaultCode = &where{path: &path{steps: []step{{member: "error"}}, as: "error"}, written: "error"}

// judge decides whether an answer is a failure, and whose. nil: it is none. It does not look at what is taken.
func (d *definition) judge(q *request, a *answer, place broker.Run) *broker.UpstreamError {
	rules := q.errors
	if rules == nil {
		rules = d.errors
	}
	if rules == nil {
		rules = &errorRules{}
	}
	a.read(q.answer)
	code := rules.find(a)
	bad := len(q.ok) == 0 && (a.status < 200 || a.status > 299) || len(q.ok) > 0 && !slices.Contains(q.ok, a.status)
	detail := ""
	if !bad && code != "" && (rules.code != nil || q.oauth2) {
		bad = true
	}
	if !bad {
		for _, e := range q.expect {
			if !e.holds(a) {
				bad, detail = true, "the answer is not what the definition expects at "+e.path.as
				break
			}
		}
	}
	if !bad {
		return nil
	}
	return d.classify(rules, a, code, place, detail)
}

// find is the error code of an answer; empty: it has none in the alphabet of such codes.
func (e *errorRules) find(a *answer) string {
	w := e.code
	if w == nil {
		w = defaultCode
	}
	v, _ := w.find(a, nil)
	if s := v.String(); errorCode.MatchString(s) {
		return s
	}
	if !v.absent() && e.code != nil {
		return "unnamed" // there is an error, and its code is none that could be shown
	}
	return ""
}

// classify says whose failure it is: the first rule that matches, then the code of RFC 6749, then the status.
func (d *definition) classify(rules *errorRules, a *answer, code string, place broker.Run, detail string) *broker.UpstreamError {
	e := &broker.UpstreamError{Status: a.status, Code: code, Detail: detail, RetryAfter: rules.wait(a)}
	if code == "unnamed" {
		e.Code = ""
	}
	e.InvalidClient = code == "invalid_client"
	for _, r := range rules.rules {
		if !r.matches(a.status, code) {
			continue
		}
		e.Wait = r.wait
		e.Level = map[string]broker.Level{
			"upstream": broker.LevelUpstream, "rate_limited": broker.LevelRateLimited, "request": broker.LevelRequest,
			"credential": broker.LevelCredential, "grant": broker.LevelGrant,
		}[r.means]
		if e.Level == broker.LevelGrant && place == broker.Obtain {
			e.Level = broker.LevelCredential
		}
		return e
	}
	if level, ok := levelOf(code, place); ok {
		e.Level = level
		if code == "invalid_request" && place == broker.Obtain && d.callersChoose() {
			e.Level = broker.LevelRequest // it may be what this caller chose: others must not suffer for it
		}
		return e
	}
	switch {
	case a.status == http.StatusTooManyRequests:
		e.Level = broker.LevelRateLimited
	case a.status >= 400 && a.status < 500:
		e.Level = broker.LevelUpstream // no code says that it is for ever
	case a.status >= 300 && a.status < 400:
		e.Level, e.Detail = broker.LevelUpstream, "the upstream answers with a redirect, and none is followed"
	case a.status >= 200 && a.status < 300 && detail != "":
		e.Level, e.Lost = broker.LevelResponse, true
	default:
		e.Level, e.Lost = broker.LevelUpstream, true
	}
	return e
}

// callersChoose reports whether anything of an obtain is a caller's choice.
func (d *definition) callersChoose() bool {
	return d.scopes != nil || d.audience != nil || d.resources != nil || len(d.parameters) > 0
}

// levelOf is what the codes of RFC 6749 section 5.2 and RFC 8707 section 2 mean, by place.
func levelOf(code string, place broker.Run) (broker.Level, bool) {
	switch code {
	case "invalid_client", "unauthorized_client", "unsupported_grant_type", "access_denied":
		return broker.LevelCredential, true
	case "invalid_grant", "invalid_request":
		// Some servers say invalid_request of a refresh token that they do not know (any more).
		if place == broker.Refresh {
			return broker.LevelGrant, true
		}
		return broker.LevelCredential, true
	case "invalid_scope":
		return broker.LevelScope, true
	case "invalid_target":
		return broker.LevelTarget, true
	case "slow_down", "rate_limited", "rate_limit_exceeded", "too_many_requests":
		return broker.LevelRateLimited, true
	case "server_error", "temporarily_unavailable":
		return broker.LevelUpstream, true
	}
	return 0, false
}

func (r rule) matches(status int, code string) bool {
	return (r.status == nil || r.status.holds(status)) && (r.code == nil || r.code.holds(orNil(code)))
}

func orNil(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// wait is what the upstream asks for: the declared place, else Retry-After (RFC 9110 section 10.2.3), in seconds or as a date
// that counts from the answer's own.
func (e *errorRules) wait(a *answer) time.Duration {
	s := a.header.Get("Retry-After")
	if e.retryAfter != nil {
		if v, _ := e.retryAfter.find(a, nil); !v.absent() {
			s = v.String()
		}
	}
	if s == "" {
		return 0
	}
	if d, ok := relative(s, ""); ok {
		return max(d, 0)
	}
	at, err := http.ParseTime(s)
	if err != nil {
		return 0
	}
	from := time.Now()
	if date, err := http.ParseTime(a.header.Get("Date")); err == nil {
		from = date
	}
	return max(at.Sub(from), 0)
}

func (e expectation) holds(a *answer) bool {
	var v any
	if a.doc != nil {
		v, _ = e.path.find(a.doc)
	}
	return e.test.holds(v)
}

// holds compares by spelling: a number in the answer equals the same number in the definition.
func (t test) holds(v any) bool {
	same := func(x any) bool {
		if x == nil || v == nil {
			return x == nil && v == nil
		}
		return strings.EqualFold(spelled(x), spelled(v)) && (spelled(x) == spelled(v) || isBool(v))
	}
	switch {
	case t.present != nil:
		return (v != nil && v != "") == *t.present
	case t.not != nil:
		return !slices.ContainsFunc(t.not, same)
	}
	return slices.ContainsFunc(t.is, same)
}

func isBool(v any) bool { _, ok := v.(bool); return ok }

func spelled(v any) string {
	if n, ok := v.(int); ok {
		return textOf(jsonInt(n))
	}
	return textOf(v)
}
