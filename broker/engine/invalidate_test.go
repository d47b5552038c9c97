package engine_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
	"github.com/tokenbroker/tokenbroker/store/storetest"
)

func TestAThousandCallersThatRejectOneTokenCauseOneExchange(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, &upstream{answer: issues(time.Hour)})
		w.create("main", nil)
		bad := w.mustGet("main").Token.ID
		dropped := 0
		for _, r := range together(1000, func(int) (string, error) {
			done, err := w.Invalidate(context.Background(), local, engine.Invalidation{Credential: "main", TokenID: bad})
			return map[bool]string{true: "dropped"}[done.Count == 1], err
		}) {
			if r.err != nil {
				t.Fatal(r.err)
			}
			if r.id == "dropped" {
				dropped++
			}
		}
		if dropped != 1 {
			t.Errorf("got %d invalidations that dropped it, want 1", dropped)
		}
		results := together(1000, func(int) (string, error) { r, err := w.get("main"); return idOf(r), err })
		results = append(results, together(1000, func(int) (string, error) { r, err := w.get("main", rejected(bad)); return idOf(r), err })...)
		for _, r := range results {
			if r.err != nil || r.id == bad || r.id != results[0].id {
				t.Fatalf("got %q %v, want one new token for all", r.id, r.err)
			}
		}
		w.wantExchanges(2)
	})
}

func idOf(r engine.Result) string {
	if r.Token == nil {
		return ""
	}
	return r.Token.ID
}

func TestInvalidatingATokenThatIsNotCurrentChangesNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, &upstream{answer: issues(time.Hour)})
		w.create("main", nil)
		old := w.mustGet("main").Token.ID
		now := w.mustGet("main", rejected(old)).Token.ID
		done, err := w.Invalidate(context.Background(), local, engine.Invalidation{Credential: "main", TokenID: old})
		if err != nil || done.Count != 0 || done.CurrentID != now {
			t.Errorf("got %+v %v, want nothing dropped and %s as the current one", done, err, now)
		}
		if got := w.mustGet("main").Token.ID; got != now {
			t.Errorf("got %s, want %s", got, now)
		}
		w.wantExchanges(2)
	})
}

func TestInvalidateByTheTokenItself(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, &upstream{answer: issues(time.Hour)})
		w.create("main", nil)
		first := w.mustGet("main").Token
		done, err := w.Invalidate(context.Background(), local, engine.Invalidation{Credential: "main", AccessToken: first.AccessToken})
		if err != nil || done.Count != 1 {
			t.Fatalf("got %+v %v, want one dropped", done, err)
		}
		if w.mustGet("main").Token.ID == first.ID {
			t.Error("got the rejected token")
		}
	})
}

func TestInvalidateAllAndBySelection(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, &upstream{answer: issues(time.Hour)})
		w.create("main", nil)
		a, b := scopes(t, "a"), scopes(t, "b")
		idA, idB := w.mustGet("main", a).Token.ID, w.mustGet("main", b).Token.ID
		set, _ := broker.ParseSet("scopes", []string{"a"})
		done, err := w.Invalidate(context.Background(), local, engine.Invalidation{Credential: "main", All: true, Selection: broker.Selection{Scopes: set}})
		if err != nil || done.Count != 1 {
			t.Fatalf("got %+v %v, want one dropped", done, err)
		}
		if w.mustGet("main", a).Token.ID == idA || w.mustGet("main", b).Token.ID != idB {
			t.Error("want a new token for a, and the same for b")
		}
		if _, err := w.Invalidate(context.Background(), local, engine.Invalidation{Credential: "main", All: true}); err != nil {
			t.Fatal(err)
		}
		if w.mustGet("main", b).Token.ID == idB {
			t.Error("got an invalidated token")
		}
		if _, err := w.Invalidate(context.Background(), local, engine.Invalidation{Credential: "main"}); err == nil {
			t.Error("an empty invalidation must never mean everything")
		}
	})
}

func TestInvalidatingAllMakesARunningExchangesTokenVoid(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{}
		fresh := issues(time.Hour)
		up.answer = func(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
			sleep(5 * time.Second)
			return fresh(ctx, x)
		}
		w := newWorld(t, up)
		w.create("main", nil)
		got := make(chan engine.Result, 1)
		go func() { got <- w.mustGet("main") }()
		synctest.Wait()
		if _, err := w.Invalidate(context.Background(), local, engine.Invalidation{Credential: "main", All: true}); err != nil {
			t.Fatal(err)
		}
		r := <-got
		w.wantExchanges(2)
		if r.Token.AccessToken.Reveal() != "token-2" {
			t.Errorf("got %q, want the token that was asked for after the invalidation", r.Token.AccessToken.Reveal())
		}
	})
}

func TestAnUpstreamThatHandsOutTheRejectedTokenAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{answer: func(context.Context, broker.Exchange) (broker.Answer, error) {
			return token("the same", time.Hour), nil
		}}
		w := newWorld(t, up)
		w.create("main", nil)
		id := w.mustGet("main").Token.ID
		for range 100 {
			if r := w.mustGet("main", rejected(id)); r.Token.ID != id {
				t.Fatalf("got %s, want the same token: the upstream has no other", r.Token.ID)
			}
		}
		w.wantExchanges(2) // asked once, not a hundred times
		sleep(31 * time.Second)
		w.mustGet("main", rejected(id))
		w.wantExchanges(3)
	})
}

func TestTheRejectedTokenIsNotHandedOutWhenThereIsNoOther(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{answer: issues(time.Hour)}
		w := newWorld(t, up)
		w.create("main", nil)
		id := w.mustGet("main").Token.ID
		up.answer = func(context.Context, broker.Exchange) (broker.Answer, error) {
			return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelUpstream}
		}
		_, err := w.get("main", rejected(id))
		wantKind(t, err, broker.UpstreamUnavailable)
		_, err = w.get("main")
		wantKind(t, err, broker.UpstreamUnavailable)
	})
}

// TestWhoRejectsEachTokenDoesNotHammerTheUpstream: the first are replaced at once. Then it is told when another is asked for, and everybody else is served.
func TestWhoRejectsEachTokenDoesNotHammerTheUpstream(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, &upstream{answer: issues(time.Hour)})
		w.create("main", nil)
		id := w.mustGet("main").Token.ID
		for range 3 {
			id = w.mustGet("main", rejected(id)).Token.ID
		}
		_, err := w.get("main", rejected(id))
		f := wantKind(t, err, broker.FreshTokensRejected)
		if d := time.Until(f.RetryAt); d <= 0 || d > 2*time.Second {
			t.Errorf("got %v in %v, want when to ask again", f, d)
		}
		if r, err := w.CredentialStatus(t.Context(), local, "main"); err != nil || r.State != engine.Degraded || !errors.Is(r.Failure, broker.FreshTokensRejected) || !r.NextAttempt.Equal(f.RetryAt) {
			t.Errorf("status: got %v, %v, %v, want that fresh tokens are rejected", r.State, r.Failure, err)
		}
		if got := w.mustGet("main").Token.ID; got != id {
			t.Error("one caller's rejection took a token away from another")
		}
		w.wantExchanges(4)
		sleep(time.Until(f.RetryAt))
		if w.mustGet("main", rejected(id)).Token.ID == id {
			t.Error("got the rejected token")
		}
		w.wantExchanges(5)
		for range 3600 {
			if r, err := w.get("main", rejected(id)); err == nil {
				if r.Token.ID == id {
					t.Fatal("got the rejected token")
				}
				id = r.Token.ID
			}
			w.mustGet("main")
			sleep(time.Second)
		}
		if n := len(w.up.exchanges()); n > 30 {
			t.Errorf("got %d exchanges in an hour of rejections, want a few", n)
		}
		sleep(20 * time.Minute) // what works for a while says that it is over
		for range 3 {
			w.mustGet("main", rejected(w.mustGet("main").Token.ID))
		}
	})
}

// TestWhoInvalidatesEachTokenDoesNotHammerTheUpstreamEither: what was invalidated is served to nobody, and a changed secret makes it free again.
func TestWhoInvalidatesEachTokenDoesNotHammerTheUpstreamEither(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, &upstream{answer: issues(time.Hour)})
		w.create("main", map[string]string{"client_secret": "old"})
		gone := map[string]bool{}
		for range 1000 {
			r, err := w.get("main")
			if err != nil {
				wantKind(t, err, broker.FreshTokensRejected)
				if s, err := w.CredentialStatus(t.Context(), local, "main"); err != nil || !errors.Is(s.Failure, broker.FreshTokensRejected) {
					t.Fatalf("status: got %v, %v, want what callers are told", s.Failure, err)
				}
			} else {
				if gone[r.Token.ID] {
					t.Fatal("an invalidated token is served")
				}
				gone[r.Token.ID] = true
				if _, err := w.Invalidate(t.Context(), local, engine.Invalidation{Credential: "main", TokenID: r.Token.ID}); err != nil {
					t.Fatal(err)
				}
			}
			sleep(10 * time.Millisecond)
		}
		if n := len(w.up.exchanges()); n > 8 {
			t.Errorf("got %d exchanges in ten seconds, want a few", n)
		}
		w.update("main", func(d *engine.Draft) { d.Secrets = secretMap(map[string]string{"client_secret": "new"}) })
		w.mustGet("main")
	})
}

// TestWhoRejectsEachTokenTakesItFromNobody: also not at a broker that has not been asked for it before, because it is another, or was started again.
func TestWhoRejectsEachTokenTakesItFromNobody(t *testing.T) {
	bubble(t, func(t *testing.T) {
		all := newReplicas(t, 2, &upstream{answer: issues(time.Hour)})
		all[0].create("main", nil)
		for i := range 3600 { // the others ask one of the brokers, every second
			r, err := all[0].get("main")
			if err != nil {
				t.Fatalf("after %d s: %v", i, err)
			}
			if i%20 == 0 {
				if _, err := all[i/20%2].get("main", rejected(r.Token.ID)); err != nil {
					wantKind(t, err, broker.FreshTokensRejected)
				}
			}
			sleep(time.Second)
		}
		if n := len(all[0].up.exchanges()); n > 30 {
			t.Errorf("got %d exchanges in an hour of rejections, want a few", n)
		}
	})
}

// TestWhoRejectsEachTokenWhileTheStoreIsAwayDoesNotHammerTheUpstream: what this process obtains for itself is replaced no more often.
func TestWhoRejectsEachTokenWhileTheStoreIsAwayDoesNotHammerTheUpstream(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newReplicas(t, 1, &upstream{answer: issues(time.Hour), facts: broker.Facts{ObtainsAlone: true}}, grace(time.Hour))[0]
		w.create("main", nil)
		w.mustGet("main")
		w.backend.Away()
		sleep(3 * time.Second)
		id := ""
		for range 1000 {
			r, err := w.get("main", rejected(id))
			switch {
			case err != nil:
				wantKind(t, err, broker.FreshTokensRejected)
			case id == r.Token.ID:
				t.Fatal("got the rejected token")
			default:
				id = r.Token.ID
			}
			sleep(10 * time.Millisecond)
		}
		if n := len(w.up.exchanges()); n > 9 {
			t.Errorf("got %d exchanges in ten seconds, want a few", n)
		}
		w.backend.Set(storetest.Hooks{})
		sleep(5 * time.Second)
		w.mustGet("main")
	})
}

// slowUse takes a while to write down the first use of a token by shop.
type slowUse struct {
	broker.Unaudited
	takes time.Duration
}

func (a *slowUse) Use(_ context.Context, r broker.AuditRecord) (*broker.Uses, error) {
	if r.Caller == shop {
		sleep(a.takes)
	}
	return nil, nil
}

// TestWhatHasMadeRoomIsInvalidatedToo: a caller waits for the audit log with a token that is in the cache no more. It is invalidated meanwhile, and they get another.
func TestWhatHasMadeRoomIsInvalidatedToo(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, &upstream{answer: issues(time.Hour)}, authorizedBy(newRuler(always(broker.Allowed))), func(s *engine.Settings) {
			s.CacheSize, s.Auditor = 1, &slowUse{takes: 1900 * time.Millisecond}
		})
		for _, name := range []string{"main", "other", "third"} {
			w.create(name, nil)
		}
		id := w.mustGet("main").Token.ID
		w.mustGet("other")
		w.mustGet("third")
		synctest.Wait() // main's has made room: it has to be read again
		got := make(chan string, 1)
		go func() {
			defer close(got)
			res, err := w.Token(context.Background(), shop, engine.Request{Credential: "main"})
			if err != nil {
				t.Error(err)
				return
			}
			got <- res.Token.ID
		}()
		synctest.Wait()
		w.mustGet("other")
		w.mustGet("third")
		synctest.Wait()
		sleep(100 * time.Millisecond)
		if _, err := w.Invalidate(t.Context(), local, engine.Invalidation{Credential: "main", All: true}); err != nil {
			t.Fatal(err)
		}
		if <-got == id {
			t.Error("it was handed out after Invalidate had returned")
		}
	})
}

// TestWhatIsKnownToBeOutdatedIsNotHandedOut: a caller waits for the audit log with a token that is in the cache no more. Its credential is disabled at another broker
// meanwhile, and this one reads that.
func TestWhatIsKnownToBeOutdatedIsNotHandedOut(t *testing.T) {
	bubble(t, func(t *testing.T) {
		all := newReplicas(t, 2, &upstream{answer: issues(time.Hour)}, authorizedBy(newRuler(always(broker.Allowed))), func(s *engine.Settings) {
			s.CacheSize, s.Auditor = 1, &slowUse{takes: 1900 * time.Millisecond}
		})
		w := all[0]
		w.memory.Deafen(true)
		for _, name := range []string{"main", "other", "third"} {
			w.create(name, nil)
		}
		others := func() { // main's makes room for them, as what is asked for less: it has to be read again
			for range 8 {
				w.mustGet("other")
				synctest.Wait()
				w.mustGet("third")
				synctest.Wait()
			}
		}
		w.mustGet("main")
		others()
		got := make(chan error, 1)
		go func() {
			_, err := w.Token(context.Background(), shop, engine.Request{Credential: "main"})
			got <- err
		}()
		synctest.Wait()
		others()
		if _, err := all[1].UpdateCredential(t.Context(), local, engine.Change{Name: "main", Edit: func(d *engine.Draft) error { d.Disabled = true; return nil }}); err != nil {
			t.Fatal(err)
		}
		_, err := w.get("main")
		wantKind(t, err, broker.CredentialDisabled)
		wantKind(t, <-got, broker.CredentialDisabled)
	})
}
