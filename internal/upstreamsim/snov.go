package upstreamsim

import (
	"math"
	"net/http"
	"strconv"
	"time"
)

// snovByMethod tells apart the two accounts' ways to the one endpoint.
func snovByMethod(r *http.Request) System {
	if r.Method == http.MethodGet {
		return SnovGet
	}
	return Snov
}

// snov issues tokens to GET, parameters in the query, and to POST, parameters in a form. Any account may use either. The
// documented limit of 60 requests a minute is applied to the token requests of a client; how it is answered is not documented,
// so it is 429 with Retry-After.
func (s *Sim) snov(x *exchange) answer {
	f, bad := x.fields(fieldSet{required: []string{"client_id", "client_secret", "grant_type"}})
	if bad != nil {
		return *bad
	}
	if bad := x.want(f, "grant_type", "client_credentials", "unsupported_grant_type"); bad != nil {
		return *bad
	}
	if a := s.lookUp(f["client_id"], Snov, SnovGet); a != nil {
		x.account = a
		if wait := s.throttle(a); wait > 0 {
			x.noteRefusal(http.StatusTooManyRequests, ReasonRate, "")
			ans := jsonAnswer(http.StatusTooManyRequests, map[string]any{"message": "Too Many Attempts."})
			ans.header.Set("Retry-After", strconv.Itoa(int(math.Ceil(wait.Seconds()))))
			return ans
		}
	}
	if bad := s.client(x, f["client_id"], f["client_secret"], Snov, SnovGet); bad != nil {
		return *bad
	}
	t := s.issueAccess(x, nil, "")
	return x.oauthAnswer(t, s.left(t))
}

// throttle counts a token request of the account, or returns how long it must wait.
func (s *Sim) throttle(a *account) time.Duration {
	if s.opts.SnovPerMinute < 0 {
		return 0
	}
	now := s.now()
	for len(a.window) > 0 && !now.Before(a.window[0].Add(time.Minute)) {
		a.window = a.window[1:]
	}
	if len(a.window) >= s.opts.SnovPerMinute {
		return a.window[0].Add(time.Minute).Sub(now)
	}
	a.window = append(a.window, now)
	return 0
}
