package store_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/storetest"
)

// former is the upstream of testdata/former, as main.go has it, where everything works again. A refresh token NAME.SCOPES#N is answered
// with its successor; whatever is obtained begins at 100.
type former struct {
	mu sync.Mutex
	// asked is what each exchange presented, by the name of the credential; "obtain": nothing.
	asked map[string][]string
}

var formerDefinitions = map[string]broker.Facts{
	"client":   {Obtains: true},
	"rotating": {Refreshes: true},
	"keyed":    {Obtains: true, Refreshes: true, Reuse: broker.Reuse{Within: 100 * 365 * 24 * time.Hour}},
}

type formerDefinition struct {
	*former
	facts broker.Facts
}

func (u *former) Revision() uint64 { return 1 }
func (u *former) Definition(name string) (broker.Definition, error) {
	f := formerDefinitions[name]
	f.Name, f.Digest, f.Requests, f.HostInputs = name, "digest of "+name, 1, []string{"host"}
	f.Inputs = map[string]broker.InputFacts{"host": {}, "client_secret": {Secret: true, Optional: true}}
	if name == "rotating" {
		f.Inputs["refresh_token"] = broker.InputFacts{Secret: true, Seed: true}
	}
	return &formerDefinition{u, f}, nil
}

func (d *formerDefinition) Facts() *broker.Facts { return &d.facts }
func (d *formerDefinition) Host(c broker.Credential, _ broker.Selection) string {
	return c.Inputs["host"]
}
func (d *formerDefinition) Check(broker.Credential, []string) []broker.Violation { return nil }
func (d *formerDefinition) Destinations(c broker.Credential) []broker.Destination {
	return []broker.Destination{{Use: broker.Requests, Place: c.Inputs["host"]}}
}
func (d *formerDefinition) Select(_ broker.Credential, s broker.Selection) (broker.Selection, error) {
	return s, nil
}

func (d *formerDefinition) Present(_ broker.Credential, _ broker.Selection, t broker.Issued) (broker.Presentation, error) {
	return broker.Presentation{Headers: []broker.Field{{Name: "Authorization", Value: t.Values["token"]}}}, nil
}

func (d *formerDefinition) Exchange(_ context.Context, x broker.Exchange) (broker.Answer, error) {
	if err := x.BeforeSend(d.Host(x.Credential, x.Selection)); err != nil {
		return broker.Answer{}, &broker.UpstreamError{Refused: true}
	}
	name, asked := string(x.Credential.Name), "obtain"
	line, n := name+"."+x.Selection.Scopes.String(), 100
	if x.Run == broker.Refresh {
		asked = x.RefreshToken.Reveal()
		var number string
		line, number, _ = strings.Cut(asked, "#")
		if _, err := fmt.Sscan(number, &n); err != nil {
			return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelGrant, Status: 400, Code: "invalid_grant"}
		}
		n++
	}
	d.mu.Lock()
	d.asked[name] = append(d.asked[name], asked)
	d.mu.Unlock()
	life, now := time.Hour, time.Now()
	a := broker.Answer{
		Values:   map[string]broker.Secret{"token": broker.NewSecret(fmt.Sprintf("access-of-%s#%d", line, n))},
		Attempts: []broker.Attempt{{Start: now, Host: d.Host(x.Credential, x.Selection), Status: 200}}, Expiry: broker.Expiry{In: &life, SentAt: now},
	}
	if d.facts.Refreshes {
		a.RefreshToken = broker.NewSecret(fmt.Sprintf("%s#%d", line, n))
	}
	return a, nil
}

func (u *former) askedFor(name string) []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return append([]string(nil), u.asked[name]...)
}

// A follower is a broker of today on what a former one stored.
type follower struct {
	*engine.Broker
	t     *testing.T
	store *store.Store
	up    *former
}

func follow(t *testing.T, backend store.Backend) *follower {
	t.Helper()
	f := &follower{t: t, store: openFormer(t, backend), up: &former{asked: map[string][]string{}}}
	var err error
	f.Broker, err = engine.New(engine.Settings{Upstream: f.up, Store: f.store, Authorizer: broker.LocalOnly{}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		_ = f.Close(ctx)
	})
	return f
}

// get asks for a token, and once more for another one than that if it is rejected. It says what it got.
func (f *follower) get(name string, scopes []string, reject bool) string {
	f.t.Helper()
	set, err := broker.ParseSet("scopes", scopes)
	if err != nil {
		f.t.Fatal(err)
	}
	r := engine.Request{Credential: broker.CredentialName(name), Selection: broker.Selection{Scopes: set}}
	caller := broker.NewCaller(broker.Local, "", "", broker.ProofNone, "")
	res, err := f.Token(f.t.Context(), caller, r)
	if err == nil && reject {
		r.RejectedTokenID = res.Token.ID
		res, err = f.Token(f.t.Context(), caller, r)
	}
	var failure *broker.Failure
	switch {
	case errors.As(err, &failure) && failure.RetryAt.Round(time.Second).Year() == 2090: // a wait is counted by another clock than ends, to the microsecond
		return failure.Kind.Name() + " until 2090"
	case errors.As(err, &failure):
		return failure.Kind.Name()
	case err != nil:
		f.t.Fatal(err)
	}
	return res.Token.AccessToken.Reveal()
}

// TestABrokerGoesOnFromWhatAFormerOneStored: it serves and shares what is there, and each refresh presents the newest refresh
// token, once; one that may be spent is treated as such, whatever the definition says of a second use, because nobody knows by
// the store's clock when the first was.
func TestABrokerGoesOnFromWhatAFormerOneStored(t *testing.T) {
	for backend, open := range formerBackends {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			f := follow(t, open(t))
			receipts, err := f.store.Receipts(t.Context(), "rotated")
			if err != nil {
				t.Fatal(err)
			}
			for _, test := range []struct {
				name   string
				scopes []string
				reject bool
				want   string
				asked  []string
			}{
				{name: "plain", want: "access of plain.#0"},
				{name: "plain", reject: true, want: "access-of-plain.#100", asked: []string{"obtain"}},
				{name: "rotated", want: "access of rotated.#3"},
				{name: "rotated", reject: true, want: "access-of-rotated.#4", asked: []string{"rotated.#3"}},
				{name: "rotated", reject: true, want: "access-of-rotated.#5", asked: []string{"rotated.#3", "rotated.#4"}},
				{name: "keyed", scopes: []string{"a"}, want: "access of keyed.a#1"},
				{name: "keyed", scopes: []string{"a"}, reject: true, want: "access-of-keyed.a#2", asked: []string{"keyed.a#1"}},
				{name: "keyed", scopes: []string{"b"}, reject: true, want: "access-of-keyed.b#1", asked: []string{"keyed.a#1", "keyed.b#0"}},
				{name: "keyed", scopes: []string{"c"}, want: "access-of-keyed.c#100", asked: []string{"keyed.a#1", "keyed.b#0", "obtain"}},
				{name: "marked-keyed", scopes: []string{"a"}, want: "access-of-marked-keyed.a#100", asked: []string{"obtain"}},
				{name: "uncertain", want: "access-of-uncertain.#1", asked: []string{"uncertain.#0"}},
				{name: "uncertain", reject: true, want: "access-of-uncertain.#2", asked: []string{"uncertain.#0", "uncertain.#1"}},
				{name: "too-much", scopes: []string{"too-much"}, want: "scope_refused until 2090"},
				{name: "too-much", want: "access-of-too-much.#100", asked: []string{"obtain"}},
				{name: "refused", want: "credential_misconfigured until 2090"},
				{name: "away", want: "upstream_unavailable until 2090"},
				{name: "rejected", want: "access-of-rejected.#100", asked: []string{"obtain"}},
				{name: "suspended", want: "access of suspended.#1"},
				{name: "suspended", reject: true, want: "store_unavailable"},
			} {
				if got := f.get(test.name, test.scopes, test.reject); got != test.want {
					t.Errorf("%s %v: got %q, want %q", test.name, test.scopes, got, test.want)
				}
				if diff := cmp.Diff(test.asked, f.up.askedFor(test.name)); diff != "" {
					t.Errorf("%s %v: exchanges (-want +got):\n%s", test.name, test.scopes, diff)
				}
			}
			if resumed, err := f.store.Resume(t.Context()); err != nil || !resumed {
				t.Errorf("resume: got %v, %v", resumed, err)
			}
			if got := f.get("suspended", nil, false); got != "access-of-suspended.#2" {
				t.Errorf("resumed: got %q", got)
			}
			if after, err := f.store.Receipts(t.Context(), "rotated"); err != nil || len(after) == 0 || string(after) != string(receipts) {
				t.Errorf("receipts: got %x, %v, want %x", after, err, receipts)
			}
			st, err := storetest.Status(t.Context(), f.store, "rotated")
			if err != nil || len(st.Grants) != 1 || st.Grants[0].RefreshToken.Reveal() != "rotated.#5" || st.Grants[0].UsedFor == 0 {
				t.Errorf("got %+v, %v, want the successor, and when its predecessor was used", st.Grants, err)
			}
		})
	}
}

// takeover is how long a refresh token is left alone that somebody else seems to be presenting, where others share the store.
const takeover = 10 * time.Second

// TestAMarkThatAFormerBrokerLeft: whose broker was killed. An embedded store's is known to be dead; of one that shared a Redis
// nobody knows, so that its refresh token is left alone first.
func TestAMarkThatAFormerBrokerLeft(t *testing.T) {
	for backend, open := range formerBackends {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			f := follow(t, open(t))
			began := time.Now()
			if got := f.get("marked", nil, false); got != "access-of-marked.#1" {
				t.Errorf("got %q", got)
			}
			if diff := cmp.Diff([]string{"marked.#0"}, f.up.askedFor("marked")); diff != "" {
				t.Errorf("exchanges (-want +got):\n%s", diff)
			}
			if took := time.Since(began); backend == "redis" && took < takeover {
				t.Errorf("it was presented again after %v", took)
			}
			st, err := storetest.Status(t.Context(), f.store, "marked")
			if err != nil || st.Grants[0].MayBeSpent() || st.Grants[0].RefreshToken.Reveal() != "marked.#1" {
				t.Errorf("got %+v, %v, want the successor, of which nothing is in doubt", st.Grants, err)
			}
		})
	}
}
