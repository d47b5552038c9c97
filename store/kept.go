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
// without its last second. This process remembers two kinds of change that a failover must not undo: a refresh token that an exchange
// brought, stored or not, because what it presented is spent, and tokens that were dropped, because somebody was told so.
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
	// before is the generation before replaced, of a grant; zero: there was none, or it is not known. If that is back, two commits are lost.
	before replacement
	at     broker.Moment
	// place is where it shows whether it is in place, and revision what was there when it was last seen to be; guarded by
	// kept.mu.
	place    Place
	revision Revision
	// commit is the lease of a commit, and outcome what its exchange brought, as was told then; nil: it is a drop.
	commit  *lease
	outcome broker.Outcome
	told    broker.Instant
	match   broker.Match
	// unstored: the store did not take it, so that one which it took counts more.
	unstored bool
}

// keepCommit keeps a commit of a grant, or what could have been one: where the grant that it replaces is back, it is. shown is the revision of the
// grant's row; zero: not known. told is as for commit.
func (l *lease) keepCommit(o broker.Outcome, told broker.Instant, shown Revision, stored bool) {
	if l.s.shared == nil {
		return
	}
	var before grantRecord // as far as Acquire has seen it
	if l.left != nil {
		_ = l.left.spare(grantKey(l.key), &before)
	}
	taken := *l
	taken.left, o.Attempts = nil, nil
	l.s.keep(keptChange{
		name: l.key.Credential, replaced: replacement{kindGrant, l.generation}, before: replacement{kindGrant, before.Predecessor.id()},
		commit: &taken, outcome: o, told: told, unstored: !stored, place: Place{l.s.credentialGroup(l.key.Credential), grantKey(l.key)}, revision: shown,
	})
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
	if c.unstored && s.kept.items[c.replaced] != nil {
		return
	}
	s.kept.items[c.replaced] = &c
	if !c.before.id.IsZero() && s.kept.items[c.before] == nil {
		s.kept.items[c.before] = &c
	}
	s.kept.size.Store(int64(len(s.kept.items)))
}

// mend makes the changes again that what was read shows to be undone. It reports whether there are any, then read again, and whether it has made one.
// It fails while the backend takes nothing: nothing is to be decided on what was read.
func (s *Store) mend(ctx context.Context, n *snapshot) (undone, some bool, err error) {
	if s.kept.size.Load() == 0 {
		return false, false, nil
	}
	for replaced, c := range s.kept.undone(n) {
		undone = true
		made, err := s.again(ctx, c, replaced)
		if broker.KindOf(err) == broker.StoreUnavailable {
			return false, false, err
		}
		some = some || made
		if err != nil {
			s.options.Log.LogAttrs(ctx, slog.LevelError, "the store has lost a change that it had acknowledged, and it cannot be made again",
				slog.String("credential", string(c.name)), slog.String("kind", broker.KindOf(err).Name()))
			continue
		}
		if made {
			s.options.Log.LogAttrs(ctx, slog.LevelWarn, "the store had lost a change that it had acknowledged: it is in place again",
				slog.String("credential", string(c.name)), slog.String("replaced", replaced.id.String()), slog.Bool("grant", c.commit != nil))
		}
	}
	return undone, some, nil
}

// replaceable is what was read that a change may have replaced.
func (n *snapshot) replaceable() []replacement {
	there := []replacement{{kindCredential, n.credential.Epoch}}
	for key, row := range n.rows {
		var t tokenRecord
		if key.Kind == kindToken && n.s.open(n.bound(key), row, &t) == nil && !t.Rejected {
			there = append(there, replacedToken(t, row))
		}
		var g grantRecord
		if key.Kind == kindGrant && n.s.open(n.bound(key), row, &g) == nil {
			there = append(there, replacement{kindGrant, g.Generation.id()})
		}
	}
	return there
}

// has reports whether a change is kept that replaced this.
func (k *kept) has(r replacement) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.items[r] != nil
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
	if c.commit == nil {
		changes, err := s.drop(ctx, c.name, c.match, replaced, &broker.Dropped{})
		for _, made := range changes {
			s.keep(made)
		}
		return len(changes) > 0, err
	}
	l := *c.commit
	l.generation = replaced.id // or the one before it, which is spent too
	_, shown, made, err := l.commit(ctx, c.outcome, c.told, true)
	if err != nil || !made {
		return false, err
	}
	l.keepCommit(c.outcome, c.told, shown, true)
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

// lookAfter reads what there is where a row has changed, and mends it. It reports whether that could be found out: of a row that cannot be opened nobody can say whether
// the change is in place. It may be the one that was replaced, and be opened once somebody restores its key.
func (s *Store) lookAfter(ctx context.Context, c *keptChange) bool {
	n, err := s.readMended(ctx, c.name, c.place.Key)
	if err != nil {
		return broker.KindOf(err) == broker.NotFound
	}
	row, there := n.rows[c.place.Key]
	if !there {
		return true
	}
	plain, err := s.unseal(n.bound(row.Key), row)
	clear(plain)
	return err == nil
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
