package product

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/internal/upstreamsim"
	"github.com/tokenbroker/tokenbroker/store"
)

// A counter counts what a backend is asked.
type counter struct {
	store.Backend
	mu    sync.Mutex
	calls map[string]int
	// between, if set, is called once, after the next Scan; spoil with what each List of several groups reads.
	between func()
	spoil   func([]store.Reading)
}

func (c *counter) count(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls[what]++
}

// taken returns what was counted, and begins anew.
func (c *counter) taken() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := c.calls
	c.calls = map[string]int{}
	return all
}

func (c *counter) Read(ctx context.Context, asks ...store.Ask) ([]store.Reading, error) {
	c.count("read")
	return c.Backend.Read(ctx, asks...)
}

func (c *counter) List(ctx context.Context, groups []store.Group, kinds ...store.Kind) ([]store.Reading, error) {
	c.count("list")
	all, err := c.Backend.List(ctx, groups, kinds...)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.spoil != nil && err == nil && len(groups) > 1 {
		c.spoil(all)
	}
	return all, err
}

func (c *counter) Apply(ctx context.Context, b store.Batch) error {
	c.count("apply")
	return c.Backend.Apply(ctx, b)
}

func (c *counter) Scan(ctx context.Context, key store.Key, after store.Listing, limit int) ([]store.Listed, error) {
	c.count("scan")
	page, err := c.Backend.Scan(ctx, key, after, limit)
	c.mu.Lock()
	between := c.between
	c.between = nil
	c.mu.Unlock()
	if between != nil {
		between()
	}
	return page, err
}

func newCountedRig(t *testing.T) (*rig, *counter) {
	c := &counter{calls: map[string]int{}}
	r := newRig(t, rigOptions{before: func(b store.Backend) store.Backend {
		c.Backend = b
		return c
	}})
	return r, c
}

// TestAPageAsksTheStoreTwice: for the credentials, and for how those are doing that the filter lets through, if there are any.
func TestAPageAsksTheStoreTwice(t *testing.T) {
	r, c := newCountedRig(t)
	a := r.account(upstreamsim.OfficeRnD)
	for i := range 100 {
		r.create(fmt.Sprintf("office-%02d", i), a)
	}
	r.mustGet("office-42")
	for filter, want := range map[string]struct {
		shown int
		calls map[string]int
	}{
		"":                                    {100, map[string]int{"scan": 1, "list": 1}},
		"state = READY":                       {1, map[string]int{"scan": 1, "list": 1}},
		"name = office-1*":                    {10, map[string]int{"scan": 1, "list": 1}},
		"name = office-42 AND state != READY": {0, map[string]int{"scan": 1, "list": 1}},
		"provider = snov":                     {0, map[string]int{"scan": 1}},
		"labels.env:*":                        {0, map[string]int{"scan": 1}},
		"name = nobody AND state = UNUSED":    {0, map[string]int{"scan": 1}},
	} {
		c.taken()
		page := do(t, r.credentials.ListCredentials, &tokenbrokerv1.ListCredentialsRequest{PageSize: 100, Filter: filter})
		if got := len(page.GetCredentials()); got != want.shown {
			t.Errorf("%q: got %d credentials, want %d", filter, got, want.shown)
		}
		if diff := cmp.Diff(want.calls, c.taken()); diff != "" {
			t.Errorf("%q: calls of the backend (-want +got):\n%s", filter, diff)
		}
	}
}

// TestAPageIsAsOfItsStatuses: what changes while a page is being read is shown as it is, or not at all.
func TestAPageIsAsOfItsStatuses(t *testing.T) {
	r, c := newCountedRig(t)
	a := r.account(upstreamsim.OfficeRnD)
	for _, name := range []string{"changed", "deleted", "stays"} {
		r.create(name, a)
	}
	c.mu.Lock()
	c.between = func() {
		do(t, r.credentials.DeleteCredential, &tokenbrokerv1.DeleteCredentialRequest{Name: "deleted"})
		do(t, r.credentials.UpdateCredential, &update{Credential: &cred{Name: "changed", Disabled: true}})
	}
	c.mu.Unlock()
	page := do(t, r.credentials.ListCredentials, &tokenbrokerv1.ListCredentialsRequest{}).GetCredentials()
	if len(page) != 2 || page[0].GetName() != "changed" || page[1].GetName() != "stays" {
		t.Fatalf("got %v, want what was changed and what stays", page)
	}
	if !page[0].GetDisabled() || page[0].GetState() != tokenbrokerv1.CredentialState_CREDENTIAL_STATE_DISABLED {
		t.Errorf("got %v, want it disabled", page[0])
	}
	wantSame(t, page[0], r.read("changed"))
	wantSame(t, page[1], r.read("stays"))
}

// TestAStateThatCannotBeReadIsNotGuessed: a row of one credential that is damaged is no reason to have no page.
func TestAStateThatCannotBeReadIsNotGuessed(t *testing.T) {
	r, c := newCountedRig(t)
	a := r.account(upstreamsim.RefreshToken)
	r.create("one", a)
	c.mu.Lock()
	c.spoil = func(all []store.Reading) {
		for _, row := range all[0].Rows {
			if row.Key.Kind == "grant" {
				row.Value[0] ^= 1
			}
		}
	}
	c.mu.Unlock()
	r.create("two", r.account(upstreamsim.OfficeRnD))
	got := do(t, r.credentials.ListCredentials, &tokenbrokerv1.ListCredentialsRequest{}).GetCredentials()
	if len(got) != 2 || got[0].GetState() != 0 || got[1].GetState() != tokenbrokerv1.CredentialState_CREDENTIAL_STATE_UNUSED {
		t.Errorf("got %v, want one without a state and one that is unused", got)
	}
	if len(got[0].GetSecrets()) != 2 || got[0].GetEtag() == "" {
		t.Errorf("got %v, want all that is known of it", got[0])
	}
}
