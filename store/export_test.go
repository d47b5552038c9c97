package store

import (
	"context"

	"github.com/tokenbroker/tokenbroker/broker"
)

// What tests of the stored form need to see.
var (
	CredentialKey = credentialKey
	OwnGrantKey   = ownGrantKey
	HealthKey     = healthKey
	HistoryKey    = historyKey
	CheckKey      = checkKey
	BackoffKey    = backoffKey
	GrantKey      = grantKey
	TokenKey      = tokenKey
	FailureKey    = failureKey
	LeaseKey      = leaseKey
)

// MetaGroup has the check.
const MetaGroup = metaGroup

// GroupFor is the group of a credential.
func (s *Store) GroupFor(name broker.CredentialName) Group { return s.credentialGroup(name) }

// UpstreamGroupFor is the group of an upstream.
func (s *Store) UpstreamGroupFor(upstream string) Group { return s.upstreamGroup(upstream) }

// Kept is how many changes are kept.
func (s *Store) Kept() int64 { return s.kept.size.Load() }

// Names is how many credentials are known by name.
func (s *Store) Names() (n int) {
	s.names.Range(func(any, any) bool { n++; return true })
	return n
}

// Receipts are those of former brokers in a credential's history.
func (s *Store) Receipts(ctx context.Context, name broker.CredentialName) ([]byte, error) {
	n, err := s.read(ctx, name, historyKey)
	if err != nil {
		return nil, err
	}
	var history historyRecord
	_, err = n.open(historyKey, &history)
	return history.Receipts, err
}
