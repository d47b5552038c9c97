package provider

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/jsondoc"
)

var errorCode = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// defaultCode is where RFC 6749 section 5.2 has its error.
var defaultCode = &where{path: &path{steps: []step{{member: "error"}}, as: "error"}, written: "error"}

// A posed request is what is known of one when its answer is judged.
type posed struct {
	// refreshes: it is one of a refresh. presents: it presents a refresh token; spent: one of that run did before.
	refreshes, presents, spent bool
}

// judge decides whether an answer is a failure, and whose. nil: it is none. It does not look at what is taken.
func (d *definition) judge(q *request, a *answer, by posed) *broker.UpstreamError {
	rules := d.rulesOf(q)
	a.read(q.answer)
	said := rules.find(a)
	bad := len(q.ok) == 0 && (a.Status < 200 || a.Status > 299) || len(q.ok) > 0 && !slices.Contains(q.ok, a.Status)
	detail := ""
	if !bad && said.there && (rules.code != nil || q.oauth2) {
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
	return d.classify(rules, a, said, by, detail)
}

// rulesOf are the rules that hold for a request: its own, else the definition's.
func (d *definition) rulesOf(q *request) *errorRules {
	switch {
	case q.errors != nil:
		return q.errors
	case d.errors != nil:
		return d.errors
	}
	return &errorRules{}
}

// A saidError is what an answer says about its error.
type saidError struct {
	// there: it says that there is one.
	there bool
	// spelled is its code, for the definition's rules only; code is the same where it is in the alphabet of such codes.
	spelled, code string
}

// find looks where an answer has its error. An empty one, false and the number 0 say that there is none.
func (e *errorRules) find(a *answer) saidError {
	w := e.code
	if w == nil {
		w = defaultCode
	}
	v, _ := w.find(a)
	switch x := v.v.(type) {
	case nil:
		return saidError{}
	case bool:
		return saidError{there: x}
	case json.Number:
		if n, ok := number(x.String()); ok && n == 0 {
			return saidError{}
		}
	case map[string]any:
		return saidError{there: len(x) > 0}
	case []any:
		return saidError{there: len(x) > 0}
	}
	said := saidError{there: true, spelled: v.String()}
	if errorCode.MatchString(said.spelled) {
		said.code = said.spelled
	}
	return said
}

// classify says whose failure it is: the first rule that matches, then the code of RFC 6749, then the status. Only what says nothing of the
// request that was made (no answer, 5xx, 429) is the upstream's, and so everybody's there.
func (d *definition) classify(rules *errorRules, a *answer, said saidError, by posed, detail string) *broker.UpstreamError {
	e := &broker.UpstreamError{
		Status: a.Status, Code: rules.public(said.code), Detail: detail, RetryAfter: rules.wait(a), Mute: said.code == "",
	}
	ruled := false
	e.Level, ruled = d.levelOf(rules, e, said, by)
	e.InvalidClient = (e.Level == broker.LevelCredential || e.Level == broker.LevelRequest && !ruled) && maybeSecret(a.Status, said.code, by)
	switch {
	case e.Detail != "":
	case said.code == "":
		e.Detail = statusDetail(a.Status)
	case e.Level == broker.LevelCredential && (said.code == "invalid_scope" || said.code == "invalid_target") && !ruled:
		e.Detail = "the definition lets nobody choose it: look at what its requests send, and at the inputs that make it"
	case e.Code == "":
		e.Detail = "the upstream gives an error code that is not known: `provider try` shows it, and a rule that names it lets it be told"
	}
	e.Lost = mayBeProcessed(e, said)
	return e
}

// levelOf decides the level, and the wait that a rule says. ruled: a rule of the definition says the level.
func (d *definition) levelOf(rules *errorRules, e *broker.UpstreamError, said saidError, by posed) (level broker.Level, ruled bool) {
	for _, r := range rules.rules {
		if !r.matches(e.Status, said.spelled) {
			continue
		}
		e.Wait, e.Mute = r.wait, false
		switch {
		case r.means == "grant" && !by.refreshes:
			return broker.LevelCredential, true
		case r.means == "grant" && !by.presents && by.spent && len(d.obtain) == 0:
			return broker.LevelResponse, true // the refresh token was taken, and nothing else could be done
		}
		return meanings[r.means], true
	}
	return d.unruled(e, said, by), false
}

// unruled is the level by the code of RFC 6749, and else by the status.
func (d *definition) unruled(e *broker.UpstreamError, said saidError, by posed) broker.Level {
	if level, ok := levelOfCode(said.code, by); ok {
		switch {
		case said.code == "invalid_request" && by.presents && len(d.obtain) > 0:
			return broker.LevelGrant // some say so of a refresh token that they do not know any more, and obtain does without
		case said.code == "invalid_request":
			return d.requests()
		case said.code == "invalid_grant" && by.refreshes && !by.presents && len(d.obtain) > 0:
			return broker.LevelGrant // of what the refresh brought: obtain does without
		case said.code == "invalid_grant" && by.refreshes && !by.presents:
			return broker.LevelResponse // the refresh token was taken, and nobody's secret was looked at
		case (level == broker.LevelScope || level == broker.LevelTarget) && !d.callersChoose():
			return broker.LevelCredential // no caller chose it: it is the definition's, or the inputs'
		}
		return level
	}
	switch {
	case e.Status == http.StatusTooManyRequests:
		return broker.LevelRateLimited
	case e.Status >= 200 && e.Status < 300:
		return broker.LevelResponse
	case e.Status == http.StatusBadRequest, e.Status == http.StatusUnsupportedMediaType, e.Status == http.StatusUnprocessableEntity:
		return d.requests()
	case e.Status == http.StatusRequestTimeout, e.Status == http.StatusTooEarly:
		return broker.LevelUpstream
	case e.Status == http.StatusMisdirectedRequest, e.Status == http.StatusLocked:
		return broker.LevelResponse // it may pass, and may be this account's alone
	case e.Status >= 300 && e.Status < 500:
		return broker.LevelCredential
	}
	return broker.LevelUpstream
}

// maybeSecret reports whether it may be the secret that is refused: no code of RFC 6749 says that it is something else, and the status is one
// that login endpoints refuse a password with. Where the grant is a password, a wrong one is an invalid_grant (RFC 6749 section 5.2). With a
// 401, which says that it is about authentication, Keycloak writes unauthorized_client and Auth0 access_denied.
func maybeSecret(status int, code string, by posed) bool {
	switch code {
	case "invalid_client":
		return true
	case "invalid_grant":
		return !by.refreshes
	case "unauthorized_client", "access_denied", "invalid_request":
		return status == http.StatusUnauthorized
	}
	if _, known := levelOfCode(code, by); known {
		return false
	}
	switch status {
	case http.StatusOK, http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusUnprocessableEntity:
		return true
	}
	return false
}

// requests is the level of what is wrong with one request: the key's where callers choose something of it, because another choice may
// be right; else the definition's or the inputs', which are the credential's.
func (d *definition) requests() broker.Level {
	if d.callersChoose() {
		return broker.LevelRequest
	}
	return broker.LevelCredential
}

// statusDetail says what a status without a code may mean, and what to look at.
func statusDetail(status int) string {
	switch {
	case status >= 300 && status < 400:
		return "the upstream answers with a redirect, and none is followed: look at the definition's URL and the inputs that make it"
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return "the answer has no error code: look at the client's inputs and secret"
	case status == http.StatusNotFound, status == http.StatusMethodNotAllowed, status == http.StatusGone:
		return "there is no token endpoint at this address: look at the definition's URL and method, and the inputs that make them"
	case status == http.StatusUnsupportedMediaType:
		return "the upstream does not take a body of this kind: look whether the definition sends form, json or text"
	case status < 200 || status > 599:
		return fmt.Sprintf("the answer has status %d, with which no token endpoint answers: look at the definition's URL, and at proxies in between", status)
	case status == http.StatusBadRequest, status == http.StatusUnprocessableEntity:
		return "the upstream does not say what is wrong where it is looked for: declare error.code, or a rule"
	}
	return ""
}

var meanings = map[string]broker.Level{
	"upstream": broker.LevelUpstream, "rate_limited": broker.LevelRateLimited, "request": broker.LevelRequest,
	"credential": broker.LevelCredential, "grant": broker.LevelGrant,
}

// mayBeProcessed decides Lost of a failure that came as an answer. A refusal, a 4xx and an error in words of the upstream's
// own say that nothing was done. A 5xx says nothing, and neither does a redirect: frameworks send one to their error page.
func mayBeProcessed(e *broker.UpstreamError, said saidError) bool {
	redirected := e.Status >= 300 && e.Status < 400 && !said.there
	if e.Level != broker.LevelUpstream && e.Level != broker.LevelResponse && !redirected {
		return false
	}
	switch {
	case e.Status >= 400 && e.Status < 500, said.code == "temporarily_unavailable":
		return false
	case e.Status >= 200 && e.Status < 300:
		return !said.there || said.code == "server_error" // it tried
	}
	return true
}

// callersChoose reports whether anything of an obtain is a caller's choice.
func (d *definition) callersChoose() bool {
	return d.scopes != nil || d.audience != nil || d.resources != nil || len(d.parameters) > 0
}

// levelOfCode is what the codes of RFC 6749 section 5.2 and RFC 8707 section 2 mean, by the request.
func levelOfCode(code string, by posed) (broker.Level, bool) {
	switch code {
	case "invalid_client", "unauthorized_client", "unsupported_grant_type", "access_denied":
		return broker.LevelCredential, true
	case "invalid_grant":
		if by.presents {
			return broker.LevelGrant, true
		}
		return broker.LevelCredential, true
	case "invalid_request":
		return broker.LevelRequest, true
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
	said, as := a.Header.Get("Retry-After"), &where{}
	if e.retryAfter != nil {
		if v, found := e.retryAfter.find(a); !v.absent() {
			said, as = v.String(), found
		}
	}
	if as.layout == "" {
		if d, ok := relative(said, as.unit); ok {
			return max(d, 0)
		}
	}
	at, ok := parseTime(said, as.layout)
	if !ok {
		return 0
	}
	from := time.Now()
	if date, err := http.ParseTime(a.Header.Get("Date")); err == nil {
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
		return jsondoc.Text(jsonInt(n))
	}
	return jsondoc.Text(v)
}

// jsonInt is a number as JSON spells it.
func jsonInt(n int) json.Number { return json.Number(strconv.Itoa(n)) }
