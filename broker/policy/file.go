package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/filewatch"
	"github.com/tokenbroker/tokenbroker/internal/readfile"
	"github.com/tokenbroker/tokenbroker/internal/yamldoc"
)

// A File is an authorizer that follows a file. A file that is broken, or gone, leaves the policy that was read before it. Safe for concurrent use.
type File struct {
	name      string
	log       *slog.Logger
	lookEvery time.Duration

	// policy is set before generation is, so that whoever has seen a generation decides by it, or by a later one.
	policy     atomic.Pointer[Policy]
	generation atomic.Uint64

	// reading is held while the file is read, mu is not: a large one takes a while.
	reading sync.Mutex
	// told is what the last problem was of: a digest, or why there is none. With reading.
	told string

	mu      sync.Mutex
	changes chan struct{}
	status  Status
}

// A Status is what a File has loaded, and what is wrong with the file since.
type Status struct {
	// Digest is of the policy by which is decided: sha256: and the file's SHA-256 in hexadecimal.
	Digest string
	// Loaded is when it was.
	Loaded time.Time
	// Rules is how many it has.
	Rules int
	// Problem is why the file as it is now is not used; nil: it is.
	Problem error
}

// New reads the policy in a file. It fails if there is none, or anything is wrong with it; the problems of it are in the error, as
// yamldoc.Together has them. A nil log is silent.
func New(name string, log *slog.Logger) (*File, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	f := &File{name: name, log: log, lookEvery: filewatch.Every, changes: make(chan struct{})}
	if err := f.Reload(); err != nil {
		return nil, err
	}
	return f, nil
}

// Decide implements broker.Authorizer.
func (f *File) Decide(a broker.Access) broker.Decision { return f.policy.Load().Decide(a) }

// Explain says how an access is decided by what is loaded, for people.
func (f *File) Explain(a broker.Access) Explanation { return f.policy.Load().Explain(a) }

// Generation implements broker.Authorizer.
func (f *File) Generation() uint64 { return f.generation.Load() }

// Changes implements broker.Authorizer.
func (f *File) Changes() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changes
}

// Status says what is loaded.
func (f *File) Status() Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.status
}

// Reload reads the file anew. If that fails, the policy stays as it was, and the status says why. What the log has said of a file that is the same as
// before, it does not say again.
func (f *File) Reload() error {
	f.reading.Lock()
	defer f.reading.Unlock()
	data, err := readOwned(f.name)
	if err != nil {
		return f.failed(err.Error(), err)
	}
	sum := sha256.Sum256(data)
	digest := "sha256:" + hex.EncodeToString(sum[:])
	was := f.Status()
	switch digest {
	case was.Digest:
		if was.Problem != nil {
			f.log.Info("the policy's file is again the one that is loaded", "file", f.name, "digest", digest)
		}
		f.told, was.Problem = "", nil
		f.set(was)
		return nil
	case f.told:
		return was.Problem
	}
	p, problems := Parse(f.name, data)
	if p == nil {
		return f.failed(digest, yamldoc.Together(yamldoc.Errors(problems)))
	}
	for _, w := range yamldoc.First(yamldoc.Warnings(problems)) {
		f.log.Warn("policy", "problem", w.String())
	}
	f.told = ""
	f.use(p, Status{Digest: digest, Loaded: time.Now(), Rules: len(p.rules)})
	f.log.Info("policy loaded", "file", f.name, "digest", digest, "rules", len(p.rules))
	return nil
}

func (f *File) use(p *Policy, s Status) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.policy.Store(p)
	f.generation.Add(1)
	f.status = s
	close(f.changes)
	f.changes = make(chan struct{})
}

func (f *File) set(s Status) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.status = s
}

// failed notes why a file is not used; of is the same for the same file.
func (f *File) failed(of string, err error) error {
	s := f.Status()
	s.Problem = err
	f.set(s)
	if f.told != of && s.Digest != "" {
		f.log.Error("the policy's file is not used: what was loaded before goes on", "file", f.name, "digest", s.Digest, "error", err.Error())
	}
	f.told = of
	return err
}

// othersMayWrite are the bits of a mode by which others than a file's owner may write it.
const othersMayWrite = 0o022

// readOwned reads the file, unless others than its owner may write it: who can would be allowed everything.
func readOwned(name string) ([]byte, error) {
	file, info, err := readfile.Open(name)
	if err != nil {
		return nil, fmt.Errorf("read the policy: %s: %w", name, readfile.Why(err))
	}
	defer file.Close() //nolint:errcheck // it was only read
	if mode := info.Mode().Perm(); mode&othersMayWrite != 0 {
		return nil, fmt.Errorf("read the policy: %s: others than its owner may write it (mode %04o), and could allow themselves anything: run chmod go-w on it", name, mode)
	}
	data, err := io.ReadAll(io.LimitReader(file, MostBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read the policy: %s: %w", name, readfile.Why(err))
	}
	return data, nil // Parse refuses what is too large
}

var _ broker.Authorizer = (*File)(nil)
