package store_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/storetest"
)

// TestADeletedCredentialTakesNoMemory: neither of the broker that has deleted it, nor of another one that was told that it is gone.
func TestADeletedCredentialTakesNoMemory(t *testing.T) {
	keys := newKeyring(t)
	var all []*store.Store
	for _, r := range storetest.NewReplicas(2) {
		all = append(all, newStore(t, r, keys))
	}
	reads := func(name broker.CredentialName, want error) {
		t.Helper()
		for i, s := range all {
			if _, err := s.Credential(t.Context(), name); !errors.Is(err, want) {
				t.Errorf("%d reads %s: got %v", i, name, err)
			}
		}
	}
	create(t, all[0], newCredential("stays"), "r")
	reads("stays", nil)
	for i := range 10 {
		name := broker.CredentialName(fmt.Sprint("goes-", i))
		create(t, all[0], newCredential(name), "r")
		reads(name, nil)
		wantNoError(t, "delete", all[i%2].DeleteCredential(t.Context(), name, broker.ID{}))
		if n := all[i%2].Names(); n != 1 {
			t.Errorf("deleted, and there are %d names", n)
		}
		reads(name, broker.NotFound)
		for i, s := range all {
			if n := s.Names(); n != 1 {
				t.Errorf("%d knows %d names, want that of the one that stays", i, n)
			}
		}
	}
}
