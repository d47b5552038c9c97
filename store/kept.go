package store

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// What a Shared backend has acknowledged, a failover may undo: a replica that was behind becomes the master, a machine comes back
// without its last second. This process remembers two kinds of change that a failover must not undo: a grant that
// was committed, because what it replaced is spent, and tokens that were dropped, because somebody was told so.
//
// Each is kept by what it replaced: a grant's generation and the one before, the credential's epoch, the exchange that brought a
// token. So whoever reads such a thing sees that it is back, and puts what replaced it in place again before anything is
// decided: there is no moment at which a spent refresh token could be presented by the process that has its successor.

// keptFor is how long a change is kept. It goes at that age at the earliest, and only when it was seen to be in place then:
// while the backend is away nothing goes.
const keptFor = time.Minute

const (
	tendEvery = time.Second
	tendMost  = 2 * time.Second // for one part
	tendPart  = 500
)

// kept are the changes that are kept.
type kept struct {
	size atomic.Int64 // of items, for who only wants to know whether there are any
	mu   sync.Mutex
	// items by what they replaced.
	items map[replacement]*keptChange
}

// A replacement is what a change replaced: a grant's generation, the exchange that brought a token, or an epoch. An exchange that brings
// both gives them the same id.
type replacement struct {
	kind Kind
	id   broker.ID
}

// A keptChange is a commit, or a drop.
type keptChange struct {
	name     broker.CredentialName
	replaced replacement
	// before is what replaced itself had replaced, of a grant; zero: nothing, or it is not known. If that is back, both are lost.
	before replacement
	at     broker.Moment
	// place is where it shows whether it is in place, and revision what was there when it was last seen to be; guarded by
	// kept.mu.
	place    Place
	revision Revision
	// sealed is the commit: refresh tokens lie in memory no longer than they are used. nil: it is a drop.
	sealed []byte
	match  broker.Match
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

// keepCommit keeps a commit of a grant. shown is the revision of the grant's row; zero: not known.
func (s *Store) keepCommit(l broker.Lease, o broker.Outcome, shown Revision) {
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
	p, err := s.seal(keptPlace, r)
	if err != nil {
		return // it was stored all the same
	}
	s.keep(keptChange{
		name: l.Key.Credential, replaced: replacement{kindGrant, l.Generation}, before: before(l), sealed: p.Value,
		place: Place{s.credentialGroup(l.Key.Credential), grantKey(l.Key)}, revision: shown,
	})
}

// before is the generation before the one that a lease was taken for, as far as Acquire has seen it.
func before(l broker.Lease) replacement {
	var g grantRecord
	if n, ok := l.Rows.(*snapshot); ok {
		_ = n.spare(grantKey(l.Key), &g)
	}
	return replacement{kindGrant, g.Predecessor.id()}
}

// keep keeps a change. The generation of a grant that there was not is zero, and replaced nothing.
func (s *Store) keep(c keptChange) {
	if s.shared == nil || c.replaced.id.IsZero() {
		return
	}
	c.at = s.clock.Now().At
	s.kept.mu.Lock()
	defer s.kept.mu.Unlock()
	if s.kept.items == nil {
		s.kept.items = map[replacement]*keptChange{}
	}
	s.kept.items[c.replaced] = &c
	if !c.before.id.IsZero() && s.kept.items[c.before] == nil {
		s.kept.items[c.before] = &c
	}
	s.kept.size.Store(int64(len(s.kept.items)))
}

// mend makes the changes again that what was read shows to be undone. It reports whether there are any: read again then. It fails
// while the backend takes nothing: nothing is to be decided on what was read.
func (s *Store) mend(ctx context.Context, n *snapshot) (undone bool, err error) {
	if s.kept.size.Load() == 0 {
		return false, nil
	}
	for replaced, c := range s.kept.undone(n) {
		undone = true
		made, err := s.again(ctx, c, replaced)
		if broker.KindOf(err) == broker.StoreUnavailable {
			return false, err
		}
		if err != nil {
			s.options.Log.LogAttrs(ctx, slog.LevelError, "the store has lost a change that it had acknowledged, and it cannot be made again",
				slog.String("credential", string(c.name)), slog.String("kind", broker.KindOf(err).Name()))
			continue
		}
		if made {
			s.options.Log.LogAttrs(ctx, slog.LevelWarn, "the store had lost a change that it had acknowledged: it is in place again",
				slog.String("credential", string(c.name)), slog.String("replaced", replaced.id.String()), slog.Bool("grant", c.sealed != nil))
		}
	}
	return undone, nil
}

// replaceable is what was read that a change may have replaced.
func (n *snapshot) replaceable() []replacement {
	there := []replacement{{kindCredential, n.credential.Epoch}}
	for key, row := range n.rows {
		var t tokenRecord
		if key.Kind == kindToken && n.s.open(n.place(key), row, &t) == nil && !t.Rejected {
			there = append(there, replacedToken(t, row))
		}
		var g grantRecord
		if key.Kind == kindGrant && n.s.open(n.place(key), row, &g) == nil {
			there = append(there, replacement{kindGrant, g.Generation.id()})
		}
	}
	return there
}

// undone are the changes whose replaced is what was read, by that.
func (k *kept) undone(n *snapshot) map[replacement]*keptChange {
	there := n.replaceable()
	k.mu.Lock()
	defer k.mu.Unlock()
	undone := map[replacement]*keptChange{}
	for _, replaced := range there {
		if c := k.items[replaced]; c != nil {
			undone[replaced] = c
		}
	}
	return undone
}

// replacedToken is what a token that was dropped is kept by: the exchange that brought it, because a commit that is made again writes
// another row; or the row, where a former version wrote it.
func replacedToken(t tokenRecord, row Row) replacement {
	if t.Owner.IsZero() {
		return replacement{kindToken, broker.ID(row.Revision)}
	}
	return replacement{kindToken, t.Owner.id()}
}

// again makes a change again where what it replaced is back, and reports whether it was not in place.
func (s *Store) again(ctx context.Context, c *keptChange, replaced replacement) (made bool, err error) {
	if c.sealed == nil {
		changes, err := s.drop(ctx, c.name, c.match, replaced, &broker.Dropped{})
		for _, made := range changes {
			s.keep(made)
		}
		return len(changes) > 0, err
	}
	var r keptRecord
	if err := s.open(keptPlace, Row{Value: c.sealed}, &r); err != nil {
		return false, err
	}
	l, o, err := r.commit()
	if err != nil {
		return false, err
	}
	l.Generation = replaced.id // or the one before it, which is spent too
	_, shown, made, err := s.commit(ctx, l, o, true)
	if err != nil || !made {
		return false, err
	}
	s.keepCommit(l, o, shown)
	return true, nil
}

// tendUntil looks after what is kept until ctx ends.
func (s *Store) tendUntil(ctx context.Context) {
	tick := time.NewTicker(tendEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		s.kept.mu.Lock()
		all := slices.Collect(maps.Values(s.kept.items))
		s.kept.mu.Unlock()
		for part := range slices.Chunk(all, tendPart) {
			s.tend(ctx, part)
		}
	}
}

// tend looks whether changes are in place, makes those again that are not, and forgets those that are, and are old enough.
func (s *Store) tend(ctx context.Context, part []*keptChange) {
	ctx, cancel := context.WithTimeout(ctx, tendMost)
	defer cancel()
	places, seen := make([]Place, len(part)), make([]Revision, len(part))
	s.kept.mu.Lock()
	for i, c := range part {
		places[i], seen[i] = c.place, c.revision
	}
	s.kept.mu.Unlock()
	asked := s.clock.Now().At
	there, known, err := s.shared.Revisions(ctx, places)
	if err != nil {
		return
	}
	for i, c := range part {
		if known[i] && (there[i] == seen[i] || s.lookAfter(ctx, c)) {
			s.kept.well(c, there[i], asked)
		}
	}
}

// lookAfter reads what there is where a row has changed, and mends it. It reports whether that could be found out.
func (s *Store) lookAfter(ctx context.Context, c *keptChange) bool {
	_, err := s.readMended(ctx, c.name, c.place.Key)
	return broker.KindOf(err) != broker.StoreUnavailable
}

// well notes that a change was seen to be in place, and forgets it if it is old enough.
func (k *kept) well(c *keptChange, there Revision, asked broker.Moment) {
	k.mu.Lock()
	defer k.mu.Unlock()
	c.revision = there
	if asked.Sub(c.at) <= keptFor {
		return
	}
	for _, replaced := range []replacement{c.replaced, c.before} {
		if k.items[replaced] == c {
			delete(k.items, replaced)
		}
	}
	k.size.Store(int64(len(k.items)))
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
