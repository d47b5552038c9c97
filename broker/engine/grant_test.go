package engine_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
	"github.com/tokenbroker/tokenbroker/store/storetest"
)

// rotating is an upstream whose refresh tokens are spent by use: presenting a spent one revokes the family.
type rotating struct {
	mu      sync.Mutex
	n       int
	current map[string]string // family to its newest refresh token
	spent   map[string]string // refresh token to family
	revoked map[string]bool
	reused  int
	life    time.Duration
	lose    func(x broker.Exchange) bool // the answer is lost after it was processed
}

func newRotating(life time.Duration) *rotating {
	return &rotating{current: map[string]string{}, spent: map[string]string{}, revoked: map[string]bool{}, life: life}
}

func (r *rotating) answer(_ context.Context, x broker.Exchange) (broker.Answer, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	family := x.Selection.Scopes.String()
	if x.Run == broker.Refresh {
		given := x.RefreshToken.Reveal()
		if f, ok := r.spent[given]; ok {
			r.reused++
			r.revoked[f] = true
			return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelGrant, Status: 400, Code: "invalid_grant"}
		}
		if r.revoked[family] || r.current[family] != given {
			return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelGrant, Status: 400, Code: "invalid_grant"}
		}
		r.spent[given] = family
	} else {
		delete(r.revoked, family)
	}
	r.n++
	r.current[family] = fmt.Sprintf("refresh-%d", r.n)
	if r.lose != nil && r.lose(x) {
		return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelUpstream, Lost: true}
	}
	a := token(fmt.Sprintf("access-%d", r.n), r.life)
	a.RefreshToken = broker.NewSecret(r.current[family])
	return a, nil
}

func TestEachRefreshPresentsTheNewestTokenAndEachScopeSetHasItsOwn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRotating(time.Minute)
		up := &upstream{answer: r.answer, facts: broker.Facts{Obtains: true, Refreshes: true}}
		w := newWorld(t, up)
		w.create("main", nil)
		for i := range 200 {
			which := scopes(t, []string{"a", "b"}[i%2])
			together(20, func(n int) (string, error) {
				ctx, cancel := context.WithCancel(context.Background())
				if n%3 == 0 {
					cancel()
				}
				defer cancel()
				req := engine.Request{Credential: "main"}
				which(&req)
				_, err := w.Token(ctx, local, req)
				return "", err
			})
			sleep(31 * time.Second)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.reused > 0 || len(r.revoked) > 0 {
			t.Errorf("got %d reuses and revoked families %v, want none", r.reused, r.revoked)
		}
		obtains := 0
		for _, x := range up.exchanges() {
			if x.Run == broker.Obtain {
				obtains++
			}
		}
		if obtains != 2 || len(up.exchanges()) < 100 {
			t.Errorf("got %d obtains of %d exchanges, want 2: everything else is refreshed", obtains, len(up.exchanges()))
		}
	})
}

func TestAnUncertainRefreshTokenIsNotPresentedAgainWhereObtainCanDoWithout(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRotating(time.Minute)
		up := &upstream{answer: r.answer, facts: broker.Facts{Obtains: true, Refreshes: true}}
		w := newWorld(t, up)
		w.create("main", nil)
		w.mustGet("main")
		r.lose = func(x broker.Exchange) bool { return x.Run == broker.Refresh }
		sleep(2 * time.Minute)
		_, err := w.get("main")
		wantKind(t, err, broker.UpstreamUnavailable)
		sleep(5 * time.Second)
		w.mustGet("main")
		var runs []broker.Run
		for _, x := range up.exchanges() {
			runs = append(runs, x.Run)
		}
		if want := []broker.Run{broker.Obtain, broker.Refresh, broker.Obtain}; !slices.Equal(runs, want) {
			t.Errorf("got %v, want %v", runs, want)
		}
		if r.reused > 0 {
			t.Error("the uncertain refresh token was presented again")
		}
	})
}

// seeded makes a world in which a human gave the refresh token.
func seeded(t *testing.T, r *rotating, facts broker.Facts) *world {
	t.Helper()
	facts.Refreshes = true
	facts.Inputs = map[string]broker.InputFacts{"refresh_token": {Secret: true, Seed: true}, "client_secret": {Secret: true, Optional: true}}
	w := newWorld(t, &upstream{answer: r.answer, facts: facts})
	r.current[""] = "seed"
	w.create("main", map[string]string{"refresh_token": "seed"})
	return w
}

func TestASeededUncertainTokenIsPresentedOnceMoreAfterTheOldAccessTokenExpired(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRotating(10 * time.Minute)
		w := seeded(t, r, broker.Facts{})
		first := w.mustGet("main")
		processed := true
		r.lose = func(broker.Exchange) bool { return true }
		up := w.up
		inner := up.answer
		up.answer = func(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
			if processed {
				return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelUpstream, Lost: true} // lost before it was processed
			}
			return inner(ctx, x)
		}
		sleep(time.Until(first.Token.RefreshTime))
		w.mustGet("main")
		synctest.Wait()
		w.wantExchanges(2)
		processed, r.lose = false, nil
		// While the old access token serves, nothing is gained by the risk.
		sleep(time.Until(first.Token.ExpireTime) - time.Second)
		for range 10 {
			if res := w.mustGet("main"); !res.Degraded || res.Token.ID != first.Token.ID {
				t.Fatalf("got %+v, want the old token, degraded", res)
			}
		}
		synctest.Wait()
		w.wantExchanges(2)
		sleep(2 * time.Second)
		w.mustGet("main")
		w.wantExchanges(3)
		if x := up.exchanges()[2]; x.RefreshToken.Reveal() != up.exchanges()[1].RefreshToken.Reveal() {
			t.Error("want the same refresh token once more")
		}
	})
}

func TestReuseThatIsDeclaredHarmlessNeedsNoWait(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRotating(10 * time.Minute)
		w := seeded(t, r, broker.Facts{Reuse: broker.Reuse{Allowed: true}})
		first := w.mustGet("main")
		inner := w.up.answer
		w.up.answer = func(context.Context, broker.Exchange) (broker.Answer, error) {
			return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelUpstream, Lost: true}
		}
		sleep(time.Until(first.Token.RefreshTime))
		w.mustGet("main")
		synctest.Wait()
		w.up.answer = inner
		sleep(3 * time.Second)
		w.mustGet("main")
		synctest.Wait()
		if res := w.mustGet("main"); res.Token.ID == first.Token.ID || res.Degraded {
			t.Errorf("got %+v, want a new token well before the old one's expiry", res)
		}
	})
}

func TestARefusedRefreshTokenNeedsAHumanAndIsNotPresentedAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRotating(time.Minute)
		w := seeded(t, r, broker.Facts{})
		w.mustGet("main")
		r.mu.Lock()
		r.revoked[""] = true
		r.mu.Unlock()
		sleep(2 * time.Minute)
		for range 10 {
			_, err := w.get("main")
			wantKind(t, err, broker.ReauthorizationRequired)
			sleep(time.Hour)
		}
		w.wantExchanges(2)
		rep, err := w.CredentialStatus(context.Background(), local, "main")
		if err != nil || rep.State != engine.Reauthorize || rep.Advice == "" {
			t.Errorf("got %v %v %q, want the state that asks for a human", rep.State, err, rep.Advice)
		}
		// The same seed again changes nothing; another one starts a new grant.
		r.mu.Lock()
		delete(r.revoked, "")
		r.current[""] = "another"
		r.mu.Unlock()
		w.update("main", func(d *engine.Draft) { d.Secrets = secretMap(map[string]string{"refresh_token": "seed"}) })
		_, err = w.get("main")
		wantKind(t, err, broker.ReauthorizationRequired)
		w.update("main", func(d *engine.Draft) { d.Secrets = secretMap(map[string]string{"refresh_token": "another"}) })
		w.mustGet("main")
		w.wantExchanges(3)
	})
}

// update changes a credential.
func (w *world) update(name string, edit func(*engine.Draft)) broker.Credential {
	w.t.Helper()
	c, err := w.UpdateCredential(context.Background(), local, engine.Change{Name: broker.CredentialName(name), Edit: func(d *engine.Draft) error {
		edit(d)
		return nil
	}})
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

func TestChangingLabelsSettingsOrSecretsKeepsTheGrant(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRotating(time.Hour)
		w := seeded(t, r, broker.Facts{})
		first := w.mustGet("main")
		w.update("main", func(d *engine.Draft) { d.Labels = map[string]string{"env": "prod"} })
		if got := w.mustGet("main"); got.Token.ID != first.Token.ID {
			t.Error("labels made the token void")
		}
		w.update("main", func(d *engine.Draft) { d.Secrets = secretMap(map[string]string{"client_secret": "new"}) })
		if got := w.mustGet("main"); got.Token.ID == first.Token.ID {
			t.Error("a new secret kept the old token")
		}
		w.update("main", func(d *engine.Draft) { d.Secrets = secretMap(map[string]string{"refresh_token": "seed"}) })
		w.mustGet("main")
		w.wantExchanges(2)
		if r.reused > 0 {
			t.Error("applying the same seed brought a spent token back")
		}
	})
}

func TestARotatedRefreshTokenIsKeptWhenTheCredentialChangesMeanwhile(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRotating(time.Hour)
		w := seeded(t, r, broker.Facts{})
		inner := w.up.answer
		w.up.answer = func(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
			a, err := inner(ctx, x)
			sleep(5 * time.Second)
			return a, err
		}
		got := make(chan engine.Result, 1)
		go func() { got <- w.mustGet("main") }()
		synctest.Wait()
		w.update("main", func(d *engine.Draft) { d.Secrets = secretMap(map[string]string{"client_secret": "new"}) })
		res := <-got
		if res.Token.AccessToken.Reveal() != "access-2" || r.reused > 0 {
			t.Errorf("got %q and %d reuses, want the second exchange's token, presented with the rotated refresh token", res.Token.AccessToken.Reveal(), r.reused)
		}
	})
}

func TestACommitWaitsForTheStoreAndNobodyGetsTheTokenBefore(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRotating(time.Hour)
		w := seeded(t, r, broker.Facts{})
		inner := w.up.answer
		w.up.answer = func(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
			a, err := inner(ctx, x)
			w.backend.Away()
			return a, err
		}
		for range 10 {
			_, err := w.get("main")
			wantKind(t, err, broker.StoreUnavailable)
			sleep(10 * time.Second)
		}
		w.backend.Set(hooksNone)
		sleep(time.Second)
		w.mustGet("main")
		w.wantExchanges(1)
		w.start() // after a restart the newest refresh token is there
		if _, err := w.Invalidate(context.Background(), local, engine.Invalidation{Credential: "main", All: true}); err != nil {
			t.Fatal(err)
		}
		w.up.answer = inner
		w.mustGet("main")
		if r.reused > 0 {
			t.Error("a spent refresh token was presented")
		}
	})
}

func TestAShutdownThatLosesARefreshTokenSaysSo(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRotating(time.Hour)
		w := seeded(t, r, broker.Facts{})
		inner := w.up.answer
		w.up.answer = func(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
			a, err := inner(ctx, x)
			w.backend.Away()
			return a, err
		}
		_, err := w.get("main")
		wantKind(t, err, broker.StoreUnavailable)
		ctx, cancel := context.WithTimeout(context.Background(), 25*time.Second)
		defer cancel()
		if err := w.Close(ctx); err == nil {
			t.Error("got no error of a stop that lost a refresh token")
		}
	})
}

func TestTheStoreBeingAwayNeverReadsAsNoSuchCredential(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, &upstream{answer: issues(time.Hour)})
		w.create("main", nil)
		w.backend.Away()
		_, err := w.get("main")
		wantKind(t, err, broker.StoreUnavailable)
		w.backend.Set(hooksNone)
		w.mustGet("main")
	})
}

var hooksNone = storetest.Hooks{}

// ordered is a store that says in which order things were written.
type ordered struct {
	broker.Store
	mu     sync.Mutex
	writes []string
}

func (o *ordered) wrote(what string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.writes = append(o.writes, what)
}

func (o *ordered) Read(ctx context.Context, key broker.TokenKey, place string) (broker.View, error) {
	v, err := o.Store.Read(ctx, key, place)
	v.Lessor = orderedLessor{v.Lessor, o}
	return v, err
}

type orderedLessor struct {
	broker.Lessor
	o *ordered
}

func (l orderedLessor) Acquire(ctx context.Context, ttl time.Duration, spend bool) (broker.Lease, error) {
	lease, err := l.Lessor.Acquire(ctx, ttl, spend)
	return orderedLease{lease, l.o}, err
}

type orderedLease struct {
	broker.Lease
	o *ordered
}

func (l orderedLease) Commit(ctx context.Context, out broker.Outcome) (broker.Committed, error) {
	l.o.wrote("commit")
	return l.Lease.Commit(ctx, out)
}

func (o *ordered) SaveBackoff(ctx context.Context, place string, known broker.Backoff) error {
	o.wrote("backoff")
	return o.Store.SaveBackoff(ctx, place, known)
}

// TestARefreshTokenOfAnUnfitAnswerIsStored: it is nowhere else.
func TestARefreshTokenOfAnUnfitAnswerIsStored(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{facts: broker.Facts{Obtains: true, Refreshes: true}}
		up.answer = func(context.Context, broker.Exchange) (broker.Answer, error) {
			a := token("ended", -time.Minute)
			a.RefreshToken = broker.NewSecret("refresh-1")
			return a, nil
		}
		var store *ordered
		w := newWorld(t, up, func(s *engine.Settings) {
			store = &ordered{Store: s.Store}
			s.Store = store
		})
		w.create("main", nil)
		_, err := w.get("main")
		f := wantKind(t, err, broker.UpstreamResponseInvalid)
		if want := []string{"commit"}; !slices.Equal(store.writes, want) {
			t.Errorf("got %v, want %v", store.writes, want)
		}
		st, err := storetest.Status(t.Context(), store, "main")
		if err != nil || len(st.Grants) != 1 || st.Grants[0].RefreshToken.Reveal() != "refresh-1" {
			t.Errorf("got %+v, %v, want the refresh token kept", st.Grants, err)
		}
		_, err = w.get("main") // it is remembered, for this key alone
		if again := wantKind(t, err, broker.UpstreamResponseInvalid); !again.RetryAt.Equal(f.RetryAt) || again.Detail != f.Detail || f.Detail == "" {
			t.Errorf("got %+v, then %+v, want the same", f, again)
		}
		w.wantExchanges(1)
		sleep(time.Until(f.RetryAt))
		_, err = w.get("main")
		if third := wantKind(t, err, broker.UpstreamResponseInvalid); time.Until(third.RetryAt) < 2*time.Second {
			t.Errorf("asked again in %v, want it to be left alone for longer each time", time.Until(third.RetryAt))
		}
	})
}

// TestOneFlightAtATimeGoesForAGrant: a refresh takes longer than its lease, and the credential is tested meanwhile. The test goes on with what the refresh
// has brought: also where each selection has a grant of its own.
func TestOneFlightAtATimeGoesForAGrant(t *testing.T) {
	for name, seeded := range map[string]bool{"the credential's own": true, "a selection's": false} {
		for _, shared := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, shared: %v", name, shared), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					good, n, slow, current := issues(10*time.Minute), 0, false, "human's"
					up := &upstream{answer: func(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
						if slow {
							slow = false
							sleep(25 * time.Second)
						}
						if x.Run == broker.Refresh && x.RefreshToken.Reveal() != current {
							t.Errorf("presented %s, which is spent", x.RefreshToken.Reveal())
						}
						n++
						current = fmt.Sprint("rotated-", n)
						a, err := good(ctx, x)
						a.RefreshToken = broker.NewSecret(current)
						return a, err
					}}
					up.facts.Refreshes = true
					secrets := map[string]string{}
					if seeded {
						up.facts.Inputs = map[string]broker.InputFacts{"refresh_token": {Secret: true, Seed: true}}
						secrets["refresh_token"] = current
					} else {
						up.facts.Obtains = true
					}
					var w *world
					if shared {
						w = newReplicas(t, 1, up)[0].world
					} else {
						w = newWorld(t, up)
					}
					w.create("main", secrets)
					w.mustGet("main")
					sleep(11 * time.Minute)
					slow = true
					go func() { _, _ = w.get("main") }()
					sleep(23 * time.Second)
					if _, err := w.TestCredential(t.Context(), local, "main", broker.Selection{}, false); err != nil {
						t.Error(err)
					}
					if got := up.atOnce(); got != 1 {
						t.Errorf("%d went for it at once", got)
					}
					w.wantExchanges(3)
					if got := up.exchanges()[2]; got.Run != broker.Refresh {
						t.Errorf("the test has made an %s", got.Run)
					}
				})
			})
		}
	}
}
