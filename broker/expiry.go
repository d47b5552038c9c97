package broker

import "time"

// Expiry is everything an answer says about a token's end.
type Expiry struct {
	// SentAt is when the request that brought the token was sent, by the broker's clock.
	SentAt time.Time
	// At is the absolute expiry in the answer; zero: none. Date is the answer's Date header; zero: none.
	At, Date time.Time
	// In is the relative expiry in the answer; nil: none. It may be zero or negative, as the upstream said.
	In *time.Duration
	// Claim is the `exp` of a token that is a JWT; zero: none.
	Claim time.Time
	// Unread names what is there and cannot be read, `expires_in`, `expires_at` or `exp`, the token's own; empty: nothing.
	Unread string
}

const (
	// assumedLifetime is that of a token of which neither answer, token nor definition says how long it lives.
	assumedLifetime = 10 * time.Minute
	// rejectedLifetime bounds a token of a definition that says until_rejected.
	rejectedLifetime = 24 * time.Hour
)

// Ends decides when the token ends, and how far that can be trusted. Of what the answer and the token say, the earliest counts; only
// where they say nothing, the definition does. Nothing makes it later than its source says, but for the clock: absolute ends are
// corrected by the difference between the answer's Date and the broker's own clock, earlier only.
func (e Expiry) Ends(f *Facts) (time.Time, ExpirySource) {
	var at time.Time
	source := ExpiryUnknown
	earliest := func(t time.Time, s ExpirySource) {
		if source == ExpiryUnknown || t.Before(at) {
			at, source = t, s
		}
	}
	if !e.At.IsZero() {
		earliest(e.corrected(e.At), ExpiryUpstream)
	}
	if e.In != nil {
		earliest(e.SentAt.Add(*e.In), ExpiryUpstream)
	}
	if !e.Claim.IsZero() {
		earliest(e.corrected(e.Claim), ExpiryToken)
	}
	switch {
	case source != ExpiryUnknown:
		return at, source
	case f.Lifetime > 0:
		return e.SentAt.Add(f.Lifetime), ExpiryDefinition
	case f.UntilRejected && e.Unread == "": // somebody does know how long it lives
		return e.SentAt.Add(rejectedLifetime), ExpiryNone
	}
	return e.SentAt.Add(assumedLifetime), ExpiryUnknown
}

// corrected is an absolute time by the broker's clock.
func (e Expiry) corrected(at time.Time) time.Time {
	if ahead := e.Date.Sub(e.SentAt); !e.Date.IsZero() && ahead > 0 {
		return at.Add(-ahead)
	}
	return at
}

// UnreadAdvice says what to write where an answer has an end that nobody can read; unread is Expiry.Unread.
func UnreadAdvice(unread string) string {
	if unread == "expires_in" {
		return "the upstream's expires_in cannot be read, and `lifetime` is used, or ten minutes: write its unit, as in take: {expires_in: {path: …, unit: ms}}, or expires_at with a layout"
	}
	if unread == "exp" {
		return "the token's own exp cannot be read, and what the answer says is used, or `lifetime`, or ten minutes: write how it is spelled, as in take: {expires_at: {claim: exp, of: token, layout: unix_ms}}"
	}
	return "the upstream's expires_at cannot be read, and `lifetime` is used, or ten minutes: write how it is spelled, as in take: {expires_at: {path: …, layout: \"%d.%m.%Y %H:%M\"}}"
}
