package upstreamsim

import (
	"net/http"
	"slices"
	"strings"
	"time"
)

// The cookies of a DocuWare login.
const (
	cookieAuth    = ".DWPLATFORMAUTH"
	cookieBrowser = "DWPLATFORMBROWSERID"
)

// docuWareByHeader tells an API request with a token from one with cookies.
func docuWareByHeader(r *http.Request) System {
	if r.Header.Get("Authorization") != "" {
		return DocuWare
	}
	return DocuWareCookie
}

// docuWareLogon is the cookie login of DocuWare's platform service. A wrong login is 401 with HTML, and too many of them lock
// the user out for ten minutes: then the right password is no better. How many is not documented; Options.LockoutAfter is our
// choice. The first .DWPLATFORMAUTH of the answer is empty.
func (s *Sim) docuWareLogon(x *exchange) answer {
	f, bad := x.fields(fieldSet{
		required: []string{"UserName", "Password", "LoginType", "RedirectToMyselfInCaseOfError", "RememberMe"},
		optional: []string{"Organization", "HostID"},
	})
	if bad != nil {
		return *bad
	}
	for _, fixed := range [][2]string{{"LoginType", "DocuWare"}, {"RedirectToMyselfInCaseOfError", "false"}, {"RememberMe", "false"}} {
		if bad := x.want(f, fixed[0], fixed[1], ""); bad != nil {
			return *bad
		}
	}
	if a := s.lookUp(f["UserName"], DocuWareCookie); a != nil && s.now().Before(a.locked) {
		x.account = a
		return x.refuse(http.StatusUnauthorized, "", ReasonLockedOut, "")
	}
	if bad := s.client(x, f["UserName"], f["Password"], DocuWareCookie); bad != nil {
		s.countWrong(x)
		return *bad
	}
	a := x.account
	if organization := f["Organization"]; organization != "" && organization != a.inputs["organization"] {
		defer s.countWrong(x)
		return x.refuse(http.StatusUnauthorized, "", ReasonValue, "Organization")
	}
	a.wrong = 0
	return s.docuWareSession(x)
}

// countWrong counts a wrong login of a known user.
func (s *Sim) countWrong(x *exchange) {
	a := x.account
	if a == nil || a.disabled || a.system != x.system {
		return
	}
	a.wrong++
	if a.wrong >= s.opts.LockoutAfter {
		a.wrong, a.locked = 0, s.now().Add(s.opts.LockoutFor)
		x.record(Event{Kind: KindLocked})
	}
}

func (s *Sim) docuWareSession(x *exchange) answer {
	t := s.issueAccess(x, nil, "")
	if t.browser == "" {
		t.userAgent, t.browser = x.r.UserAgent(), randomHex(16)
	}
	ans := jsonAnswer(http.StatusOK, map[string]any{"Organization": x.account.inputs["organization"], "UserName": x.account.login})
	for _, cookie := range []http.Cookie{
		{Name: cookieAuth, Value: "", Path: pathDocuWare, Expires: time.Unix(1, 0), HttpOnly: true, Secure: true},
		{Name: cookieAuth, Value: t.value, Path: pathDocuWare, HttpOnly: true, Secure: true},
		{Name: cookieBrowser, Value: t.browser, Path: pathDocuWare, HttpOnly: true, Secure: true},
	} {
		ans.header.Add("Set-Cookie", cookie.String())
	}
	return ans
}

// docuWareCookies finds the session of a request: both cookies, once each and none besides, and the User-Agent of the login.
func (s *Sim) docuWareCookies(x *exchange) (*accessToken, *answer) {
	values := make(map[string]string)
	for _, cookie := range x.r.Cookies() {
		_, twice := values[cookie.Name]
		if twice || !slices.Contains([]string{cookieAuth, cookieBrowser}, cookie.Name) {
			return nil, new(x.refuse(http.StatusBadRequest, "", ReasonCookie, "unknown or repeated"))
		}
		values[cookie.Name] = cookie.Value
	}
	t := s.access[values[cookieAuth]]
	if t == nil || t.account.system != DocuWareCookie || !s.valid(t) || t.browser != values[cookieBrowser] {
		return nil, new(x.refuse(http.StatusUnauthorized, "", ReasonToken, "unknown, expired or ended"))
	}
	x.account = t.account
	if x.r.UserAgent() != t.userAgent {
		return nil, new(x.refuse(http.StatusUnauthorized, "", ReasonUserAgent, "not that of the login"))
	}
	return t, nil
}

// docuWareLogoff ends a session.
func (s *Sim) docuWareLogoff(x *exchange) answer {
	t, bad := s.docuWareCookies(x)
	if bad != nil {
		return *bad
	}
	delete(s.access, t.value)
	x.record(Event{Kind: KindEnded, Detail: "logoff"})
	ans := htmlAnswer(http.StatusOK)
	ans.header.Set("Set-Cookie", cookieAuth+"=; Path="+pathDocuWare+"; Max-Age=0")
	return ans
}

// docuWareAPI answers API requests with cookies and with Bearer tokens, but not with both.
func (s *Sim) docuWareAPI(x *exchange) answer {
	if x.r.Header.Get("Authorization") != "" {
		if strings.Join(x.r.Header["Cookie"], "") != "" {
			return x.refuse(http.StatusBadRequest, "", ReasonCookie, "besides a Bearer token")
		}
		return s.bearerAPI(x)
	}
	t, bad := s.docuWareCookies(x)
	if bad != nil {
		return *bad
	}
	return x.accept(t)
}
