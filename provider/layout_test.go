package provider

import (
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// TestAnEndIsReadAsServersWriteIt: what stands in real answers.
func TestAnEndIsReadAsServersWriteIt(t *testing.T) {
	for _, at := range []string{
		"2026-05-01T12:00:00Z", "2026-05-01T12:00:00", "2026-05-01 12:00:00", "2026-05-01 12:00:00Z", "2026-05-01T12:00:00.000+0000",
		"2026-05-01T12:00:00.0000000Z", "2026-05-01T14:00:00+02:00", "2026-05-01T14:00:00+02", "2026-05-01 12:00:00 UTC", "2026-05-01 12:00:00 +0000 UTC",
		"2026-05-01t12:00:00z", "2026-05-01T12:00", "2026-05-01 14:00:00 +0200",
		"1777636800", "1777636800.0", "1777636800000", "1.7776368e9", "Fri, 01 May 2026 12:00:00 GMT", "Fri, 1 May 2026 12:00:00 UTC", "Fri, 01 May 2026 14:00:00 +0200",
	} {
		if got, ok := parseTime(at, ""); !ok || !got.Equal(time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)) {
			t.Errorf("%q: got %v %v", at, got, ok)
		}
	}
	for _, at := range []string{"", "soon", "3600", "01.05.2026 12:00", "05/01/2026 12:00:00", "1777636800000000", "2026-05-01T12:00:00 PST", "Fri, 01 May 2026 12:00:00 PST", "-1", "NaN"} {
		if got, ok := parseTime(at, ""); ok {
			t.Errorf("%q: got %v, want that it cannot be read", at, got)
		}
	}
}

func TestALayoutTakesWhatItsConversionsMean(t *testing.T) {
	for _, c := range []struct{ layout, at string }{
		{"%Y-%m-%dT%H:%M:%S.%fZ", "2026-05-01T12:00:00.5Z"}, {"%Y-%m-%dT%H:%M:%S.%fZ", "2026-05-01T12:00:00.500000000Z"}, {"%F %T.%f", "2026-05-01 12:00:00.500"},
		{"%Y-%m-%dT%H:%M:%S.%f%z", "2026-05-01T12:00:00.500+00:00"}, {"%Y-%m-%dT%H:%M:%S.%f%z", "2026-05-01T14:00:00.500+0200"}, {"%Y-%m-%dT%H:%M:%S.%f%z", "2026-05-01T12:00:00.5Z"},
		{"%d.%m.%Y %H:%M:%S.%f %Z", "01.05.2026 12:00:00.5 UTC"},
	} {
		if got, ok := parseTime(c.at, c.layout); !ok || !got.Equal(time.Date(2026, 5, 1, 12, 0, 0, 5e8, time.UTC)) {
			t.Errorf("%q by %q: got %v %v", c.at, c.layout, got, ok)
		}
	}
	if got, ok := parseTime("01.05.2026 12:00:00 XST", "%d.%m.%Y %H:%M:%S %Z"); ok {
		t.Errorf("got %v of a zone that nobody knows", got)
	}
}

func jwtThatEnds(exp string) string {
	return "e30." + base64.RawURLEncoding.EncodeToString([]byte(`{"exp":`+exp+`}`)) + ".x"
}

// TestAnEndThatNobodyCanReadIsSaid: it is neither taken for none, nor for the definition's.
func TestAnEndThatNobodyCanReadIsSaid(t *testing.T) {
	for answer, c := range map[string]struct {
		take, unread string
		source       broker.ExpirySource
	}{
		`{"t": "x", "e": "soon"}`:                                  {"expires_at: e", "expires_at", broker.ExpiryUnknown},
		`{"t": "x", "e": "an hour"}`:                               {"expires_in: e", "expires_in", broker.ExpiryUnknown},
		`{"t": "x", "e": "3600s"}`:                                 {"expires_in: e", "", broker.ExpiryUpstream},
		`{"t": "x", "e": "2026-05-01"}`:                            {`expires_at: {path: e, layout: "%d.%m.%Y"}`, "expires_at", broker.ExpiryUnknown},
		`{"t": "x", "e": null}`:                                    {"expires_at: e", "", broker.ExpiryUnknown},
		`{"t": "e30.eyJleHAiOjE3Nzc2MzY4MDB9.x", "e": 9999999999}`: {"expires_at: {claim: exp, of: token}", "", broker.ExpiryToken},
		`{"t": "e30.eyJleHAiOjE3Nzc2MzY4MDB9.x", "e": 4102444800}`: {"expires_at: e", "", broker.ExpiryToken},
		`{"t": "` + jwtThatEnds(`-5`) + `"}`:                       {"x: t", "exp", broker.ExpiryUnknown},
		`{"t": "` + jwtThatEnds(`1e300`) + `"}`:                    {"x: t", "exp", broker.ExpiryUnknown},
		`{"t": "` + jwtThatEnds(`1e400`) + `"}`:                    {"x: t", "exp", broker.ExpiryUnknown},
		`{"t": "` + jwtThatEnds(`"x"`) + `"}`:                      {"x: t", "exp", broker.ExpiryUnknown},
		`{"t": "` + jwtThatEnds(`null`) + `"}`:                     {"x: t", "", broker.ExpiryUnknown},
		`{"t": "` + jwtThatEnds(`"x"`) + `", "e": 60}`:             {"expires_in: e", "exp", broker.ExpiryUpstream},
		`{"t": "` + jwtThatEnds(`4102444800000`) + `"}`:            {"expires_at: {claim: exp, of: token, layout: unix_ms}", "", broker.ExpiryToken},
		`{"t": "x", "e": 1e400}`:                                   {"expires_in: e", "expires_in", broker.ExpiryUnknown},
		`{"t": "x", "e": "Infinity"}`:                              {"expires_in: e", "expires_in", broker.ExpiryUnknown},
		`{"t": "x", "e": ` + strings.Repeat("9", 250_000) + `}`:    {"expires_in: e", "expires_in", broker.ExpiryUnknown},
	} {
		v := newVendor(t, jsonSays(answer))
		d := v.define("obtain: {post: https://example.com/t, take: {token: t, " + c.take + "}}")
		a, err := v.obtain(d, credential(nil), broker.Selection{})
		if err != nil {
			t.Errorf("%.80s: %v", answer, err)
			continue
		}
		if _, source := a.Expiry.Ends(d.Facts()); a.Expiry.Unread != c.unread || source != c.source {
			t.Errorf("%.80s: got %q %v, want %q %v", answer, a.Expiry.Unread, source, c.unread, c.source)
		}
	}
}
