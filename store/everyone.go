package store

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/tokenbroker/tokenbroker/broker"
)

// Whoever goes over all credentials takes their names once, and holds them: where the index cannot be changed along with the rows, it may lose an entry at any
// time, also while leases are waited for. Names are short, so that hundreds of thousands fit.

// everyone is the names of all credentials, in order. Where that fails, it returns those that it has found.
func (s *Store) everyone(ctx context.Context) ([]broker.CredentialName, error) {
	var names []broker.CredentialName
	pass := func() error {
		indexed, err := s.indexed(ctx)
		names = append(names, indexed...)
		slices.Sort(names)
		names = slices.Compact(names)
		return err
	}
	if s.shared == nil {
		err := pass()
		return names, err
	}
	for lacked := 1; lacked > 0; {
		err := pass()
		if err == nil {
			lacked, err = s.relist(ctx)
		}
		if err != nil {
			return names, err
		}
	}
	err := pass() // another broker may have listed again what the one before has missed: the relist did not find it missing then
	return names, err
}

// relist has the index list every credential, and returns how many it lacked.
func (s *Store) relist(ctx context.Context) (int, error) {
	if s.shared == nil {
		return 0, nil
	}
	n, err := s.shared.shared.Relist(ctx)
	if n > 0 {
		s.options.Log.LogAttrs(ctx, slog.LevelWarn, "credentials were missing from the list of all, as after a failover of its part of the store: they are listed again", slog.Int("credentials", n))
	}
	if err != nil {
		return n, fmt.Errorf("look for credentials that the list of all lacks: %w", fromBackend(err))
	}
	return n, nil
}

// indexed is the names of the credentials that the index has now. Where that fails, it returns those that it has found.
func (s *Store) indexed(ctx context.Context) (names []broker.CredentialName, err error) {
	for cursor := (Listing{}); ; {
		page, err := s.backend.Scan(ctx, credentialKey, cursor, scanPage)
		if err != nil {
			return names, fromBackend(err)
		}
		for _, l := range page {
			if cursor = l.Listing; l.Row.Revision != (Revision{}) { // else it was deleted, or is about to be created
				names = append(names, broker.CredentialName(strings.Clone(l.Name))) // what it is a part of is not held
			}
		}
		if len(page) < scanPage {
			return names, nil
		}
	}
}

const scanPage = 100

// groupsAtOnce is how many credentials are read in one round trip.
const groupsAtOnce = 50

// listGroups reads the rows of these kinds of several credentials in one round trip. It fails where one of them cannot be read: nothing may be concluded of a part
// that is away.
func (s *Store) listGroups(ctx context.Context, names []broker.CredentialName, kinds []Kind) ([]Reading, error) {
	groups := make([]Group, len(names))
	for i, name := range names {
		groups[i] = s.credentialGroup(name)
	}
	all, err := s.backend.List(ctx, groups, kinds...)
	if err != nil {
		return nil, fromBackend(err)
	}
	for _, read := range all {
		if read.Err != nil {
			return nil, fromBackend(read.Err)
		}
	}
	return all, nil
}
