package storetest

import (
	"bytes"
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/store"
)

// Memory is a Backend in memory, for tests. It is not exclusive: several stores may share one, as replicas share a
// database. It takes the time from time.Now, also inside a testing/synctest bubble. Safe for concurrent use.
type Memory struct {
	mu     sync.Mutex
	rows   map[store.Group]map[store.Key]memoryRow
	index  map[store.Listing]store.Group
	closed bool
}

type memoryRow struct {
	store.Row
	ends time.Time // zero: never
}

var _ store.Backend = (*Memory)(nil)

// NewMemory returns an empty one.
func NewMemory() *Memory {
	return &Memory{rows: map[store.Group]map[store.Key]memoryRow{}, index: map[store.Listing]store.Group{}}
}

// enter locks; the caller unlocks if there is no error.
func (m *Memory) enter(ctx context.Context) error {
	if err := store.Ended(ctx); err != nil {
		return err
	}
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return store.Unavailable("it is closed")
	}
	return nil
}

// live returns the row as a reader sees it at now.
func (m *Memory) live(group store.Group, key store.Key, now time.Time) (store.Row, bool) {
	r, ok := m.rows[group][key]
	if !ok {
		return store.Row{}, false
	}
	if !r.ends.IsZero() {
		if !now.Before(r.ends) {
			return store.Row{}, false
		}
		r.Left = r.ends.Sub(now)
	}
	r.Value = bytes.Clone(r.Value)
	return r.Row, true
}

// Read implements store.Backend.
func (m *Memory) Read(ctx context.Context, asks ...store.Ask) ([]store.Reading, error) {
	if err := m.enter(ctx); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	now := time.Now()
	all := make([]store.Reading, len(asks))
	for i, ask := range asks {
		all[i].Now = now
		for _, k := range ask.Keys {
			if r, ok := m.live(ask.Group, k, now); ok {
				all[i].Rows = append(all[i].Rows, r)
			}
		}
	}
	return all, nil
}

// List implements store.Backend.
func (m *Memory) List(ctx context.Context, groups []store.Group, kinds ...store.Kind) ([]store.Reading, error) {
	if err := m.enter(ctx); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	all := make([]store.Reading, len(groups))
	for i, group := range groups {
		all[i] = store.Reading{Rows: m.list(group, kinds), Now: time.Now()}
	}
	return all, nil
}

func (m *Memory) list(group store.Group, kinds []store.Kind) []store.Row {
	var rows []store.Row
	now := time.Now()
	for k := range m.rows[group] {
		if r, ok := m.live(group, k, now); ok && slices.Contains(kinds, k.Kind) {
			rows = append(rows, r)
		}
	}
	slices.SortFunc(rows, func(a, b store.Row) int {
		return cmp.Or(cmp.Compare(slices.Index(kinds, a.Key.Kind), slices.Index(kinds, b.Key.Kind)), bytes.Compare(a.Key.ID[:], b.Key.ID[:]))
	})
	return rows
}

// Apply implements store.Backend.
func (m *Memory) Apply(ctx context.Context, b store.Batch) error {
	if err := m.enter(ctx); err != nil {
		return err
	}
	defer m.mu.Unlock()
	now := time.Now()
	for _, p := range b.Puts {
		if r, ok := m.live(b.Group, p.Key, now); ok && r.Revision == p.Revision {
			return nil // applied already
		}
	}
	for _, c := range b.Conditions {
		r, _ := m.live(b.Group, c.Key, now)
		if r.Revision != c.Revision {
			return broker.ErrConflict
		}
	}
	if b.DeleteGroup {
		delete(m.rows, b.Group)
	}
	rows := m.rows[b.Group]
	if rows == nil {
		rows = map[store.Key]memoryRow{}
		m.rows[b.Group] = rows
	}
	for _, kind := range b.Clear {
		maps.DeleteFunc(rows, func(k store.Key, _ memoryRow) bool { return k.Kind == kind })
	}
	for _, k := range b.Deletes {
		delete(rows, k)
	}
	for _, r := range b.Rooms {
		m.makeRoom(b.Group, r, now)
	}
	for _, p := range b.Puts {
		r := memoryRow{Row: store.Row{Key: p.Key, Revision: p.Revision, Value: bytes.Clone(p.Value)}, ends: p.Ends}
		if ends := now.Add(p.TTL); p.TTL > 0 && (p.Ends.IsZero() || ends.Before(p.Ends)) {
			r.ends = ends
		}
		rows[p.Key] = r
	}
	if u := b.Unlist; u != nil {
		maps.DeleteFunc(m.index, func(l store.Listing, _ store.Group) bool {
			return l.Name == u.Name && (u.Incarnation == [16]byte{} || l.Incarnation == u.Incarnation)
		})
	}
	if b.List != nil {
		m.index[*b.List] = b.Group
	}
	return nil
}

func (m *Memory) makeRoom(group store.Group, r store.Room, now time.Time) {
	rows := m.rows[group]
	var there []store.Key
	for k := range rows {
		if _, live := m.live(group, k, now); live && k.Kind == r.Kind && k.ID != [32]byte{} {
			there = append(there, k)
		}
	}
	slices.SortFunc(there, func(a, b store.Key) int {
		x, y := rows[a].ends, rows[b].ends
		switch {
		case x.IsZero() != y.IsZero():
			return map[bool]int{true: 1, false: -1}[x.IsZero()] // it never does
		default:
			return x.Compare(y)
		}
	})
	for _, k := range there[:max(0, len(there)-r.Most+1)] {
		delete(rows, k)
	}
}

// Scan implements store.Backend.
func (m *Memory) Scan(ctx context.Context, key store.Key, after store.Listing, limit int) ([]store.Listed, error) {
	if err := m.enter(ctx); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	var page []store.Listed
	for _, l := range slices.SortedFunc(maps.Keys(m.index), compareListings) {
		if len(page) >= limit {
			break
		}
		if compareListings(l, after) > 0 {
			r, _ := m.live(m.index[l], key, time.Now())
			page = append(page, store.Listed{Listing: l, Row: r})
		}
	}
	return page, nil
}

func compareListings(a, b store.Listing) int {
	return cmp.Or(cmp.Compare(a.Name, b.Name), bytes.Compare(a.Incarnation[:], b.Incarnation[:]))
}

// Close implements store.Backend.
func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	return nil
}

// Snapshot returns how to put back, once, what there is now: as a failover to a replica that was behind does.
func (m *Memory) Snapshot() (restore func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	rows, index := map[store.Group]map[store.Key]memoryRow{}, maps.Clone(m.index)
	for g, r := range m.rows {
		rows[g] = maps.Clone(r)
	}
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.rows, m.index = rows, index
	}
}
