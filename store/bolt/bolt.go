package bolt

import (
	"fmt"
	"math/bits"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/newfile"
	"github.com/tokenbroker/tokenbroker/store"
)

// A DB is a store.Backend, exclusive, in one file. It is made by Open. Safe for concurrent use.
type DB struct {
	path    string
	db      *bbolt.DB
	options Options
	holder  *os.File
	changes chan *change
	closing chan struct{}
	working sync.WaitGroup
	close   func() error
	// backingUp: a Backup is under way, of which there is one at a time, since each takes room on the disk.
	backingUp atomic.Bool
	free      func(dir string) (bytes uint64, known bool)
	copyMost  time.Duration
}

var _ store.Exclusive = (*DB)(nil)

// Options change how a DB works. The zero value is right for all but tests.
type Options struct {
	// Now is the clock by which rows end; nil: the machine's, which nobody sets back while the file is open (broker.Instant.Steady).
	Now func() time.Time
	// SweepEvery is how often rows whose time is over make room; 0: every minute.
	SweepEvery time.Duration
}

const (
	sweepEvery = time.Minute
	// mapped is the address space that the file is mapped into at least: 1 GiB, where addresses have 64 bits.
	mapped = 128 << 20 << (3 * (bits.UintSize / 64))
	// grown is by how much the file grows at a time.
	grown = 1 << 20
	// notHeld is how long bbolt waits for its own lock: not at all, since ours is held.
	notHeld = time.Nanosecond
)

// Open opens the data file at path, and creates it (mode 0600) and its directory (mode 0700) where they are missing. It fails
// at once when another process has the file open, and names that; and for a file that is damaged, truncated or something
// else, which it leaves as it is. A file that others can read is made private again.
func Open(path string, options Options) (*DB, error) {
	if options.Now == nil {
		clock := broker.NewClock(nil)
		opened := clock.Now()
		options.Now = func() time.Time { return opened.Steady(clock.Now()) }
	}
	if options.SweepEvery <= 0 {
		options.SweepEvery = sweepEvery
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, unusable(path, "its directory cannot be created: "+reason(err))
	}
	holder, err := hold(path)
	if err != nil {
		return nil, err
	}
	file, err := openFile(path)
	if err != nil {
		release(holder)
		return nil, err
	}
	d := &DB{
		path: path, db: file, options: options, holder: holder,
		changes: make(chan *change), closing: make(chan struct{}), free: freeAt, copyMost: copyMost,
	}
	d.close = sync.OnceValue(d.shut)
	d.working.Go(d.write)
	d.working.Go(d.sweepUntilClosed)
	return d, nil
}

// openFile opens what is there, after a look at it, or creates it whole.
func openFile(path string) (*bbolt.DB, error) {
	_, err := os.Stat(path)
	if os.IsNotExist(err) {
		err = createFile(path)
	}
	if err == nil {
		err = makePrivate(path)
	}
	if err == nil {
		err = inspect(path)
	}
	if err != nil {
		return nil, leave(path, err)
	}
	var db *bbolt.DB
	// bbolt panics, or touches memory that is not there, where a page is not what it seems.
	err = guard(func() error {
		var err error
		if db, err = openBolt(path); err != nil {
			return err
		}
		return check(db)
	})
	if err != nil {
		if db != nil {
			_ = guard(db.Close)
		}
		return nil, leave(path, err)
	}
	return db, nil
}

func openBolt(path string) (*bbolt.DB, error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout: notHeld, InitialMmapSize: mapSize(path), FreelistType: bbolt.FreelistMapType, NoStatistics: true,
	})
	if err == nil {
		db.AllocSize = grown
	}
	return db, err
}

// mapSize is the address space, and no memory, to map the file into. One that outgrows its map waits for all readers, and
// new readers for it, so there is as much again as what a backup copies.
func mapSize(path string) int {
	if info, err := os.Stat(path); err == nil && bits.UintSize == 64 {
		return max(mapped, 2*int(info.Size()))
	}
	return mapped
}

// createFile makes an empty data file under another name first, so that one that is there is always whole.
func createFile(path string) error {
	temporary := path + ".new"
	if err := os.Remove(temporary); err != nil && !os.IsNotExist(err) {
		return err
	}
	db, err := openBolt(temporary)
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, name := range [][]byte{metaBucket, rowsBucket, endsBucket, indexBucket} {
			if _, err := tx.CreateBucket(name); err != nil {
				return err
			}
		}
		return tx.Bucket(metaBucket).Put(formatKey, []byte(format))
	})
	if closed := db.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(temporary, path)
	}
	if err == nil {
		err = newfile.SyncDir(filepath.Dir(path))
	}
	return err
}

func makePrivate(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return errNotRegular
	}
	if info.Mode().Perm()&0o077 == 0 {
		return nil
	}
	return os.Chmod(path, 0o600)
}

// guard turns a panic, also one for memory that is not there, into an error.
func guard(f func() error) (err error) {
	before := debug.SetPanicOnFault(true)
	defer debug.SetPanicOnFault(before)
	defer func() {
		if recover() != nil {
			err = ErrDamaged
		}
	}()
	return f()
}

// Close implements store.Backend. It waits for what is being written; what waits to be written fails. A second call does
// nothing and returns the same.
func (d *DB) Close() error { return d.close() }

func (d *DB) shut() error {
	close(d.closing)
	d.working.Wait()
	err := d.db.Close()
	release(d.holder)
	return failed(err)
}

// leave is why the file is left as it is.
func leave(path string, err error) error {
	f := unusable(path, reason(err))
	if ours := ourOwn(err); ours != nil {
		return &leftAlone{f, ours}
	}
	return f
}

func unusable(path, why string) *broker.Failure {
	return &broker.Failure{Kind: broker.StoreUnavailable, Detail: fmt.Sprintf("the data file %s: %s", path, why)}
}
