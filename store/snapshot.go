package store

import (
	"context"
	"errors"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// A snapshot is rows of one credential as of one moment.
type snapshot struct {
	s          *Store
	group      Group
	name       broker.CredentialName
	rows       map[Key]Row
	order      []Key
	credential broker.Credential
	// asked is from before the rows were read: what they have left counts from it.
	asked time.Time
}

// read returns the rows with these keys, and the credential. NotFound.
func (s *Store) read(ctx context.Context, name broker.CredentialName, keys ...Key) (*snapshot, error) {
	group, asked := s.credentialGroup(name), s.options.Now()
	rows, err := s.backend.Read(ctx, group, append([]Key{credentialKey}, keys...)...)
	if err != nil {
		return nil, fromBackend(err)
	}
	return s.snapshot(group, name, asked, rows)
}

// list returns all rows of these kinds, and the credential. NotFound.
func (s *Store) list(ctx context.Context, name broker.CredentialName, kinds ...Kind) (*snapshot, error) {
	group, asked := s.credentialGroup(name), s.options.Now()
	rows, err := s.backend.List(ctx, group, append([]Kind{kindCredential}, kinds...)...)
	if err != nil {
		return nil, fromBackend(err)
	}
	return s.snapshot(group, name, asked, rows)
}

func (s *Store) snapshot(group Group, name broker.CredentialName, asked time.Time, rows []Row) (*snapshot, error) {
	n := &snapshot{s: s, group: group, name: name, asked: asked, rows: make(map[Key]Row, len(rows))}
	for _, r := range rows {
		n.rows[r.Key] = r
		n.order = append(n.order, r.Key)
	}
	row, ok := n.rows[credentialKey]
	if !ok {
		return nil, failure(broker.NotFound, name)
	}
	var err error
	n.credential, err = s.openCredential(name, row)
	if s.shared != nil && err == nil {
		s.names.LoadOrStore(group, name)
	}
	return n, err
}

func (s *Store) openCredential(name broker.CredentialName, row Row) (broker.Credential, error) {
	p := place{key: credentialKey, subject: string(name)}
	var r credentialRecord
	if err := s.open(p, row, &r); err != nil {
		return broker.Credential{}, err
	}
	c, err := r.credential(name)
	if err != nil {
		return broker.Credential{}, s.unreadable(p, err)
	}
	return c, nil
}

func (n *snapshot) place(key Key) place {
	if key == credentialKey {
		return place{key: key, subject: string(n.name)}
	}
	return place{key: key, subject: string(n.name), incarnation: n.credential.Incarnation}
}

func (n *snapshot) revision(key Key) Revision { return n.rows[key].Revision }

// open fills in the record if there is such a row, and says whether there is.
func (n *snapshot) open(key Key, record any) (bool, error) {
	row, ok := n.rows[key]
	if !ok {
		return false, nil
	}
	return true, n.s.open(n.place(key), row, record)
}

// token returns the token of a row if it is a current one, else nil.
func (n *snapshot) token(key Key) (*broker.Issued, error) {
	var r tokenRecord
	if ok, err := n.open(key, &r); !ok || err != nil {
		return nil, err
	}
	t, err := r.token()
	if err != nil {
		return nil, n.s.unreadable(n.place(key), err)
	}
	n.anchor(&t, n.rows[key].Left)
	c := n.credential
	if t.Incarnation != c.Incarnation || t.Version != c.Version || t.Epoch != c.Epoch || n.s.until(t.ExpireAt) <= 0 {
		return nil, nil
	}
	return &t, nil
}

// Two brokers' clocks differ if a token ends this much earlier or later by the backend's clock than its record says. Less is
// the time that it takes to the backend and back.
const (
	clockAhead  = 100 * time.Millisecond
	clockBehind = time.Second
)

// anchor makes a token's times those of this process's clock, where another process may have stored it by its own: when it
// ends is then what the backend says, whose clock is the same for all.
func (n *snapshot) anchor(t *broker.Issued, left time.Duration) {
	if n.s.shared == nil || left <= 0 || t.ExpireAt.Sub(n.asked) > maxTTL-time.Hour {
		return // nobody else has written it, or the row ends long before the token
	}
	late := n.asked.Add(left).Sub(t.ExpireAt) // negative: the token ends earlier than its record says
	if late > -clockAhead && late < clockBehind {
		return
	}
	t.SentAt, t.ExpireAt, t.RefreshAt = t.SentAt.Add(late), t.ExpireAt.Add(late), t.RefreshAt.Add(late)
	if !t.AskAgainAt.IsZero() {
		t.AskAgainAt = t.AskAgainAt.Add(late)
	}
}

// history returns what is there. One that cannot be read is as good as none: no commit may fail for it.
func (n *snapshot) history() (historyRecord, error) {
	var r historyRecord
	_, err := n.open(historyKey, &r)
	if errors.Is(err, broker.RecordUnreadable) {
		return historyRecord{}, nil
	}
	return r, err
}

// A changing collects a batch for the group of a snapshot. Every row that it touches must be as it was read.
type changing struct {
	*snapshot
	batch Batch
	err   error
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

// put replaces a row that was read, or that was asked for and is not there.
func (b *changing) put(key Key, record any, ttl time.Duration) {
	if key != credentialKey {
		b.unchanged(key)
	}
	b.overwrite(key, record, ttl)
}

// overwrite writes a row whatever is there.
func (b *changing) overwrite(key Key, record any, ttl time.Duration) {
	p, err := b.s.seal(b.place(key), record, ttl)
	if err != nil {
		b.err = err
		return
	}
	b.batch.Puts = append(b.batch.Puts, p)
}

// remove deletes a row that was read.
func (b *changing) remove(key Key) {
	if _, ok := b.rows[key]; ok {
		b.unchanged(key)
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
