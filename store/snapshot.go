package store

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/store/seal"
)

// A snapshot is rows of one credential as of one moment.
type snapshot struct {
	s          *Store
	group      Group
	name       broker.CredentialName
	rows       map[Key]Row
	order      []Key
	credential broker.Credential
	// asked is from before the rows were read, answered from after; now is what the backend's clock said between them. What
	// others have written ends by the backend's clock: told by it, nothing ends later here than there.
	asked, answered broker.Instant
	now             time.Time
}

// read returns the rows with these keys, and the credential. NotFound.
func (s *Store) read(ctx context.Context, name broker.CredentialName, keys ...Key) (*snapshot, error) {
	n, _, err := s.readWith(ctx, name, "", keys...)
	return n, err
}

// readWith also reads, in the same round trip, what is known of an upstream; empty: of none.
func (s *Store) readWith(ctx context.Context, name broker.CredentialName, upstream string, keys ...Key) (*snapshot, Reading, error) {
	group, asked := s.credentialGroup(name), s.clock.Now()
	asks := []Ask{{group, append([]Key{credentialKey}, keys...)}}
	if upstream != "" {
		asks = append(asks, Ask{s.upstreamGroup(upstream), []Key{backoffKey}})
	}
	all, err := s.backend.Read(ctx, asks...)
	if err != nil {
		return nil, Reading{}, fromBackend(err)
	}
	n, err := s.snapshot(group, name, asked, s.clock.Now(), all[0])
	return n, all[len(all)-1], err
}

// list returns all rows of these kinds, and the credential. NotFound.
func (s *Store) list(ctx context.Context, name broker.CredentialName, kinds ...Kind) (n *snapshot, err error) {
	failed := s.listAll(ctx, []broker.CredentialName{name}, func(_ int, listed *snapshot, why error) { n, err = listed, why }, kinds...)
	if failed != nil {
		return nil, failed
	}
	return n, err
}

// listAll lists several credentials in one round trip, and calls f with each, in order: its rows, or why there are none.
func (s *Store) listAll(ctx context.Context, names []broker.CredentialName, f func(i int, n *snapshot, err error), kinds ...Kind) error {
	groups, asked := make([]Group, len(names)), s.clock.Now()
	for i, name := range names {
		groups[i] = s.credentialGroup(name)
	}
	all, err := s.backend.List(ctx, groups, append([]Kind{kindCredential}, kinds...)...)
	if err != nil {
		return fromBackend(err)
	}
	answered := s.clock.Now()
	for i, name := range names {
		if err := all[i].Err; err != nil {
			f(i, nil, fromBackend(err))
			continue
		}
		n, err := s.snapshot(groups[i], name, asked, answered, all[i])
		f(i, n, err)
	}
	return nil
}

func (s *Store) snapshot(group Group, name broker.CredentialName, asked, answered broker.Instant, read Reading) (*snapshot, error) {
	n := &snapshot{
		s: s, group: group, name: name, asked: asked, answered: answered, now: read.Now, rows: make(map[Key]Row, len(read.Rows)),
	}
	for _, r := range read.Rows {
		n.rows[r.Key] = r
		n.order = append(n.order, r.Key)
	}
	row, ok := n.rows[credentialKey]
	if !ok {
		s.names.Delete(group)
		return nil, failure(broker.NotFound, name)
	}
	var err error
	n.credential, err = s.openCredential(name, row)
	if s.shared != nil && err == nil {
		s.names.LoadOrStore(group, name)
	}
	return n, err
}

// clock is what the backend's clock says now at the least: what has not passed for this machine may have passed for it.
func (n *snapshot) clock() time.Time {
	return n.now.Add(n.s.clock.Now().Ran - n.answered.Ran)
}

// ends is when, by the backend's clock, something ends that ends at t by this process's.
func (n *snapshot) ends(t time.Time) time.Time {
	return n.clock().Add(min(t.Sub(n.s.wall()), maxTTL))
}

// local is the inverse of ends.
func (n *snapshot) local(t time.Time) time.Time { return n.asked.Wall.Add(t.Sub(n.now)) }

func (s *Store) openCredential(name broker.CredentialName, row Row) (broker.Credential, error) {
	p := binding{key: credentialKey, subject: string(name)}
	var r credentialRecord
	if err := s.open(p, row, &r); err != nil {
		return broker.Credential{}, err
	}
	c, err := r.credential(name)
	if err != nil {
		return broker.Credential{}, s.unreadable(p, err)
	}
	c.Revision = broker.ID(row.Revision)
	return c, nil
}

func (n *snapshot) bound(key Key) binding {
	if key == credentialKey {
		return binding{key: key, subject: string(n.name)}
	}
	return binding{key: key, subject: string(n.name), incarnation: n.credential.Incarnation}
}

func (n *snapshot) revision(key Key) Revision { return n.rows[key].Revision }

// open fills in the record if there is such a row, and says whether there is.
func (n *snapshot) open(key Key, record any) (bool, error) {
	row, ok := n.rows[key]
	if !ok {
		return false, nil
	}
	return true, n.s.open(n.bound(key), row, record)
}

// token returns the token of a row if it is a current one, else nil.
func (n *snapshot) token(key Key) (r tokenRecord, _ *broker.Issued, err error) {
	if ok, err := n.open(key, &r); !ok || err != nil {
		return r, nil, err
	}
	t := r.token()
	n.anchor(&t, n.rows[key].Left)
	if !r.of(n.credential) || !n.asked.Wall.Before(t.ExpireAt) {
		return r, nil, nil
	}
	return r, &t, nil
}

// Two clocks differ if something ends this much earlier or later by the backend's than its record says. Less is the time that it takes to the
// backend and back.
const (
	clockAhead  = 100 * time.Millisecond
	clockBehind = time.Second
)

// anchor makes a token's times those of this process's clock as it is: the wall clock may have been set back since it was stored, or another
// process have stored it by its own. When it ends is what the backend says, whose clock is the same for all; but no token has more left than when it
// was sent, none ends later than its record says by more than it was to live, and none at all later that nobody else can have written. A backend whose clock went
// back would give it a new life at each reading: what it says cannot be told from what it says to a broker whose clock is ahead of the writer's.
func (n *snapshot) anchor(t *broker.Issued, left time.Duration) {
	if left <= 0 || t.ExpireAt.Sub(n.asked.Wall) > maxTTL-time.Hour {
		return // the row ends long before the token
	}
	late := n.asked.Wall.Add(left).Sub(t.ExpireAt) // negative: the token ends earlier than its record says
	late = min(late, n.asked.Wall.Sub(t.SentAt), t.ExpireAt.Sub(t.SentAt))
	if late > -clockAhead && late < clockBehind || late > 0 && n.s.shared == nil {
		return
	}
	t.Shift(late)
}

// ahead reports whether something was written by a clock that was ahead, when this process or a former one ran by it: then its times say nothing. Where
// others share the store it may be theirs.
func (s *Store) ahead(written time.Time, asked broker.Instant) bool {
	return s.shared == nil && written.Sub(s.opened.Steady(asked)) > clockBehind
}

// over is when something is over of which the record says one time and the backend, by whose clock it was stored too, another. Where nobody else
// can have written it, it is the earlier one: the wall clock may have been set back since.
func (s *Store) over(record, backend time.Time) time.Time {
	if s.shared != nil || record.Sub(backend) > clockAhead {
		return backend
	}
	return record
}

// spare fills in the record if there is one that can be read. One that cannot is as good as none: no commit may fail for it.
func (n *snapshot) spare(key Key, record any) error {
	_, err := n.open(key, record)
	if errors.Is(err, broker.RecordUnreadable) || errors.Is(err, errLacking) {
		return nil
	}
	return err
}

// after is the snapshot as it is once the batch has been applied. It knows single rows only: of a batch that clears groups it says
// nothing.
func (n *snapshot) after(b Batch) *snapshot {
	changed := *n
	changed.rows = maps.Clone(n.rows)
	for _, k := range b.Deletes {
		delete(changed.rows, k)
	}
	for _, p := range b.Puts {
		changed.rows[p.Key] = Row{Key: p.Key, Revision: p.Revision, Value: p.Value}
	}
	return &changed
}

// A changing collects a batch for the group of a snapshot. Every row that it touches must be as it was read.
type changing struct {
	*snapshot
	batch Batch
	err   error
	// keys are those to seal with; nil: those that count now.
	keys *seal.Keyring
}

// change begins a batch under the condition that the credential is as it was read.
func (n *snapshot) change() *changing {
	b := &changing{snapshot: n, batch: Batch{Group: n.group}}
	b.unchanged(credentialKey)
	return b
}

func (b *changing) unchanged(key Key) {
	b.batch.Conditions = append(b.batch.Conditions, Condition{key, b.revision(key)})
}

// put replaces a row that was read, or that was asked for and is not there. It lives for ever.
func (b *changing) put(key Key, record any) { b.write(key, record, func(*Put) {}) }

// putUntil is put of a row that ends at t, by this process's clock.
func (b *changing) putUntil(key Key, record any, t time.Time) {
	b.write(key, record, func(p *Put) { b.until(p, b.ends(t)) })
}

// until has a put end at this time by the backend's clock, and no later than that is from now: whoever writes it may have another clock by then.
func (n *snapshot) until(p *Put, ends time.Time) { p.Ends, p.TTL = ends, max(ends.Sub(n.clock()), 1) }

// putFor is put of a row that lives for ttl from when it is written.
func (b *changing) putFor(key Key, record any, ttl time.Duration) {
	b.write(key, record, func(p *Put) { p.TTL = ttl })
}

func (b *changing) write(key Key, record any, end func(*Put)) {
	if !b.named(key) {
		b.unchanged(key)
	}
	b.seal(key, record, end)
}

// overwrite writes a row whatever is there.
func (b *changing) overwrite(key Key, record any) { b.seal(key, record, func(*Put) {}) }

func (b *changing) seal(key Key, record any, end func(*Put)) {
	p, err := b.s.sealBy(b.keys, b.bound(key), record)
	if err != nil {
		b.err = err
		return
	}
	end(&p)
	b.batch.Puts = append(b.batch.Puts, p)
}

// named reports whether the batch has a condition on the row already.
func (b *changing) named(key Key) bool {
	return slices.ContainsFunc(b.batch.Conditions, func(c Condition) bool { return c.Key == key })
}

// remove deletes a row that was read.
func (b *changing) remove(key Key) {
	if _, ok := b.rows[key]; ok {
		if !b.named(key) {
			b.unchanged(key)
		}
		b.batch.Deletes = append(b.batch.Deletes, key)
	}
}

// done returns the batch; nil if it would change nothing.
func (b *changing) done() (*Batch, error) {
	if b.err != nil {
		return nil, b.err
	}
	if len(b.batch.Puts)+len(b.batch.Deletes)+len(b.batch.Clear) == 0 && !b.batch.DeleteGroup {
		return nil, nil
	}
	return &b.batch, nil
}
