package bolt_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/store"
)

func benchStore(b *testing.B, credentials int) *store.Store {
	b.Helper()
	s := newStore(b, open(b, newPath(b)), newKeyring(b))
	for n := range credentials {
		c := broker.Credential{
			Name: broker.CredentialName(fmt.Sprint("c", n)), Incarnation: broker.NewID(), Version: broker.NewID(), Epoch: broker.NewID(),
			Etag: broker.NewID(), Secrets: map[string]broker.SecretInput{"client_secret": {Value: broker.NewSecret("secret")}},
		}
		if err := s.CreateCredential(b.Context(), c, &broker.Grant{RefreshToken: broker.NewSecret("r0")}); err != nil {
			b.Fatal(err)
		}
	}
	return s
}

func rotate(b *testing.B, s *store.Store, k broker.TokenKey) {
	v, err := s.Read(b.Context(), k, "")
	if err != nil {
		b.Error(err)
		return
	}
	l, err := v.Acquire(b.Context(), time.Minute, true)
	if err != nil {
		b.Error(err)
		return
	}
	done, err := l.Commit(b.Context(), broker.Outcome{
		Token:        &broker.Issued{ID: "t", Values: map[string]broker.Secret{"token": broker.NewSecret("access token")}, ExpireAt: time.Now().Add(time.Hour)},
		RefreshToken: broker.NewSecret("refresh token"), Attempts: []broker.Attempt{{Host: "host:443", Status: 200}}, Now: time.Now(),
	})
	if err != nil || !done.Grant {
		b.Errorf("commit: %+v, %v", done, err)
	}
}

// BenchmarkCommit is a whole rotation: read, lease, commit; two fsyncs.
func BenchmarkCommit(b *testing.B) {
	s := benchStore(b, 1)
	k := broker.TokenKey{Credential: "c0", Token: [32]byte{1}, Spends: true}
	for b.Loop() {
		rotate(b, s, k)
	}
}

// BenchmarkCommitParallel has 64 credentials that rotate at once, and share fsyncs.
func BenchmarkCommitParallel(b *testing.B) {
	const many = 64
	s := benchStore(b, many)
	var next atomic.Int64
	b.SetParallelism(many / 2)
	b.ResetTimer()
	b.RunParallel(func(p *testing.PB) {
		n := next.Add(1) - 1
		k := broker.TokenKey{Credential: broker.CredentialName(fmt.Sprint("c", n%many)), Token: [32]byte{1}, Spends: true}
		for p.Next() {
			rotate(b, s, k)
		}
	})
}

func BenchmarkRead(b *testing.B) {
	s := benchStore(b, 100)
	k := broker.TokenKey{Credential: "c50", Token: [32]byte{1}, Spends: true}
	rotate(b, s, k)
	for b.Loop() {
		if v, err := s.Read(b.Context(), k, ""); err != nil || v.Token == nil {
			b.Fatal(err)
		}
	}
}
