package storetest

import (
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/store"
)

// Plant makes a credential with secrets in every record that can hold one. plant draws a secret for what it is told.
func Plant(t *testing.T, s *store.Store, name broker.CredentialName, plant func(string) broker.Secret) {
	t.Helper()
	now := time.Now()
	c := broker.Credential{
		Name: name, Incarnation: broker.NewID(), Version: broker.NewID(), Epoch: broker.NewID(), Etag: broker.NewID(),
		Secrets: map[string]broker.SecretInput{"client_secret": {Value: plant("client secret"), Former: plant("former client secret")}},
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(s.CreateCredential(ctx, c, &broker.Grant{RefreshToken: plant("seed"), Held: map[string]broker.HeldValue{"h": {Value: plant("held seed"), TakenBy: "a take"}}}))
	k := broker.TokenKey{Credential: name, Token: [32]byte{1}, Spends: true}
	acquire := func() broker.Lease {
		v, err := s.Read(ctx, k, "")
		must(err)
		l, err := v.Acquire(ctx, time.Minute, true)
		must(err)
		return l
	}
	for range 2 { // the second overwrites the first
		done, err := acquire().Commit(ctx, broker.Outcome{
			Token: &broker.Issued{
				ID: "t", Values: map[string]broker.Secret{"token": plant("access token"), "other": plant("value")},
				Headers:  []broker.Field{{Name: "X-Device", Value: plant("header")}},
				ExpireAt: now.Add(time.Hour), Audience: plant("audience").Reveal(),
			},
			RefreshToken: plant("refresh token"), Held: map[string]broker.HeldValue{"h": {Value: plant("held")}}, Now: now,
		})
		must(err)
		if !done.Grant || !done.Token {
			t.Fatalf("commit: %+v", done)
		}
	}
	must(acquire().Fail(ctx, broker.FailureRecord{Level: broker.LevelCredential, Uncertain: true, Now: now}))
	acquire()
}
