package broker

import (
	"encoding/json"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Issued is a token as it is stored: what the upstream brought and what was decided when it came. Presentation is rendered
// when it is read, so that a definition's new way to present takes effect at once. Immutable once stored.
type Issued struct {
	// ID is opaque and safe to log: a keyed hash of the token, so that the same token again has the same id.
	ID string
	// Values are the taken ones; "token" is the access token.
	Values    map[string]Secret
	Headers   []Field
	TokenType string
	// Audience is what was asked for, for people.
	Audience string
	// Granted are the scopes that the upstream says it granted; those asked for where it does not say.
	Granted []string
	// SentAt is when the request that brought it was sent: lifetimes count from it.
	SentAt    time.Time
	ExpireAt  time.Time
	RefreshAt time.Time
	Source    ExpirySource
	// Unread names what the answer said about its end and nobody could read, `expires_in`, `expires_at` or `exp`; empty: nothing.
	Unread string
	// SameCount is how often in a row the upstream gave this same token again, and AskAgainAt until when it is not asked
	// again for that reason.
	SameCount  int
	AskAgainAt time.Time
	// Rejected: somebody said that the API refuses it. It is not served from any store or cache, but for an upstream that
	// keeps handing it out (AskAgainAt).
	Rejected bool
	// RejectedCount is how many tokens in a row, the last before this one, were rejected soon after they were issued. ReplaceAt is until when
	// another is not asked for, for that reason, although this one is rejected too.
	RejectedCount int
	ReplaceAt     time.Time
}

// Shift makes all of its times so much later; earlier where d is negative. Only whoever has just read it may.
func (t *Issued) Shift(d time.Duration) {
	for _, at := range []*time.Time{&t.SentAt, &t.ExpireAt, &t.RefreshAt, &t.AskAgainAt, &t.ReplaceAt} {
		if !at.IsZero() {
			*at = at.Add(d)
		}
	}
}

// Told makes its times, which are by the wall clock as it was at an instant, those of the wall clock as it is now: somebody may have set it back since. It returns a copy.
func (t Issued) Told(at, now Instant) Issued {
	if back := at.Steady(now).Sub(now.Wall); back > jump {
		t.Shift(-back)
	}
	return t
}

// ExpirySource says how far a token's expiry can be trusted.
type ExpirySource int

// The sources.
const (
	// ExpiryUnknown: neither answer, token nor definition says; the broker assumes ten minutes.
	ExpiryUnknown ExpirySource = iota
	ExpiryUpstream
	ExpiryToken
	ExpiryDefinition
	// ExpiryNone: the definition says until_rejected.
	ExpiryNone
)

// A Token is what callers get. Immutable, and shared by all of them.
type Token struct {
	ID          string
	AccessToken Secret
	TokenType   string
	ExpireTime  time.Time
	RefreshTime time.Time
	Scopes      []string
	Source      ExpirySource
	Presentation
}

// Shows reports whether callers would get a secret with the token: as it is, or as a part of a JSON text or of a URL. One of less than 16 bytes may
// be part of anything, and counts where it stands alone. What an upstream has in a token that is one word is its own affair.
func (t *Token) Shows(secret Secret) bool {
	s, token := secret.Reveal(), t.AccessToken.Reveal()
	if s == "" {
		return false
	}
	written, _ := json.Marshal(s)
	spelled := []string{s, strings.Trim(string(written), `"`), url.QueryEscape(s), url.PathEscape(s)}
	has := func(v string) bool {
		return v == s || len(s) >= 16 && slices.ContainsFunc(spelled, func(x string) bool { return strings.Contains(v, x) })
	}
	theirs := token == s || has(token) && !strings.ContainsAny(token, " \t\r\n{}<>\",;")
	shown := []string{t.TokenType, t.BaseURL, strings.Join(t.Scopes, " ")}
	for _, f := range slices.Concat(t.Headers, t.Cookies, t.Query) {
		shown = append(shown, f.Value.Reveal())
	}
	shown = append(slices.AppendSeq(shown, maps.Values(t.Attributes)), t.Scopes...)
	return slices.ContainsFunc(shown, func(v string) bool {
		if theirs {
			v = strings.ReplaceAll(v, token, "")
		}
		return has(v)
	})
}
