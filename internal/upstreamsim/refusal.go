package upstreamsim

import (
	"net/http"
	"slices"
	"time"
)

// Reason is why a request was refused.
type Reason string

// The reasons. Up to ReasonRepeatedField the request is not what the vendor documents; from ReasonValue on its content is
// refused.
const (
	ReasonHost          Reason = "host"          // not the host of the connection's certificate, or no host of ours
	ReasonPath          Reason = "path"          // no endpoint of that host
	ReasonMethod        Reason = "method"        // not for this endpoint
	ReasonUserAgent     Reason = "user_agent"    // absent, or at DocuWare's API not that of the login
	ReasonCookie        Reason = "cookie"        // a cookie that was not asked for, or one twice
	ReasonAuthorization Reason = "authorization" // an Authorization header where none belongs, or a malformed one
	ReasonQuery         Reason = "query"         // a query where none belongs
	ReasonContentType   Reason = "content_type"
	ReasonBody          Reason = "body" // malformed, too long, or there is one where none belongs
	ReasonMissingField  Reason = "missing_field"
	ReasonUnknownField  Reason = "unknown_field"
	ReasonRepeatedField Reason = "repeated_field"

	ReasonValue      Reason = "value"      // a field has a value that its documentation does not allow; Detail names the field
	ReasonCredential Reason = "credential" // unknown client or user, or the wrong secret
	ReasonDisabled   Reason = "disabled"   // the account was disabled
	ReasonLockedOut  Reason = "locked_out" // too many wrong logins
	ReasonScope      Reason = "scope"      // more than the account may have
	ReasonGrant      Reason = "grant"      // an unknown, spent or revoked refresh token
	ReasonRate       Reason = "rate"       // too many requests
	ReasonToken      Reason = "token"      // the API endpoint was shown no valid token
	ReasonDown       Reason = "down"       // the system is down, and the request was cut off
	ReasonInjected   Reason = "injected"   // an OAuth error on demand
	reasonFollowed   Reason = "followed"   // the target of an injected redirect
	maxRefusals             = 10_000       // older ones are dropped: a demo may run for weeks
)

// Refusal is one refused request. Detail says more where that cannot reveal a secret: the name of a field that some vendor
// documents, or what was wrong.
type Refusal struct {
	Time     time.Time `json:"time"`
	System   System    `json:"system,omitempty"`
	Account  AccountID `json:"account,omitempty"` // empty when the request named none of ours
	Endpoint Endpoint  `json:"endpoint,omitempty"`
	Request  int64     `json:"request"`
	Status   int       `json:"status,omitempty"` // 0: cut off without an answer
	Reason   Reason    `json:"reason"`
	Detail   string    `json:"detail,omitempty"`
}

// Refusals returns the refused requests of a system (empty: of all) in order, the last ten thousand of them. The slice is the
// caller's.
func (s *Sim) Refusals(system System) []Refusal {
	s.mu.Lock()
	defer s.mu.Unlock()
	refusals := []Refusal{}
	for _, r := range s.refusals {
		if system == "" || r.System == system {
			refusals = append(refusals, r)
		}
	}
	return refusals
}

// refuse records why the request is refused, and makes the answer that the vendor would give; s.mu is held. The code is the
// OAuth error code, of which vendors that do not speak OAuth show nothing.
func (x *exchange) refuse(status int, code string, reason Reason, detail string) answer {
	x.noteRefusal(status, reason, detail)
	return x.errorAnswer(status, code, string(reason))
}

func (x *exchange) noteRefusal(status int, reason Reason, detail string) {
	s := x.sim
	refusal := Refusal{
		Time: s.now(), System: x.system, Endpoint: x.endpoint, Request: x.number, Status: status, Reason: reason, Detail: detail,
	}
	if x.account != nil {
		refusal.Account = x.account.id
	}
	if len(s.refusals) >= maxRefusals {
		s.refusals = slices.Delete(s.refusals, 0, maxRefusals/10)
	}
	s.refusals = append(s.refusals, refusal)
	x.count(func(c *counters) { c.refused[reason]++ })
	x.record(Event{Kind: KindRefused, Reason: reason, Detail: detail})
}

// errorAnswer is an error as the system words it.
func (x *exchange) errorAnswer(status int, code, description string) answer {
	switch {
	case x.endpoint == EndpointAPI && x.system != DocuWareCookie:
		ans := jsonAnswer(status, map[string]any{"message": http.StatusText(status)})
		if status == http.StatusUnauthorized {
			ans.header.Set("WWW-Authenticate", `Bearer error="invalid_token"`)
		}
		return ans
	case x.system == OcctooDestination || x.system == OcctooIngest:
		// ASP.NET Core's problem details.
		ans := jsonAnswer(status, map[string]any{"title": http.StatusText(status), "status": status})
		ans.header.Set("Content-Type", "application/problem+json; charset=utf-8")
		return ans
	case x.system == DocuWareCookie || x.endpoint == EndpointIdentity:
		return htmlAnswer(status)
	}
	return jsonAnswer(status, map[string]any{"error": code, "error_description": description})
}
