package engine

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/gate"
)

var sent = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func TestAMarginNeverEatsTheLifetime(t *testing.T) {
	if got := refreshTime(sent, sent.Add(10*time.Minute), 15*time.Minute, 0); got != sent.Add(8*time.Minute) {
		t.Errorf("a 10-minute token with a 15-minute margin: got %v, want after 8 minutes", got.Sub(sent))
	}
	if got := refreshTime(sent, sent.Add(time.Hour), 0, 0); got != sent.Add(55*time.Minute) {
		t.Errorf("got %v, want five minutes before the end", got.Sub(sent))
	}
	rapid.Check(t, func(t *rapid.T) {
		life := time.Duration(rapid.Int64Range(1, int64(400*24*time.Hour)).Draw(t, "life"))
		margin := time.Duration(rapid.Int64Range(0, int64(400*24*time.Hour)).Draw(t, "margin"))
		jitter := rapid.Float64Range(0, 0.999999).Draw(t, "jitter")
		at := refreshTime(sent, sent.Add(life), margin, jitter)
		if at.After(sent.Add(life)) || at.Sub(sent) < life*3/4-1 {
			t.Fatalf("got a refresh after %v of %v", at.Sub(sent), life)
		}
	})
}

func TestDecide(t *testing.T) {
	token := func() *broker.Issued {
		return &broker.Issued{ID: "x", SentAt: sent, RefreshAt: sent.Add(55 * time.Minute), ExpireAt: sent.Add(time.Hour)}
	}
	at := sent.Add
	for _, c := range []struct {
		name string
		mod  func(*broker.Issued)
		now  time.Time
		n    need
		want verdict
	}{
		{"fresh", nil, at(0), need{}, serve},
		{"just before its refresh time", nil, at(55*time.Minute - 1), need{}, serve},
		{"at its refresh time", nil, at(55 * time.Minute), need{}, serveAndRefresh},
		{"at its refresh time, for the refresh itself", nil, at(55 * time.Minute), need{fresh: true}, fetch},
		{"just before its expiry", nil, at(time.Hour - 1), need{}, serveAndRefresh},
		{"at its expiry", nil, at(time.Hour), need{}, fetch},
		{"rejected by its id", nil, at(0), need{rejected: "x"}, fetch},
		{"another one rejected", nil, at(0), need{rejected: "y"}, serve},
		{"marked as rejected", func(t *broker.Issued) { t.Rejected = true }, at(0), need{}, fetch},
		{"rejected, and the upstream has no other", func(t *broker.Issued) { t.Rejected, t.AskAgainAt = true, at(time.Minute) }, at(0), need{rejected: "x"}, serve},
		{"the upstream has no other, and it has expired", func(t *broker.Issued) { t.AskAgainAt = at(2 * time.Hour) }, at(time.Hour), need{}, fetch},
		{"lives long enough", nil, at(0), need{minTTL: 50 * time.Minute}, serve},
		{"does not live long enough", nil, at(20 * time.Minute), need{minTTL: 50 * time.Minute}, fetch},
		{"no token of this upstream lives so long", nil, at(20 * time.Minute), need{minTTL: 2 * time.Hour}, serve},
		{"forced", nil, at(0), need{force: true}, fetch},
	} {
		x := token()
		if c.mod != nil {
			c.mod(x)
		}
		if got := decide(x, c.now, c.n); got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
	if decide(nil, sent, need{}) != fetch {
		t.Error("no token: want fetch")
	}
}

func TestPermanentFailuresCostLessAndLess(t *testing.T) {
	last := time.Duration(0)
	for n := 1; n < 20; n++ {
		d := permanentWait(n, 0)
		if d < last || d > permanentMost {
			t.Errorf("after %d: got %v, want it to grow up to %v", n, d, permanentMost)
		}
		last = d
	}
	if got := permanentWait(1, 10*time.Minute); got != 10*time.Minute {
		t.Errorf("got %v, want what the definition says", got)
	}
	if got := gate.WaitAfter(1, 100*time.Hour, 0); got != gate.RetryAfterMost {
		t.Errorf("got %v, want a bound on what an upstream may ask for", got)
	}
}

func TestDistinctSelectionsHaveDistinctKeys(t *testing.T) {
	part := rapid.StringMatching(`[a-z:/."0-9\\ ]{1,8}`)
	rapid.Check(t, func(t *rapid.T) {
		draw := func(name string) broker.Selection {
			scopes, err := broker.ParseSet("scopes", rapid.SliceOfN(part, 0, 3).Draw(t, name+" scopes"))
			if err != nil {
				t.Skip()
			}
			resources, err := broker.ParseSet("resources", rapid.SliceOfN(part, 0, 3).Draw(t, name+" resources"))
			if err != nil {
				t.Skip()
			}
			params := rapid.MapOfN(part, part, 0, 3).Draw(t, name+" parameters")
			s := broker.Selection{Scopes: scopes, Resources: resources, Audience: rapid.OneOf(rapid.Just(""), part).Draw(t, name+" audience"), Parameters: broker.NewPairs(params)}
			if got := s.Parameters.Map(); len(got) != len(params) {
				t.Fatalf("got %v back of %v", got, params)
			}
			for k, v := range params {
				if s.Parameters.Map()[k] != v {
					t.Fatalf("got %q for %q, want %q", s.Parameters.Map()[k], k, v)
				}
			}
			return s
		}
		a, b := draw("a"), draw("b")
		same := a.Scopes.String() == b.Scopes.String() && a.Audience == b.Audience && a.Resources.String() == b.Resources.String() &&
			len(a.Parameters.Map()) == len(b.Parameters.Map())
		for k, v := range a.Parameters.Map() {
			same = same && b.Parameters.Map()[k] == v
		}
		if (a == b) && !same {
			t.Fatalf("%v and %v have one key", a, b)
		}
	})
}
