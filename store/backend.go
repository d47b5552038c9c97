package store

import (
	"context"
	"errors"
	"time"
)

// A Group names rows that can be read and changed in one step: those of one credential, or of one upstream's backoff, or the
// store's own. It is made of a-z, 0-9 and colons; see layout.go.
type Group string

// A Kind says what a row holds. Kinds are made of a-z.
type Kind string

// IndexedKind is the kind of the row that an entry of the index is there for.
const IndexedKind Kind = "credential"

// A Key names a row within its group. Comparable. ID is a keyed hash; zero for the one row of a kind that is not keyed.
type Key struct {
	Kind Kind
	ID   [32]byte
}

// A Revision is drawn at random for every write of a row, and compared for equality only. The zero Revision: no row.
type Revision [16]byte

// A Row is what a backend keeps.
type Row struct {
	Key      Key
	Revision Revision
	// Value is sealed; the reader owns it.
	Value []byte
	// Left is how long the row lives, as of the moment that it was read; 0: for ever.
	Left time.Duration
}

// A Condition holds if the row has exactly this revision or, for the zero Revision, if there is no such row.
type Condition struct {
	Key      Key
	Revision Revision
}

// A Put writes a row, whatever was there. It lives for TTL, until Ends, or, where both are set, until the earlier of both; where none is, for ever.
type Put struct {
	Key      Key
	Revision Revision
	Value    []byte
	// TTL is how long the row lives at most from the moment on at which it is written, or first tried to be. Never negative.
	TTL time.Duration
	// Ends is when the row ends at the latest by the backend's clock, as a Reading told it: however late it is written, it ends then. One that
	// has passed leaves no row. A group of a Shared backend may come to another clock meanwhile, which TTL is for.
	Ends time.Time
}

// An Ask names rows of one group.
type Ask struct {
	Group Group
	Keys  []Key
}

// A Reading is rows of one group as of one moment.
type Reading struct {
	// Rows are those that are there.
	Rows []Row
	// Now is that moment by the backend's clock, which is the same for all who share the backend.
	Now time.Time
	// Err says why nothing is known of this group, where others could be read; nil: it was read.
	Err error
}

// Room is for one more keyed row of a kind: where a group has Most of them, those that end first go, and of those that end alike any.
type Room struct {
	Kind Kind
	Most int
}

// A Listing is an entry of the index by which Scan pages over credentials in order of their names. The incarnation tells
// apart credentials that had the same name one after the other, where the index cannot be changed along with the rows.
type Listing struct {
	Name        string
	Incarnation [16]byte
}

// A Batch is a change of one group. If all conditions hold, then what is to be deleted goes, then room is made, and after that the puts come.
type Batch struct {
	Group      Group
	Conditions []Condition
	// DeleteGroup deletes every row of the group; Clear every row of these kinds; Deletes these rows, if they are there.
	DeleteGroup bool
	Clear       []Kind
	Deletes     []Key
	Puts        []Put
	// Rooms are made. What has to go is nobody's condition: changes that need room at the same time do not stand in each other's way.
	Rooms []Room
	// List adds an entry for this group to the index; nil: none.
	List *Listing
	// Unlist removes exactly this entry; with the zero incarnation, every entry of that name; nil: none.
	Unlist *Listing
	// Tell is what the watchers of a Shared backend are told once the change is made; zero: nothing.
	Tell Note
	// Keep: the change must not get lost with one machine. A Shared backend that was told how many replicas have to have it
	// waits for them, also where it was applied already, and fails with ErrUnconfirmed if too few say so in time: the change is made then, and may get lost.
	Keep bool
	// Finish: what was begun ends here. It is to be applied also where the backend has no room for anything new.
	Finish bool
}

// A Note says what kind of a change was made. Notes are single letters.
type Note byte

// ErrUnconfirmed is what Apply fails with when it made a change that too few replicas have confirmed.
var ErrUnconfirmed = errors.New("made, and not confirmed by enough replicas")

// A Listed is an entry of the index with the row that it was asked with; a zero Row: that is not there.
type Listed struct {
	Listing
	Row Row
}

// Backend keeps sealed rows. A row whose time is over is absent, for reads and for conditions, from the very moment on.
//
// Methods fail with an error that is broker.StoreUnavailable, or with what they name, and wrap nothing that could hold a
// value. A method that fails because its context ended says so by errors.Is, and has changed nothing or everything. Safe
// for concurrent use. Slices that are handed over are not kept or changed by either side after the call.
type Backend interface {
	// Read returns one Reading for each Ask, in one round trip, with rows in any order. It fails if the first group cannot be
	// read; of any other its Reading says so.
	Read(ctx context.Context, asks ...Ask) ([]Reading, error)
	// List returns one Reading for each group, in one round trip, with every row of these kinds, ordered by kind as given and then
	// by ID. It fails if none of the groups can be read; of one that others could be read beside, its Reading says so. The caller
	// sees to it that rows are few (thousands at most).
	List(ctx context.Context, groups []Group, kinds ...Kind) ([]Reading, error)
	// Apply makes the change whole, durably, or fails with broker.ErrConflict if a condition does not hold, and nothing has
	// changed. A batch one of whose puts is in place, by its revision, was applied already: applying it again does nothing and
	// succeeds.
	Apply(ctx context.Context, b Batch) error
	// Scan returns the first entries of the index after the given one, in order of name and then incarnation, at most limit,
	// each with the row that has this key in the group that the entry was added for. Fewer than limit: there are no more.
	Scan(ctx context.Context, key Key, after Listing, limit int) ([]Listed, error)
	// Close ends all work and frees what is held. Whatever is called afterwards fails.
	Close() error
}

// Shared is a Backend that other processes change at the same time.
type Shared interface {
	Backend
	// Check looks whether the backend can be relied on, as far as it may look. It fails with broker.StoreUnavailable while
	// the backend cannot be reached, and with *Unfit if it must not be used. What it may not look at, it warns of.
	Check(ctx context.Context) (warnings []string, err error)
	// Revisions returns the revision of each row, zero where there is none, each as of some moment during the call. Places may
	// be of any groups, and many. It fails if nothing is known of any; known tells of which something is, where a part of the
	// backend is away.
	Revisions(ctx context.Context, places []Place) (r []Revision, known []bool, err error)
	// Relist looks for credentials that the index lacks, adds them, and returns how many there were. Where the index cannot be changed along with the rows, the
	// one may lose what the other keeps. What cannot be looked at keeps it from nothing else, and has it fail afterwards.
	Relist(ctx context.Context) (int, error)
	// Shard names the part of the backend that has a group: parts are away each for itself. It asks nobody. Where a part answers, and only a group of it cannot be
	// had now, methods fail with GroupUnavailable.
	Shard(Group) string
	// Watch calls f, one call at a time, with what happens, until ctx ends.
	Watch(ctx context.Context, f func(Happened))
}

// A Place is where a row is.
type Place struct {
	Group Group
	Key   Key
}

// Happened is what a Shared backend tells: a change, or that some may have been missed.
type Happened struct {
	// Group was changed by another process, with this Note; empty: changes may have been missed before this.
	Group Group
	Note  Note
}

// Exclusive is a Backend that no other process can have open. What only mattered to former processes can be cleared then.
type Exclusive interface {
	Backend
	// ClearAll deletes every row of this kind in every group, and returns how many.
	ClearAll(ctx context.Context, kind Kind) (int, error)
}
