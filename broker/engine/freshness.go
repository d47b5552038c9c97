package engine

import (
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/gate"
)

const (
	// defaultMargin is how long before expiry a refresh begins, for long-lived tokens.
	defaultMargin = 5 * time.Minute
	// lifetimeMost bounds what an upstream says: beyond it are years that no clock and no Timestamp can count to.
	lifetimeMost = 100 * 365 * 24 * time.Hour
	// marginPart is the largest part of a lifetime that a margin may take: 1/5.
	marginPart = 5
	// sameTokenBackoff is how long an upstream that gave the same token again is not asked, at first; it doubles.
	sameTokenBackoff = 30 * time.Second
	sameTokenDoubles = 6
	// rejectedSoon is how soon after it was issued a token is rejected that its upstream need not have issued: another would be too.
	// rejectedAtOnce are replaced at once all the same, one after the other.
	rejectedSoon   = time.Minute
	rejectedAtOnce = 3
	// unmetTTL is how close to a token's whole lifetime a min_ttl may come before it counts as one that the upstream cannot
	// give: else every call after the first second would fetch.
	unmetTTL = 30 * time.Second
)

// refreshTime decides when a refresh begins. jitter is in [0, 1) and drawn once, when the token is stored.
func refreshTime(sent, expire time.Time, declared time.Duration, jitter float64) time.Time {
	margin := declared
	if margin <= 0 {
		margin = defaultMargin
	}
	margin = max(0, min(margin, expire.Sub(sent)/marginPart))
	return expire.Add(-margin - time.Duration(jitter*float64(margin)/4))
}

// A need is what a caller, or a flight, wants of a token beyond its being valid.
type need struct {
	minTTL   time.Duration
	rejected string
	// fresh: past its refresh time is not good enough (a background refresh).
	fresh bool
	// stored: what only this process has is not good enough (the same).
	stored bool
	// force: whatever there is, ask the upstream (TestCredential).
	force bool
}

// A verdict says what to do about a token.
type verdict int

const (
	fetch verdict = iota
	serve
	serveAndRefresh
)

// decide is the one place where freshness is decided: readers, flights, watches and the scheduler of refreshes ask it. A
// token that it serves is valid at now.
func decide(t *broker.Issued, now time.Time, n need) verdict {
	if t == nil || !now.Before(t.ExpireAt) || n.force {
		return fetch
	}
	if now.Before(t.AskAgainAt) {
		return serve // the upstream has no other: true expiry, and no question before then
	}
	if t.Rejected || n.rejected != "" && n.rejected == t.ID {
		return fetch
	}
	whole := t.ExpireAt.Sub(t.SentAt)
	givable := whole - min(unmetTTL, whole/10)
	if n.minTTL > t.ExpireAt.Sub(now) && n.minTTL <= givable {
		return fetch
	}
	if !now.Before(t.RefreshAt) {
		if n.fresh {
			return fetch
		}
		return serveAndRefresh
	}
	return serve
}

// fallback reports whether the token may be handed out although something better could not be had.
func fallback(t *broker.Issued, now time.Time, n need) bool {
	return t != nil && now.Before(t.ExpireAt) && !t.Rejected && (n.rejected == "" || n.rejected != t.ID)
}

// keeps reports whether a token that is rejected is not replaced yet, because those before it were rejected too.
func keeps(t *broker.Issued, now time.Time) bool {
	return t != nil && now.Before(t.ReplaceAt) && now.Before(t.ExpireAt)
}

// refusesFresh is the failure of whoever rejects a token that is not replaced yet.
func refusesFresh(c broker.Credential, t *broker.Issued) *broker.Failure {
	return &broker.Failure{Kind: broker.FreshTokensRejected, Credential: c.Name, Provider: c.Provider, RetryAt: t.ReplaceAt}
}

// issue makes the token that is stored of what an answer brought. before is the token that was stored until now, nil for
// none.
func issue(a broker.Answer, f *broker.Facts, sel broker.Selection, id string, before *broker.Issued, jitter float64) *broker.Issued {
	t := &broker.Issued{
		ID: id, Values: a.Values, Headers: a.Headers, TokenType: a.TokenType, Audience: sel.Audience, Granted: a.Scopes,
		SentAt: a.Expiry.SentAt, Unread: a.Expiry.Unread,
	}
	if t.Granted == nil {
		t.Granted = sel.Scopes.List()
	}
	t.ExpireAt, t.Source = a.Expiry.Ends(f)
	if most := t.SentAt.Add(lifetimeMost); t.ExpireAt.After(most) {
		t.ExpireAt = most
	}
	t.RefreshAt = refreshTime(t.SentAt, t.ExpireAt, f.Margin, jitter)
	switch {
	case before == nil:
	case before.ID != id && before.Rejected:
		again := before.SentAt
		if before.ReplaceAt.After(again) {
			again = before.ReplaceAt
		}
		if t.SentAt.Sub(again) >= rejectedSoon {
			break // it was good for a while
		}
		if t.RejectedCount = before.RejectedCount + 1; t.RejectedCount >= rejectedAtOnce {
			t.ReplaceAt = t.SentAt.Add(gate.WaitAfter(t.RejectedCount-rejectedAtOnce+1, 0, jitter))
		}
	case before.ID == id:
		t.RejectedCount, t.ReplaceAt = before.RejectedCount, before.ReplaceAt
		t.SameCount = before.SameCount + 1
		t.AskAgainAt = t.SentAt.Add(sameTokenBackoff << min(t.SameCount-1, sameTokenDoubles))
		if t.Source != broker.ExpiryUpstream && before.ExpireAt.Before(t.ExpireAt) {
			// Nothing but its first issue says when the token ends: a definition's lifetime does not begin anew.
			t.ExpireAt, t.SentAt = before.ExpireAt, before.SentAt
		}
	}
	return t
}
