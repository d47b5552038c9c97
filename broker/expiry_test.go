package broker_test

import (
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

var sent = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func seconds(s int) *time.Duration {
	d := time.Duration(s) * time.Second
	return &d
}

func TestWhereAnExpiryComesFrom(t *testing.T) {
	for _, c := range []struct {
		name   string
		e      broker.Expiry
		f      broker.Facts
		want   time.Duration
		source broker.ExpirySource
	}{
		{"the earliest counts: relative", broker.Expiry{At: sent.Add(time.Hour), In: seconds(60), Claim: sent.Add(2 * time.Minute)}, broker.Facts{}, time.Minute, broker.ExpiryUpstream},
		{"the earliest counts: absolute", broker.Expiry{At: sent.Add(time.Minute), In: seconds(90), Claim: sent.Add(2 * time.Minute)}, broker.Facts{}, time.Minute, broker.ExpiryUpstream},
		{"the earliest counts: the token's own", broker.Expiry{At: sent.Add(time.Hour), In: seconds(3600), Claim: sent.Add(time.Minute)}, broker.Facts{}, time.Minute, broker.ExpiryToken},
		{"one that nobody can read, and a lifetime", broker.Expiry{Unread: "expires_at"}, broker.Facts{Lifetime: time.Minute}, time.Minute, broker.ExpiryDefinition},
		{"one that nobody can read", broker.Expiry{Unread: "expires_at"}, broker.Facts{UntilRejected: true}, 10 * time.Minute, broker.ExpiryUnknown},
		{"a clock that is ahead, and the token's own", broker.Expiry{Claim: sent.Add(time.Hour), Date: sent.Add(10 * time.Minute)}, broker.Facts{}, 50 * time.Minute, broker.ExpiryToken},
		{"a clock that is ahead makes it earlier", broker.Expiry{At: sent.Add(time.Hour), Date: sent.Add(10 * time.Minute)}, broker.Facts{}, 50 * time.Minute, broker.ExpiryUpstream},
		{"a clock that is behind never makes it later", broker.Expiry{At: sent.Add(time.Hour), Date: sent.Add(-10 * time.Minute)}, broker.Facts{}, time.Hour, broker.ExpiryUpstream},
		{"relative", broker.Expiry{In: seconds(90), Claim: sent.Add(time.Hour)}, broker.Facts{Lifetime: time.Minute}, 90 * time.Second, broker.ExpiryUpstream},
		{"the token's own", broker.Expiry{Claim: sent.Add(time.Hour)}, broker.Facts{Lifetime: time.Minute}, time.Hour, broker.ExpiryToken},
		{"the definition's", broker.Expiry{}, broker.Facts{Lifetime: time.Minute}, time.Minute, broker.ExpiryDefinition},
		{"until rejected", broker.Expiry{}, broker.Facts{UntilRejected: true}, 24 * time.Hour, broker.ExpiryNone},
		{"nobody says", broker.Expiry{}, broker.Facts{}, 10 * time.Minute, broker.ExpiryUnknown},
	} {
		c.e.SentAt = sent
		at, source := c.e.Ends(&c.f)
		if at.Sub(sent) != c.want || source != c.source {
			t.Errorf("%s: got %v %v, want %v %v", c.name, at.Sub(sent), source, c.want, c.source)
		}
	}
}
