package server

import (
	"bytes"
	"encoding/base64"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"

	"github.com/tokenbroker/tokenbroker/broker"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

func TestEveryKindHasCodeReasonAndRetry(t *testing.T) {
	reasons := map[tokenbrokerv1.ErrorReason]broker.Kind{}
	now := time.Now()
	for _, k := range broker.Kinds() {
		o, ok := outcomes[k]
		if !ok {
			t.Errorf("%s: not in the table", k.Name())
			continue
		}
		if k.Name() == "" || k.Error() == "" || broker.KindNamed(k.Name()) != k {
			t.Errorf("%d: no name or text of its own", k)
		}
		if o.reason != 0 {
			if other, ok := reasons[o.reason]; ok {
				t.Errorf("%s and %s have one reason, %v", k.Name(), other.Name(), o.reason)
			}
			reasons[o.reason] = k
		}
		f := &broker.Failure{Kind: k, Credential: "main", Provider: "p", RetryAt: now.Add(1500 * time.Millisecond), UpstreamStatus: 502, UpstreamError: "x",
			Violations: []broker.Violation{{Field: "a", Description: "b"}}}
		s, pushback := toStatus(f, "id-1", now)
		if s.Code() != o.code {
			t.Errorf("%s: got code %v, want %v", k.Name(), s.Code(), o.code)
		}
		var info *errdetails.ErrorInfo
		var retry *errdetails.RetryInfo
		var bad *errdetails.BadRequest
		var req *errdetails.RequestInfo
		for _, d := range s.Details() {
			switch d := d.(type) {
			case *errdetails.ErrorInfo:
				info = d
			case *errdetails.RetryInfo:
				retry = d
			case *errdetails.BadRequest:
				bad = d
			case *errdetails.RequestInfo:
				req = d
			}
		}
		if info == nil || info.GetDomain() != "tokenbroker" || info.GetReason() != strings.TrimPrefix(o.reason.String(), "ERROR_REASON_") ||
			info.GetMetadata()["credential"] != "main" || info.GetMetadata()["upstream_status"] != "502" || info.GetMetadata()["request_id"] != "id-1" {
			t.Errorf("%s: got ErrorInfo %v", k.Name(), info)
		}
		if req.GetRequestId() != "id-1" || len(bad.GetFieldViolations()) != 1 {
			t.Errorf("%s: got RequestInfo %v and BadRequest %v", k.Name(), req, bad)
		}
		retryable := s.Code() == codes.Unavailable || s.Code() == codes.DeadlineExceeded || k == broker.UpstreamRateLimited || k == broker.CallerLimited
		if retryable != (retry != nil) || retryable != (pushback == "1500") || !retryable && pushback != "-1" {
			t.Errorf("%s: got RetryInfo %v and pushback %s", k.Name(), retry, pushback)
		}
	}
	for v, name := range tokenbrokerv1.ErrorReason_name {
		if v != 0 && reasons[tokenbrokerv1.ErrorReason(v)] == 0 && tokenbrokerv1.ErrorReason(v) != tokenbrokerv1.ErrorReason_ERROR_REASON_INTERNAL {
			t.Errorf("%s: no kind has this reason", name)
		}
	}
}

func TestEveryCodeOfAViolationHasAReason(t *testing.T) {
	reasons := map[string]broker.Code{}
	for _, c := range broker.Codes() {
		reason := violationReason(c)
		if other, twice := reasons[reason]; twice || violationReasons[c] == 0 || !regexp.MustCompile(`^[A-Z][A-Z0-9_]+[A-Z0-9]$`).MatchString(reason) {
			t.Errorf("%d has the reason %q, which %d has too, or which is none", c, reason, other)
		}
		reasons[reason] = c
	}
	for v, name := range tokenbrokerv1.ViolationReason_name {
		if _, ok := reasons[strings.TrimPrefix(name, violationPrefix)]; v != 0 && !ok {
			t.Errorf("%s: no code has this reason", name)
		}
	}
}

func TestAViolationTravelsWithItsCode(t *testing.T) {
	f := &broker.Failure{Kind: broker.RequestInvalid, Credential: "main", Violations: []broker.Violation{{Field: "a", Code: broker.CodeRequired, Description: "b; c"}}}
	s, _ := toStatus(f, "id", time.Now())
	var summary string
	for _, d := range s.Details() {
		switch d := d.(type) {
		case *errdetails.LocalizedMessage:
			summary = d.GetMessage()
		case *errdetails.BadRequest:
			if v := d.GetFieldViolations()[0]; v.GetReason() != "REQUIRED" || v.GetField() != "a" || v.GetDescription() != "b; c" {
				t.Errorf("got %v", v)
			}
		}
	}
	if summary != "credential main: the request is invalid" || s.Message() != summary+"; a: b; c" {
		t.Errorf("got %q and %q, want the message once with and once without what is wrong", summary, s.Message())
	}
}

// TestNamesOfARequestMoveNobodysCursor: they come back in messages, and a terminal would obey them.
func TestNamesOfARequestMoveNobodysCursor(t *testing.T) {
	const name = "x\x00\x1b[31m\r\n\u202eß\u0085"
	f := &broker.Failure{Kind: broker.RequestInvalid, Provider: name, Detail: name, Violations: []broker.Violation{{Field: "credential.inputs." + name, Description: name}}}
	s, _ := toStatus(f, "id", time.Now())
	const want = `x\x00\x1b[31m\r\n\u202eß\u0085`
	if !strings.Contains(s.Message(), "credential.inputs."+want+": "+want) {
		t.Errorf("got %q", s.Message())
	}
	for _, d := range s.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			if got := d.GetMetadata()["provider"]; got != want {
				t.Errorf("got %q", got)
			}
		case *errdetails.LocalizedMessage:
			if got := d.GetMessage(); got != "the request is invalid: "+want {
				t.Errorf("got %q", got)
			}
		case *errdetails.BadRequest:
			if v := d.GetFieldViolations()[0]; v.GetField() != "credential.inputs."+want || v.GetDescription() != want {
				t.Errorf("got %v", v)
			}
		}
	}
}

func TestAForeignErrorShowsNothing(t *testing.T) {
	s, pushback := toStatus(errForeign{}, "id", time.Now())
	if s.Code() != codes.Internal || strings.Contains(s.String(), "secret") || pushback != "-1" {
		t.Errorf("got %v", s)
	}
}

type errForeign struct{}

func (errForeign) Error() string { return "a secret" }

func TestFilters(t *testing.T) {
	c := &tokenbrokerv1.Credential{Name: "officernd-main", Provider: "officernd", Labels: map[string]string{"env": "prod", "a.b": "x"}, State: tokenbrokerv1.CredentialState_CREDENTIAL_STATE_READY}
	for filter, want := range map[string]bool{
		"":                                  true,
		"provider = officernd":              true,
		"provider=snov":                     false,
		"provider != snov":                  true,
		"name = office*":                    true,
		"name = snov*":                      false,
		`labels.env = "prod"`:               true,
		"labels.a.b = x":                    true,
		"labels.missing:*":                  false,
		"labels.env:*":                      true,
		"labels.env : pro":                  true,
		"state = ready":                     true,
		"state != READY":                    false,
		"state = ready AND provider = snov": false,
		"state = ready AND name = *":        true,
	} {
		f, err := parseFilter(filter)
		if err != nil || f.matches(c) != want {
			t.Errorf("%q: got %v %v, want %v", filter, f.matches(c), err, want)
		}
	}
	for _, filter := range []string{"provider", "color = red", "state = blue", "name ! x", "= x"} {
		if _, err := parseFilter(filter); broker.KindOf(err) != broker.RequestInvalid {
			t.Errorf("%q: got %v, want a failure that says what a filter is", filter, err)
		}
	}
}

func TestAPageTokenBelongsToItsListAndTellsNothing(t *testing.T) {
	tok := writePageToken("abc", [32]byte{1})
	if after, err := readPageToken(tok, [32]byte{1}); err != nil || after != "abc" {
		t.Errorf("got %q %v, want abc", after, err)
	}
	if raw, _ := base64.RawURLEncoding.DecodeString(tok); bytes.Contains(raw, []byte("abc")) || len(tok) != len(writePageToken(strings.Repeat("x", 63), [32]byte{1})) {
		t.Errorf("%s tells where the list goes on", tok)
	}
	for _, bad := range []struct {
		token string
		key   [32]byte
	}{{tok, [32]byte{2}}, {"%%%", [32]byte{}}, {"AAAA", [32]byte{}}, {tok[1:], [32]byte{1}}, {strings.Repeat("A", 1000), [32]byte{1}}} {
		if _, err := readPageToken(bad.token, bad.key); broker.KindOf(err) != broker.RequestInvalid {
			t.Errorf("%v: got %v, want a refusal", bad, err)
		}
	}
}
