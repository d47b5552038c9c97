package authn

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// minted is a token of ci by the RSA key of that kid, and its claims are of now.
func minted(kid, sub string) string {
	key := rsaKey()
	if kid == "next" {
		key = rsaOther()
	}
	return mint(key, `{"alg":"RS256","kid":"`+kid+`"}`, claimsAt(time.Now(), `"sub":"`+sub+`"`))
}

func first() map[string]any  { return jwk("first", &rsaKey().PublicKey) }
func second() map[string]any { return jwk("next", &rsaOther().PublicKey) }

// TestKeysThatRotate: a token of a new key is let in as soon as it comes, nobody else notices, and what a key has signed that was taken away ends at once.
func TestKeysThatRotate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, set(first()))
		all := tokensOf(t, h, time.Now, ci())
		stop := follow(t, all)
		synctest.Wait()
		if n := h.count("/keys"); n != 1 {
			t.Fatalf("it was asked %d times at the start", n)
		}
		ctx := t.Context()
		old := made(all.AuthenticateToken(ctx, minted("first", "old")))
		changed := all.Changes()

		h.show(set(first(), second()))
		if got := shows(t, all, minted("next", "young")); got != "jwt:ci/young" {
			t.Errorf("a token of a new key: %s", got)
		}
		if n := h.count("/keys"); n != 2 {
			t.Errorf("it was asked %d times", n)
		}
		<-changed
		changed = all.Changes()
		if err := old.Still(); err != nil {
			t.Errorf("while both keys are there: %v", err)
		}
		pass(freshMost)
		synctest.Wait()
		select {
		case <-changed:
			t.Error("the same keys are told as news")
		default:
		}

		token := minted("first", "lately")
		lately := made(all.AuthenticateToken(ctx, token))
		h.show(set(second()))
		<-changed
		if lately.Still() == nil || old.Still() == nil {
			t.Error("what a key has signed that is gone goes on")
		}
		if got := shows(t, all, token); got != errKey.Detail {
			t.Errorf("a token that was remembered, of a key that is gone: %s", got)
		}
		if got := shows(t, all, minted("next", "young")); got != "jwt:ci/young" {
			t.Errorf("a token of the key that is left: %s", got)
		}
		stop()
	})
}

// TestAStormOfUnknownKeys costs the issuer no more than one such token now and then, and nobody waits for it whose key is known.
func TestAStormOfUnknownKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, set(first()))
		all := tokensOf(t, h, time.Now, ci())
		stop := follow(t, all)
		synctest.Wait()
		hold := make(chan struct{})
		h.answers(func(http.ResponseWriter, *http.Request) bool { <-hold; return false })
		var storm sync.WaitGroup
		for i := range 500 {
			storm.Go(func() {
				token := mint(ecKey(), fmt.Sprintf(`{"alg":"ES256","kid":"k%d"}`, i), claimsAt(time.Now(), ""))
				if got := shows(t, all, token); got != errKey.Detail {
					t.Errorf("got %s", got)
				}
			})
		}
		synctest.Wait() // all of them wait for the issuer, who does not answer
		if got := shows(t, all, minted("first", "known")); got != "jwt:ci/known" {
			t.Errorf("meanwhile: %s", got)
		}
		h.answers(nil)
		close(hold)
		storm.Wait()
		if n := h.count("/keys"); n > 1+askedBurst {
			t.Errorf("a storm caused %d fetches, want %d at most", n-1, askedBurst)
		}
		before := h.count("/keys")
		pass(2 * askedEvery) // it may be asked again
		for name, token := range map[string]string{
			"a wrong signature":           mint(rsaOther(), `{"alg":"RS256","kid":"first"}`, claimsAt(time.Now(), "")),
			"an algorithm that fits not":  mint(ecKey(), `{"alg":"ES256","kid":"first"}`, claimsAt(time.Now(), "")),
			"what has ended, of another":  mint(edKey(), `{"alg":"EdDSA","kid":"other"}`, claimsAt(time.Now(), `"exp":1`)),
			"for others, of another key":  mint(edKey(), `{"alg":"EdDSA","kid":"other"}`, claimsAt(time.Now(), `"aud":"x"`)),
			"a name that nobody may have": mint(edKey(), `{"alg":"EdDSA","kid":"other"}`, claimsAt(time.Now(), `"sub":"*"`)),
		} {
			if got := shows(t, all, token); got == errKey.Detail || h.count("/keys") != before {
				t.Errorf("%s asks for keys: %s", name, got)
			}
		}
		const minutes = 3
		for range minutes * 60 {
			pass(time.Second)
			for i := range 20 {
				token := mint(edKey(), fmt.Sprintf(`{"alg":"EdDSA","kid":"k%d"}`, i), claimsAt(time.Now(), ""))
				if got := shows(t, all, token); got != errKey.Detail {
					t.Errorf("got %s", got)
				}
			}
		}
		if n := h.count("/keys") - before; n > minutes*int(time.Minute/askedEvery)+askedBurst {
			t.Errorf("%d tokens caused %d fetches in %d minutes", minutes*60*20, n, minutes)
		}
		stop()
	})
}

// TestAnIssuerThatIsAway: what it has signed counts on, for a day and no longer; what it signs with a key that nobody knows yet, nobody can judge. Fetches
// become rare, and are told once.
func TestAnIssuerThatIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, set(first()))
		l := &log{}
		all := made(newTokens(TokenSettings{Listener: "services", Issuers: []Issuer{ci()}, Log: l.logger()}, h.dial))
		stop := follow(t, all)
		synctest.Wait()
		began := time.Now()
		h.answers(func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		})
		pass(believedFor - 2*time.Minute)
		day := minted("first", "late")
		a, err := all.AuthenticateToken(t.Context(), day)
		if err != nil {
			t.Fatalf("within the day: %v", err)
		}
		if s := all.Status()[0]; !s.Stale || s.Fetched.Sub(began) > time.Second || !strings.Contains(s.Problem, "503") {
			t.Errorf("got status %+v", s)
		}
		if got := shows(t, all, minted("next", "x")); got != broker.IssuerUnavailable.Name() {
			t.Errorf("a key that nobody knows: %s", got)
		}
		if n := h.count("/.well-known/openid-configuration"); n > 24*60/4 {
			t.Errorf("it was asked %d times in a day", n)
		}
		changed := all.Changes()
		<-changed
		if d := time.Since(began); d < believedFor || d > believedFor+time.Second {
			t.Errorf("its keys ended after %s", d)
		}
		if a.Still() == nil {
			t.Error("what was authenticated goes on after a day")
		}
		var f *broker.Failure
		if _, err := all.AuthenticateToken(t.Context(), day); !errors.As(err, &f) || f.Kind != broker.IssuerUnavailable || !f.RetryAt.After(time.Now()) || f.RetryAt.After(time.Now().Add(2*againMost)) {
			t.Errorf("after a day: got %v", err)
		}
		if n := strings.Count(l.String(), "not fetched"); n != 2 { // and that its tokens count no more
			t.Errorf("the log has %d lines of it: %s", n, l)
		}
		h.answers(nil)
		changed = all.Changes()
		<-changed
		if s := all.Status()[0]; s.Stale || s.Problem != "" {
			t.Errorf("got status %+v", s)
		}
		if got := shows(t, all, minted("first", "again")); got != "jwt:ci/again" {
			t.Errorf("when it is back: %s", got)
		}
		stop()
	})
}

// TestAnIssuerThatIsSlow makes nobody wait but those whose token it has issued, and those as long as they want, and no longer than a fetch takes.
func TestAnIssuerThatIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, set(first()))
		h.answers(func(_ http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path == "/slow" {
				<-r.Context().Done()
				return true
			}
			return false
		})
		slow := ci(func(i *Issuer) { i.Name, i.Issuer, i.JWKSURI = "slow", "https://slow.example", pipesListen+"/slow" })
		all := tokensOf(t, h, time.Now, slow, ci())
		stop := follow(t, all)
		began := time.Now()
		token := mint(rsaKey(), `{"alg":"RS256","kid":"first"}`, claimsAt(began, `"iss":"https://slow.example"`))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := all.AuthenticateToken(ctx, token); !errors.Is(err, broker.IssuerUnavailable) || time.Since(began) != time.Second {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
		if got := shows(t, all, minted("first", "quick")); got != "jwt:ci/quick" || time.Since(began) != time.Second {
			t.Errorf("another issuer's token, after %s: %s", time.Since(began), got)
		}
		if _, err := all.AuthenticateToken(t.Context(), token); !errors.Is(err, broker.IssuerUnavailable) || time.Since(began) > fetchWithin {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
		stop()
	})
}

// TestNobodyFollows: a token asks for keys by itself, and nothing is left over.
func TestNobodyFollows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, set(first()))
		all := tokensOf(t, h, time.Now, ci())
		if s := all.Status()[0]; !s.Stale || !s.Fetched.IsZero() || s.Problem != "" {
			t.Errorf("got status %+v", s)
		}
		if h.count("/.well-known/openid-configuration") != 0 {
			t.Error("it was asked without a reason")
		}
		var crowd sync.WaitGroup
		for range 50 {
			crowd.Go(func() {
				if got := shows(t, all, minted("first", "x")); got != "jwt:ci/x" {
					t.Error(got)
				}
			})
		}
		crowd.Wait()
		if n := h.count("/keys"); n != 1 {
			t.Errorf("it was asked %d times", n)
		}
	})
}

// TestHowLongKeysAreFresh: as long as the issuer says, within bounds.
func TestHowLongKeysAreFresh(t *testing.T) {
	for cache, want := range map[string]time.Duration{
		"": freshDefault, "public, max-age=1200": 20 * time.Minute, "max-age=1": freshLeast, "max-age=99999999": freshMost, "no-store": freshLeast,
		"max-age=x": freshDefault, "max-age=-1": freshDefault, "max-age=99999999999999999999": freshDefault, `MAX-AGE="600"`: 10 * time.Minute, "max-age=0": freshLeast,
	} {
		synctest.Test(t, func(t *testing.T) {
			h := newHouse(t, set(first()))
			h.cache = cache
			all := tokensOf(t, h, time.Now, ci())
			stop := follow(t, all)
			synctest.Wait()
			pass(want * 89 / 100)
			synctest.Wait()
			if n := h.count("/keys"); n != 1 {
				t.Errorf("%s: it was asked too early", cache)
			}
			pass(want * 22 / 100)
			synctest.Wait()
			if n := h.count("/keys"); n != 2 {
				t.Errorf("%s: it was asked %d times", cache, n)
			}
			stop()
		})
	}
}

// TestKeysInAFile are followed; what is broken leaves what was there.
func TestKeysInAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.json")
	write := func(keys string) {
		if err := os.WriteFile(path+".new", []byte(keys), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	of := TokenSettings{Issuers: []Issuer{{Name: "ci", Kind: broker.JWT, Issuer: pipesListen, Audience: []string{"tokenbroker"}, JWKSFile: path}}, Now: atNoon}
	if _, err := NewTokens(of); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("no file: %v", err)
	}
	write(`{"keys":[]}`)
	if _, err := NewTokens(of); err == nil {
		t.Error("a broken file is taken")
	}
	write(set(first()))
	all := made(NewTokens(of))
	follow(t, all)
	token := mint(rsaKey(), `{"alg":"RS256","kid":"first"}`, claims(""))
	a := made(all.AuthenticateToken(t.Context(), token))
	changed := all.Changes()
	write("{")
	for all.Status()[0].Problem == "" { // until it is looked at
		_ = shows(t, all, mint(rsaOther(), `{"alg":"RS256","kid":"x"}`, claims("")))
	}
	if a.Still() != nil {
		t.Error("a broken file ends what was believed")
	}
	write(set(second()))
	select {
	case <-changed:
	case <-time.After(30 * time.Second):
		t.Fatal("the file is not read again")
	}
	if got := shows(t, all, token); got != errKey.Detail || a.Still() == nil {
		t.Errorf("a key that was taken away: %s", got)
	}
	if s := all.Status()[0]; s.Stale || s.Problem != "" {
		t.Errorf("got status %+v", s)
	}
}

// TestAnIssuerThatTakesItsLastKeyAway is heard: after a leak there may be no other one yet, or one of a sort that is not used here.
func TestAnIssuerThatTakesItsLastKeyAway(t *testing.T) {
	for name, now := range map[string]string{"none": set(), "one for something else": set(jwk("first", &rsaKey().PublicKey, func(m map[string]any) { m["use"] = "enc" })), "one of a new sort": `{"keys":[{"kty":"AKP","alg":"ML-DSA-65","pub":"x"}]}`} {
		synctest.Test(t, func(t *testing.T) {
			h := newHouse(t, set(first()))
			all := tokensOf(t, h, time.Now, ci())
			stop := follow(t, all)
			synctest.Wait()
			a := made(all.AuthenticateToken(t.Context(), minted("first", "x")))
			h.answers(func(w http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path != "/keys" {
					return false
				}
				_, _ = w.Write([]byte(now))
				return true
			})
			pass(freshMost)
			synctest.Wait()
			if a.Still() == nil || shows(t, all, minted("first", "x")) == "jwt:ci/x" {
				t.Errorf("%s: the key counts on", name)
			}
			stop()
		})
	}
}

// TestKeysThatRotateAllTheTime: tokens of a key that stays are let in throughout, and those of one that comes and goes only while it is there, whoever asks at once.
func TestKeysThatRotateAllTheTime(t *testing.T) {
	h := newHouse(t, set(first()))
	all := tokensOf(t, h, atNoon, ci())
	ctx := t.Context()
	stays := mint(rsaKey(), `{"alg":"RS256","kid":"first"}`, claims(""))
	goes := mint(rsaOther(), `{"alg":"RS256","kid":"next"}`, claims(""))
	_ = shows(t, all, stays)
	k := all.issuers[0].keys
	done := make(chan struct{})
	var callers sync.WaitGroup
	for range 4 {
		callers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if a, err := all.AuthenticateToken(ctx, stays); err != nil || a.Still() != nil {
					t.Errorf("a key that stays: %v", err)
				}
				if _, err := all.AuthenticateToken(ctx, goes); err != nil && broker.KindOf(err) != broker.CallerUnauthenticated {
					t.Errorf("a key that comes and goes: %v", err)
				}
				_ = all.Status()
			}
		})
	}
	for i := range 40 {
		if i%2 == 0 {
			h.show(set(first(), second()))
		} else {
			h.show(set(first()))
		}
		changed := all.Changes()
		for there := i%2 == 0; k.has(mustParse(second()).id) != there; {
			k.refresh(ctx)
		}
		<-changed
		a, err := all.AuthenticateToken(ctx, goes)
		if there := i%2 == 0; there != (err == nil) || there && a.Still() != nil {
			t.Fatalf("round %d: %v", i, err)
		}
	}
	close(done)
	callers.Wait()
}

func mustParse(m map[string]any) *key {
	s, _, err := parseKeys([]byte(set(m)), broker.JWT)
	return made(s, err).keys[0]
}

// TestAFetchThatWasOnItsWay before the key was there is not the last word: whoever has waited for it asks once more.
func TestAFetchThatWasOnItsWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, set(first()))
		all := tokensOf(t, h, time.Now, ci())
		if got := shows(t, all, minted("first", "x")); got != "jwt:ci/x" {
			t.Fatal(got)
		}
		hold := make(chan struct{})
		h.answers(func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path != "/keys" {
				return false
			}
			<-hold
			fmt.Fprint(w, set(first())) // as they were
			return true
		})
		f, _ := all.issuers[0].keys.fetch(true)
		synctest.Wait()
		h.answers(nil)
		h.show(set(first(), second()))
		var waiting sync.WaitGroup
		for range 10 {
			waiting.Go(func() {
				if got := shows(t, all, minted("next", "young")); got != "jwt:ci/young" {
					t.Error(got)
				}
			})
		}
		synctest.Wait()
		close(hold)
		<-f.done
		waiting.Wait()
		if n := h.count("/keys"); n != 3 {
			t.Errorf("it was asked %d times", n)
		}
	})
}
