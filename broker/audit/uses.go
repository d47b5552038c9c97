package audit

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"sync"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

const (
	// usesMost bounds the pairs that are counted: beyond, all are written and begin anew.
	usesMost = 20_000
	// usesFor is how long a pair is remembered that is not used.
	usesFor = 2 * time.Minute
)

// A pair is a caller and a token that it is given, by a rule: one caller may have several, and be allowed by one and the other.
type pair struct {
	identity, listener string
	operation          broker.Operation
	credential, token  string
	rule               string
}

// A use is what is counted of a pair.
type use struct {
	counts *broker.Uses
	// line is what its counts become.
	line line
	// since is when the counting began anew; used is when it was known to be used last.
	since, used time.Time
	// pending is the line of the first use, while it has to be written first: that many wait for it. Nil: it is written, or need not be.
	pending *entry
	waiting int
}

func (u *use) counted(n int64, now time.Time) line {
	is := u.line
	is.counts(n, u.since, now)
	return is
}

type uses struct {
	mu sync.Mutex
	by map[pair]*use
}

// short is a text by which things are told apart: itself, unless it is so long that nobody should keep it.
func short(s string) string {
	const most = 256
	if len(s) <= most {
		return s
	}
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

func pairOf(r broker.AuditRecord) pair {
	p := pair{operation: r.Operation, credential: short(string(r.Credential)), token: short(r.TokenID), rule: short(r.Rule), listener: short(r.Listener)}
	if r.Caller != nil {
		p.identity, p.listener = short(r.Caller.Identity), short(r.Caller.Listener)
	}
	return p
}

// Use implements broker.Auditor.
func (l *Log) Use(ctx context.Context, r broker.AuditRecord) (*broker.Uses, error) {
	p := pairOf(r)
	l.uses.mu.Lock()
	u := l.uses.by[p]
	if u != nil && u.pending != nil {
		u.waiting++
		l.uses.mu.Unlock()
		return l.await(ctx, p, u, true)
	}
	if u != nil {
		u.counts.Count()
		l.uses.mu.Unlock()
		return u.counts, nil
	}
	// What follows is the first use, and is queued before anybody else can find it.
	defer l.uses.mu.Unlock()
	now := l.s.Now()
	var over []line
	if len(l.uses.by) >= usesMost {
		over = l.uses.end(now)
	}
	for i := range over {
		l.write(&over[i], queued)
	}
	is := l.lineOf(ctx, r)
	u = &use{counts: &broker.Uses{}, since: now, used: now}
	u.line = line{
		Event: broker.AuditUsed, Outcome: ok, Caller: is.Caller, Operation: is.Operation, Credential: is.Credential, Provider: is.Provider, Rule: is.Rule, TokenID: is.TokenID,
		Clipped: is.Clipped,
	}
	if len(l.uses.by) >= usesMost { // all of them wait for their first line
		u.counts.End()
	} else {
		l.uses.by[p] = u
	}
	if l.s.Issuance != Required {
		l.write(&is, queued)
		return u.counts, nil
	}
	u.pending, u.waiting = l.write(&is, awaited), 1
	l.uses.mu.Unlock()
	defer l.uses.mu.Lock()
	return l.await(ctx, p, u, false)
}

// await waits until the first use is written. It is undone by the last who waits in vain: by then nobody has been given anything.
func (l *Log) await(ctx context.Context, p pair, u *use, again bool) (*broker.Uses, error) {
	l.uses.mu.Lock()
	e := u.pending
	l.uses.mu.Unlock()
	var err error
	if e != nil {
		err = l.wait(ctx, e)
	}
	l.uses.mu.Lock()
	defer l.uses.mu.Unlock()
	u.waiting--
	if err == nil {
		u.pending = nil
		if again {
			u.counts.Count()
		}
		return u.counts, nil
	}
	if u.waiting == 0 && u.pending != nil {
		if l.uses.by[p] == u {
			delete(l.uses.by, p)
		}
		u.counts.End()
		if !e.gone() { // it may be written all the same
			is := u.line
			is.Event, is.Of = broker.AuditIssued, e.seq
			is.ends(err)
			l.write(&is, first)
		}
	}
	return nil, err
}

// end ends all that is counted, and returns the lines of it. What waits for its first line stays. With mu.
func (s *uses) end(now time.Time) []line {
	var lines []line
	for p, u := range s.by {
		if u.pending != nil {
			continue
		}
		if n := u.counts.End(); n > 0 {
			lines = append(lines, u.counted(n, now))
		}
		delete(s.by, p)
	}
	return lines
}

// flush returns the lines of what was counted, and ends what is not used any more; all of it where that is said.
func (s *uses) flush(now time.Time, all bool) []line {
	s.mu.Lock()
	defer s.mu.Unlock()
	if all {
		return s.end(now)
	}
	var lines []line
	for p, u := range s.by {
		if u.pending != nil {
			continue
		}
		n := u.counts.Take()
		if n == 0 && now.Sub(u.used) >= usesFor {
			n = u.counts.End()
			delete(s.by, p)
		}
		if n > 0 {
			lines = append(lines, u.counted(n, now))
			u.used = now
		}
		u.since = now
	}
	return lines
}
