package store

import (
	"errors"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/store/seal"
)

// TestAGroupFromBeforeTheKeys: what was named before there were keys is not asked for after, when the backend would say that there is no such thing.
func TestAGroupFromBeforeTheKeys(t *testing.T) {
	s, err := New(nil, nil, Options{KEK: noKEK{}, Later: true})
	if err != nil {
		t.Fatal(err)
	}
	group := s.credentialGroup("a")
	if s.upstreamGroup("u") != group {
		t.Error("a group was named without keys")
	}
	s.backend.ready.Store(true)
	ctx := t.Context()
	for what, ask := range map[string]func() error{
		"read":      func() error { _, err := s.backend.Read(ctx, Ask{group, []Key{credentialKey}}); return err },
		"list":      func() error { _, err := s.backend.List(ctx, []Group{"c:x", group}); return err },
		"revisions": func() error { _, _, err := s.backend.Revisions(ctx, []Place{{group, credentialKey}}); return err },
		"apply":     func() error { return s.backend.Apply(ctx, Batch{Group: group}) },
	} {
		if err := ask(); !errors.Is(err, broker.StoreUnavailable) {
			t.Errorf("%s: got %v", what, err)
		}
	}
}

// noKEK is never asked.
type noKEK struct{ seal.KEK }
