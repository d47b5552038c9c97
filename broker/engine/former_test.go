package engine_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
)

// rotate gives the credential main another client_secret.
func (w *world) rotate(s string) {
	w.t.Helper()
	if _, err := w.RotateSecret(context.Background(), local, engine.Rotation{Name: "main", Secrets: secretMap(map[string]string{"client_secret": s})}); err != nil {
		w.t.Fatal(err)
	}
}

// TestTheFormerSecretIsTriedWhereTheSecretMayBeRefused: nowhere else.
func TestTheFormerSecretIsTriedWhereTheSecretMayBeRefused(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{}
		good := issues(time.Minute)
		accepted, status := "old", "invalid_client"
		up.answer = func(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
			if x.Credential.Secrets["client_secret"].Value.Reveal() == accepted {
				return good(ctx, x)
			}
			return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelCredential, Status: 401, Code: status, InvalidClient: status == "invalid_client"}
		}
		w := newWorld(t, up)
		w.create("main", map[string]string{"client_secret": "old"})
		w.rotate("new")
		w.mustGet("main")
		w.wantExchanges(2)
		rep, err := w.CredentialStatus(context.Background(), local, "main")
		if err != nil || !rep.Credential.FormerKept(time.Now()) || rep.Credential.Secrets["client_secret"].FormerUsedTime.IsZero() {
			t.Errorf("got %+v %v, want the former secret's last use", rep.Credential, err)
		}
		if trial, err := w.test(""); err != nil || !trial.Former || len(trial.Attempts) != 2 {
			t.Errorf("got %+v, %v, want a test that says which secret works", trial, err)
		}
		w.wantExchanges(4)
		sleep(2 * time.Minute)
		w.mustGet("main") // the one that worked last is tried first
		w.wantExchanges(5)
		accepted = "new"
		sleep(2 * time.Minute)
		w.mustGet("main")
		if _, err := w.RetireSecret(context.Background(), local, "main", nil); err != nil {
			t.Fatal(err)
		}
		n := len(up.exchanges())
		accepted, status = "old", "unauthorized_client"
		w.rotate("newer")
		_, err = w.get("main")
		wantKind(t, err, broker.CredentialMisconfigured)
		w.wantExchanges(n + 1)
	})
}

// TestRotatingAgainKeepsTheSecretThatWorks: a new secret has a typo, twice. Callers notice neither.
func TestRotatingAgainKeepsTheSecretThatWorks(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{}
		good := issues(time.Minute)
		accepted := "good"
		up.answer = func(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
			if x.Credential.Secrets["client_secret"].Value.Reveal() == accepted {
				return good(ctx, x)
			}
			return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelCredential, Status: 401, Code: "invalid_client", InvalidClient: true}
		}
		w := newWorld(t, up)
		w.create("main", map[string]string{"client_secret": accepted})
		w.mustGet("main")
		w.rotate("typo-1")
		w.rotate("typo-2") // nobody has asked since
		w.mustGet("main")
		w.rotate("typo-3")
		w.mustGet("main")
		sleep(5 * time.Minute)
		w.rotate("better")
		accepted = "better"
		sleep(time.Second)
		w.mustGet("main")
		sleep(5 * time.Minute)
		w.rotate("typo-4")
		w.mustGet("main") // what has worked meanwhile is the former one
	})
}

// TestAFormerSecretIsForgottenWhenItWasToBe, however often another is set meanwhile.
func TestAFormerSecretIsForgottenWhenItWasToBe(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, &upstream{answer: issues(time.Minute)})
		w.create("main", map[string]string{"client_secret": "leaked"})
		w.mustGet("main")
		second := engine.Rotation{Name: "main", Secrets: secretMap(map[string]string{"client_secret": "second"}), KeepFormer: 10 * time.Minute}
		if _, err := w.RotateSecret(context.Background(), local, second); err != nil {
			t.Fatal(err)
		}
		third := engine.Rotation{Name: "main", Secrets: secretMap(map[string]string{"client_secret": "third"}), KeepFormer: 48 * time.Hour}
		if _, err := w.RotateSecret(context.Background(), local, third); err != nil {
			t.Fatal(err)
		}
		w.rotate("fourth")
		c, err := w.Credential(context.Background(), local, "main")
		if err != nil || c.Secrets["client_secret"].Former.Reveal() != "leaked" || !c.FormerKept(time.Now()) {
			t.Errorf("got %v, want the one that has worked", err)
		}
		sleep(11 * time.Minute)
		if c.FormerKept(time.Now()) {
			t.Error("it is kept for longer than whoever set the second one wanted")
		}
	})
}

// TestWhatCountsOfTwoFailures: a former secret is tried on suspicion, and what comes of it is seldom what is wrong.
func TestWhatCountsOfTwoFailures(t *testing.T) {
	refused := broker.UpstreamError{Level: broker.LevelCredential, Status: 403, Code: "ip_not_allowed", InvalidClient: true}
	client := broker.UpstreamError{Level: broker.LevelCredential, Status: 401, Code: "invalid_client", InvalidClient: true}
	for name, c := range map[string]struct {
		set, former broker.UpstreamError
		want        broker.Kind
		code        string
	}{
		"the former is refused as well":      {refused, client, broker.CredentialMisconfigured, "ip_not_allowed"},
		"the former's request is no good":    {client, broker.UpstreamError{Level: broker.LevelRequest, Status: 400}, broker.CredentialMisconfigured, "invalid_client"},
		"the upstream is away for the other": {client, broker.UpstreamError{Level: broker.LevelUpstream, Status: 503}, broker.UpstreamUnavailable, ""},
		"too many for the other":             {client, broker.UpstreamError{Level: broker.LevelRateLimited, Status: 429}, broker.UpstreamRateLimited, ""},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				up := &upstream{}
				up.answer = func(_ context.Context, x broker.Exchange) (broker.Answer, error) {
					e := c.former
					if x.Credential.Secrets["client_secret"].Value.Reveal() == "new" {
						e = c.set
					}
					return broker.Answer{}, &e
				}
				w := newWorld(t, up)
				w.create("main", map[string]string{"client_secret": "old"})
				w.rotate("new")
				_, err := w.get("main")
				if f := wantKind(t, err, c.want); f.UpstreamError != c.code {
					t.Errorf("got %q, want %q", f.UpstreamError, c.code)
				}
				w.wantExchanges(2)
			})
		})
	}
}

// TestAGrantEndsOnlyWhereItsClientIsKnown: a firewall refuses all of a client, and answers to its former secret what ends a grant.
func TestAGrantEndsOnlyWhereItsClientIsKnown(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRotating(time.Minute)
		w := seeded(t, r, broker.Facts{})
		w.mustGet("main")
		w.rotate("old")
		w.mustGet("main")
		w.rotate("new")
		up := w.up.answer
		w.up.answer = func(_ context.Context, x broker.Exchange) (broker.Answer, error) {
			if x.Credential.Secrets["client_secret"].Value.Reveal() == "new" {
				return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelCredential, Status: 403, InvalidClient: true}
			}
			return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelGrant, Status: 400, Code: "invalid_grant"}
		}
		sleep(5 * time.Minute)
		_, err := w.get("main")
		wantKind(t, err, broker.CredentialMisconfigured)
		w.up.answer = up
		sleep(24 * time.Hour)
		w.mustGet("main")
	})
}

// TestWhatTheFormerSecretMayHaveSpentIsNotPresentedAgain: the upstream does not know the new secret yet; with the former one it rotates the refresh token,
// and the answer is of no use, or lost. So it is where a later request is refused.
func TestWhatTheFormerSecretMayHaveSpentIsNotPresentedAgain(t *testing.T) {
	lost := func(level broker.Level, status int) *broker.UpstreamError {
		return &broker.UpstreamError{Level: level, Status: status, Lost: true}
	}
	known := &broker.UpstreamError{Level: broker.LevelCredential, Status: 401, Code: "invalid_client", InvalidClient: true, Lost: true}
	for name, test := range map[string]struct {
		rotated bool
		fails   *broker.UpstreamError
	}{
		"the only one":                  {false, lost(broker.LevelResponse, 200)},
		"the former, a useless answer":  {true, lost(broker.LevelResponse, 200)},
		"the former, no answer":         {true, lost(broker.LevelUpstream, 0)},
		"a later request is refused":    {false, known},
		"the former, and a later one's": {true, known},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				broken, spent := false, map[string]bool{}
				good := issues(10 * time.Minute)
				up := &upstream{answer: func(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
					if x.Credential.Secrets["client_secret"].Value.Reveal() != "old" {
						return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelCredential, Status: 401, Code: "invalid_client", InvalidClient: true}
					}
					if x.Run == broker.Refresh && spent[x.RefreshToken.Reveal()] {
						t.Error("presented again, and nobody had said that it may be spent")
					}
					if x.Run == broker.Refresh && broken {
						spent[x.RefreshToken.Reveal()] = true
						e := *test.fails
						return broker.Answer{}, &e
					}
					return good(ctx, x)
				}}
				up.facts.Refreshes, up.facts.Obtains = true, true // a refresh token that may be spent is never presented again
				up.facts.Inputs = map[string]broker.InputFacts{"refresh_token": {Secret: true, Seed: true}, "client_secret": {Secret: true}}
				w := newWorld(t, up)
				w.create("main", map[string]string{"refresh_token": "human's", "client_secret": "old"})
				w.mustGet("main")
				if test.rotated {
					w.rotate("new")
				}
				sleep(9*time.Minute + 50*time.Second)
				broken = true
				for range 5 {
					_, _ = w.get("main")
					sleep(70 * time.Second)
				}
				if len(spent) == 0 {
					t.Error("nothing was presented: the test shows nothing")
				}
			})
		})
	}
}

// TestTheSecretThatBroughtARefreshTokenIsKept: the upstream knows the former secret only. With that a refresh rotates, and a later request of it fails; the
// secret is rotated once more, and the one that works stays the former one.
func TestTheSecretThatBroughtARefreshTokenIsKept(t *testing.T) {
	for name, fails := range map[string]*broker.UpstreamError{
		"it works":                   nil,
		"it fails after that":        {Level: broker.LevelUpstream, Status: 503, Lost: true},
		"it is of no use":            {Level: broker.LevelResponse, Status: 200},
		"a later request is refused": {Level: broker.LevelCredential, Status: 401, Code: "invalid_client", InvalidClient: true},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				good, n, broken, current := issues(10*time.Minute), 0, false, "human's"
				up := &upstream{answer: func(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
					if x.Credential.Secrets["client_secret"].Value.Reveal() != "old" {
						return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelCredential, Status: 401, Code: "invalid_client", InvalidClient: true}
					}
					if got := x.RefreshToken.Reveal(); got != current {
						t.Errorf("presented %s, which is spent; %s is good", got, current)
					}
					n++
					current = fmt.Sprint("rotated-", n)
					if broken && fails != nil {
						e := *fails
						return broker.Answer{RefreshToken: broker.NewSecret(current)}, &e
					}
					a, err := good(ctx, x)
					a.RefreshToken = broker.NewSecret(current)
					return a, err
				}}
				up.facts.Refreshes = true
				up.facts.Inputs = map[string]broker.InputFacts{"refresh_token": {Secret: true, Seed: true}, "client_secret": {Secret: true}}
				w := newWorld(t, up)
				w.create("main", map[string]string{"refresh_token": "human's", "client_secret": "old"})
				w.mustGet("main")
				sleep(time.Minute)
				w.rotate("new-1")
				sleep(9*time.Minute + 30*time.Second)
				broken = true
				_, _ = w.get("main")
				broken = false
				sleep(time.Minute)
				w.rotate("new-2")
				c, err := w.Credential(t.Context(), local, "main")
				if err != nil {
					t.Fatal(err)
				}
				if got := c.Secrets["client_secret"].Former.Reveal(); got != "old" {
					t.Errorf("kept %q, which never worked", got)
				}
				sleep(10 * time.Minute)
				w.mustGet("main")
			})
		})
	}
}

// TestTheSecretThatIsSetHasItsTurnWhereTheFormerOneTakesAllTheTime: the former secret worked last, and its upstream takes so long to refuse it that there is
// no time left for the other, with each exchange.
func TestTheSecretThatIsSetHasItsTurnWhereTheFormerOneTakesAllTheTime(t *testing.T) {
	for name, accepted := range map[string]string{"it is good": "new", "it is refused too": "another"} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				good, works, slow := issues(time.Minute), "old", time.Duration(0)
				presented := map[string]int{}
				up := &upstream{answer: func(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
					secret := x.Credential.Secrets["client_secret"].Value.Reveal()
					if secret == works {
						a, err := good(ctx, x)
						a.RefreshToken = broker.NewSecret(fmt.Sprint("refresh-", time.Now().UnixNano()))
						return a, err
					}
					presented[secret]++
					sleep(slow)
					return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelCredential, Status: 401, Code: "invalid_client", InvalidClient: true}
				}}
				up.facts.Refreshes, up.facts.Obtains = true, true
				w := newWorld(t, up)
				w.create("main", map[string]string{"client_secret": "old"})
				w.mustGet("main")
				w.rotate("new")
				sleep(2 * time.Minute)
				w.mustGet("main")
				works, slow = accepted, 21*time.Second // the time of an exchange is over, and its refresh token is waited for still
				clear(presented)
				sleep(2 * time.Minute)
				_, err := w.get("main")
				if accepted != "new" {
					wantKind(t, err, broker.CredentialMisconfigured)
				} else if err != nil {
					t.Error(err)
				}
				for range 5 {
					_, _ = w.get("main")
				}
				if presented["old"] > 2 || presented["new"] > 1 {
					t.Errorf("presented %v times; want each once, and then what came of it", presented)
				}
			})
		})
	}
}
