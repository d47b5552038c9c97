package store

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// keptFor is how long a commit of a grant is kept to be made again, should a failover undo it.
const keptFor = time.Minute

// kept are the commits of grants of the last minute, sealed: refresh tokens are in memory no longer than they are used.
type kept struct {
	mu      sync.Mutex
	commits []keptCommit
}

type keptCommit struct {
	at     time.Time
	sealed []byte
}

// keptRecord is a lease and what its exchange brought.
type keptRecord struct {
	Credential  string            `json:"credential"`
	Key         keptKey           `json:"key"`
	Owner       id                `json:"owner"`
	Incarnation id                `json:"incarnation"`
	Version     id                `json:"version"`
	Epoch       id                `json:"epoch"`
	Generation  id                `json:"generation"`
	Spends      bool              `json:"spends"`
	Token       *tokenRecord      `json:"token,omitzero"`
	Refresh     secret            `json:"refresh,omitzero"`
	DropGrant   bool              `json:"drop_grant,omitzero"`
	Held        map[string]secret `json:"held"`
	UsedFormer  bool              `json:"used_former,omitzero"`
	Now         instant           `json:"now"`
}

type keptKey struct {
	Token     hash   `json:"token"`
	Selection hash   `json:"selection"`
	Grant     hash   `json:"grant"`
	Digest    string `json:"digest"`
	Spends    bool   `json:"spends"`
}

// keptPlace binds what is kept to nothing but its purpose: it never leaves the process.
var keptPlace = place{key: Key{Kind: "kept"}, subject: "kept"}

// keep keeps a commit, where a failover could undo it.
func (s *Store) keep(l broker.Lease, o broker.Outcome) {
	if s.shared == nil {
		return
	}
	r := keptRecord{
		Credential: string(l.Key.Credential),
		Key:        keptKey{hash(l.Key.Token), hash(l.Key.Selection), hash(l.Key.Grant), l.Key.Digest, l.Key.Spends},
		Owner:      id(l.Owner), Incarnation: id(l.Incarnation), Version: id(l.Version), Epoch: id(l.Epoch), Generation: id(l.Generation),
		Spends: l.Spends, Refresh: reveal(o.RefreshToken), DropGrant: o.DropGrant, Held: revealAll(o.Held),
		UsedFormer: o.UsedFormer, Now: at(o.Now),
	}
	if o.Token != nil {
		t := fromToken(*o.Token)
		r.Token = &t
	}
	p, err := s.seal(keptPlace, r, 0)
	if err != nil {
		return // it was stored all the same
	}
	now := s.options.Now()
	s.kept.mu.Lock()
	defer s.kept.mu.Unlock()
	s.kept.forget(now)
	s.kept.commits = append(s.kept.commits, keptCommit{now, p.Value})
}

func (k *kept) forget(now time.Time) {
	old := 0
	for old < len(k.commits) && now.Sub(k.commits[old].at) > keptFor {
		old++
	}
	k.commits = k.commits[old:]
}

// putBack makes the commits of the last minute again, in their order. One that is in place changes nothing, by its receipt;
// one that is not applies only if what is stored is what it was made from.
func (s *Store) putBack(ctx context.Context) {
	s.kept.mu.Lock()
	s.kept.forget(s.options.Now())
	commits := slices.Clone(s.kept.commits)
	s.kept.mu.Unlock()
	for _, c := range commits {
		var r keptRecord
		if err := s.open(keptPlace, Row{Value: c.sealed}, &r); err != nil {
			continue
		}
		l, o, err := r.commit()
		if err != nil {
			continue
		}
		bounded, cancel := context.WithTimeout(ctx, startTimeout)
		_, made, err := s.commit(bounded, l, o, true)
		cancel()
		if err != nil {
			s.options.Log.LogAttrs(ctx, slog.LevelWarn, "a commit could not be looked after: it is tried when the store is back again",
				slog.String("credential", r.Credential), slog.String("kind", broker.KindOf(err).Name()))
			return // away again: the next return tries all
		}
		if made {
			s.options.Log.LogAttrs(ctx, slog.LevelWarn, "the store had lost a refresh token that it had acknowledged: it is in place again",
				slog.String("credential", r.Credential), slog.String("former_generation", l.Generation.String()))
		}
	}
}

func (r keptRecord) commit() (broker.Lease, broker.Outcome, error) {
	l := broker.Lease{
		Key: broker.TokenKey{
			Credential: broker.CredentialName(r.Credential), Token: r.Key.Token, Selection: r.Key.Selection, Grant: r.Key.Grant,
			Digest: r.Key.Digest, Spends: r.Key.Spends,
		},
		Owner: r.Owner.id(), Incarnation: r.Incarnation.id(), Version: r.Version.id(), Epoch: r.Epoch.id(),
		Generation: r.Generation.id(), Spends: r.Spends,
	}
	o := broker.Outcome{
		RefreshToken: r.Refresh.secret(), DropGrant: r.DropGrant, Held: secretsOf(r.Held), UsedFormer: r.UsedFormer, Now: r.Now.time(),
	}
	if r.Token != nil {
		t, err := r.Token.token()
		if err != nil {
			return l, o, err
		}
		o.Token = &t
	}
	return l, o, nil
}
