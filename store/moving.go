package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/store/seal"
)

// Holds reports whether a backend holds data of a tokenbroker. It changes nothing.
func Holds(ctx context.Context, backend Backend) (bool, error) {
	r, err := readCheck(ctx, backend)
	return r != nil, err
}

// Export suspends all refreshing (see suspend.go), waits until what had begun is over, and writes all credentials to w as
// export_format.go says. progress is called as credentials are written; nil: nobody looks. Where it fails, refreshing stays
// suspended: export again, or Resume.
func (s *Store) Export(ctx context.Context, w io.Writer, progress func(done, total int)) error {
	if progress == nil {
		progress = func(int, int) {}
	}
	now := s.wall()
	check, err := readCheck(ctx, s.backend)
	if err != nil {
		return err
	}
	if check == nil {
		return misused("an export before Begin")
	}
	header := &exportHeader{Format: exportFormat, Version: exportVersion, Comment: exportComment, Time: now.UTC().Round(0), Check: *check}
	wrapped, keyring, _, err := readKeyring(ctx, s.backend)
	switch {
	case err != nil:
		return err
	case wrapped != nil:
		header.Version, header.Comment, header.Keyring = exportVersionWrapped, exportCommentWrapped, keyring.Value
	}
	names, err := s.everyone(ctx) // before anything is suspended: a store whose credentials cannot be told could not be resumed either
	if err != nil {
		return err
	}
	// All are suspended before the first is waited for, so that their leases run out at the same time.
	x, err := s.suspendAll(ctx, names, now)
	if err != nil {
		return err
	}
	e := newExportWriter(w)
	if err := e.line(exportLine{Header: header}); err != nil {
		return err
	}
	progress(0, len(names))
	for _, name := range names {
		c, err := s.exported(ctx, name, x)
		if err != nil {
			return err
		}
		if c == nil {
			continue
		}
		if err := e.line(exportLine{Credential: c}); err != nil {
			return err
		}
		progress(e.count, len(names))
	}
	if _, err := x.noted(ctx); err != nil {
		return err
	}
	switch _, now, _, err := readKeyring(ctx, s.backend); {
	case err != nil:
		return err
	case !bytes.Equal(now.Value, keyring.Value): // it may have rows that the keyring in it does not open; a broker that lags writes it anew as it is
		return errors.New("the keys were changed while this export was being made: it cannot be used")
	}
	return e.end()
}

// lookForLease is how long after a lease was seen it is looked for again: its holder releases it earlier than it ends.
const lookForLease = 200 * time.Millisecond

// An answer is waited for beyond its lease where a refresh token was presented for it: answerMost bounds that, and presentedMost when such a
// presentation can have begun.
const (
	answerMost    = 12 * time.Second
	presentedMost = 10*time.Minute + answerMost
)

// exported reads what there is of a credential, once nobody holds the lease of a grant of it and nobody can take one, and no answer to a presentation is
// waited for any more; nil: it is gone. No lease stays longer than it was taken for.
func (s *Store) exported(ctx context.Context, name broker.CredentialName, x *suspending) (*exportedCredential, error) {
	kinds := append([]Kind{kindSuspended, kindGrantLease}, exportedKinds[1:]...)
	var free broker.Moment // since when nobody was seen to hold a lease
	for {
		n, err := s.list(ctx, name, kinds...)
		if errors.Is(err, broker.NotFound) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		wait, presented := time.Duration(0), false
		for key, row := range n.rows {
			if key.Kind == kindGrantLease {
				wait = max(wait, min(row.Left, lookForLease))
			}
			if key.Kind != kindGrant {
				continue
			}
			var g grantRecord
			if _, err := n.open(key, &g); err == nil && !g.Marker.IsZero() && n.now.Sub(g.Marked.time()) < presentedMost {
				presented = true
			}
		}
		switch {
		case wait > 0:
			free = 0
		case free == 0:
			free = n.asked.At
		}
		if presented && wait == 0 && n.asked.At.Sub(free) < answerMost {
			wait = lookForLease
		}
		switch {
		case n.revision(suspendedKey) == (Revision{}): // it was created anew after the others were suspended, or somebody has resumed
			if _, err := x.noted(ctx); err != nil {
				return nil, err
			}
			if err := x.suspend(ctx, name); err != nil {
				return nil, err
			}
			continue
		case wait > 0:
			select {
			case <-time.After(wait):
				continue
			case <-ctx.Done():
				return nil, Ended(ctx)
			}
		}
		c := &exportedCredential{Name: string(name), Incarnation: id(n.credential.Incarnation), ReadAt: n.asked.Wall.UTC()}
		for _, key := range n.order {
			if row := n.rows[key]; slices.Contains(exportedKinds, key.Kind) {
				c.Rows = append(c.Rows, exportedRow{
					Kind: key.Kind, ID: key.ID, Revision: id(row.Revision), Sealed: row.Value, LeftMS: leftMS(row.Left),
				})
			}
		}
		return c, nil
	}
}

// leftMS never makes of a row that ends one that does not.
func leftMS(left time.Duration) int64 {
	if left <= 0 {
		return 0
	}
	return max(1, left.Milliseconds())
}

// Imported is what an import did.
type Imported struct {
	// Made is how many credentials are new here, There how many were here already, as they are in the export.
	Made, There int
	// Ended is how many tokens were left out because their time was over.
	Ended int
	// Unconfirmed is how many of those made too few replicas have confirmed.
	Unconfirmed int
	// Conflicts are left alone: here is something else by that name.
	Conflicts []Conflict
	// Moved were here already, and refreshed on either side since. They are left alone too.
	Moved []broker.CredentialName
}

// A Conflict is a credential that is not imported, and why.
type Conflict struct {
	Name broker.CredentialName
	Why  string
}

// clockSkew is how far ahead of this machine's clock an export's may be.
const clockSkew = time.Minute

// Import adds what an export has and what is not here, each credential in one step. It changes nothing that is here. One
// that was interrupted goes on when it is called again. Tokens live as long as they would have, by the clocks of the two
// machines. What was done until then is returned along with an error.
func (s *Store) Import(ctx context.Context, e *Exported, progress func(done, total int)) (Imported, error) {
	if progress == nil {
		progress = func(int, int) {}
	}
	var out Imported
	if ahead := e.Time.Sub(s.wall()); ahead > clockSkew {
		return out, fmt.Errorf("the export was made at %s, which is yet to come by the clock of this machine: set the clock, or tokens would live too long",
			e.Time.Format(time.RFC3339))
	}
	since, err := s.Suspended(ctx)
	if err != nil {
		return out, err
	}
	if !since.IsZero() {
		return out, fmt.Errorf("this store was itself exported at %s, and what it has may be used elsewhere since: import into a new one, or undo that with `tokenbroker store export --resume` first",
			since.Format(time.RFC3339))
	}
	done := 0
	progress(0, e.Credentials)
	err = e.read(func(c *exportedCredential) error {
		if err := s.importOne(ctx, c, &out); err != nil {
			return err
		}
		done++
		progress(done, e.Credentials)
		return nil
	})
	return out, err
}

func (s *Store) importOne(ctx context.Context, c *exportedCredential, out *Imported) error {
	name := broker.CredentialName(c.Name)
	group := s.credentialGroup(name)
	keys := []Key{credentialKey}
	for _, r := range c.Rows {
		if r.Kind == kindGrant {
			keys = append(keys, r.key())
		}
	}
	ended := 0
	made := true
	err := s.changeKept(ctx, s.backend, func() (*Batch, error) {
		// What is there is looked at first, and not left to the condition: a batch of which any row is in place counts as made.
		rows, err := s.rows(ctx, group, keys...)
		if err != nil {
			return nil, err
		}
		there := slices.IndexFunc(rows, func(r Row) bool { return r.Key == credentialKey })
		if there >= 0 {
			made = false
			s.compare(c, rows, rows[there], out)
			return nil, nil
		}
		b := &Batch{
			Group: group, Conditions: []Condition{{Key: credentialKey}}, DeleteGroup: true,
			List: &Listing{Name: c.Name, Incarnation: c.Incarnation}, Tell: noteMoved, Keep: true,
		}
		b.Puts, ended, err = s.imports(c)
		return b, err
	})
	unconfirmed := errors.Is(err, ErrUnconfirmed)
	if err != nil && !unconfirmed {
		return err
	}
	if made {
		out.Made++
		out.Ended += ended
	}
	if unconfirmed {
		out.Unconfirmed++
	}
	return nil
}

// imports are the rows that are still alive, sealed with the key that seals now, as all that is written.
func (s *Store) imports(c *exportedCredential) (puts []Put, ended int, err error) {
	k, err := s.sealing()
	if err != nil {
		return nil, 0, err
	}
	since := max(0, s.wall().Sub(c.ReadAt))
	for _, r := range c.Rows {
		ttl := time.Duration(0)
		if r.LeftMS > 0 {
			if ttl = time.Duration(r.LeftMS)*time.Millisecond - since; ttl <= 0 {
				if r.Kind == kindToken {
					ended++
				}
				continue
			}
		}
		value, err := s.sealedAnew(c, r, k.ID())
		if err != nil {
			return nil, 0, err
		}
		puts = append(puts, Put{Key: r.key(), Revision: Revision(r.Revision), Value: value, TTL: min(ttl, maxTTL)})
	}
	return puts, ended, nil
}

// sealedAnew is a row of an export, sealed with the key that seals now: with another it would appear behind whoever has found nothing that needs that, and retires it. It fails with
// RecordUnreadable where that was done since the export was read. What no key opens stays as it is.
func (s *Store) sealedAnew(c *exportedCredential, r exportedRow, now string) ([]byte, error) {
	with := seal.SealedWith(r.Sealed)
	if with == "" || with == now {
		return r.Sealed, nil
	}
	p := binding{key: r.key(), subject: c.Name}
	if p.key != credentialKey {
		p.incarnation = c.Incarnation.id()
	}
	anew, err := s.resealed(p, Row{Value: r.Sealed})
	if errors.Is(err, broker.RecordUnreadable) && s.keys().Opens(with) {
		return r.Sealed, nil
	}
	return anew.Value, err
}

// compare says what it means that a credential is there already.
func (s *Store) compare(c *exportedCredential, rows []Row, there Row, out *Imported) {
	name := broker.CredentialName(c.Name)
	if there.Revision == Revision(c.row(credentialKey).Revision) {
		out.There++
		for _, r := range c.Rows {
			if r.Kind == kindGrant && !slices.ContainsFunc(rows, func(t Row) bool { return t.Key == r.key() && t.Revision == Revision(r.Revision) }) {
				out.Moved = append(out.Moved, name)
				return
			}
		}
		return
	}
	why := "it was changed after the export, here or there"
	switch old, err := s.openCredential(name, there); {
	case err != nil:
		why = "here is one that cannot be read"
	case old.Incarnation != c.Incarnation.id():
		why = "here is another one of this name, created " + old.CreateTime.Format(time.RFC3339)
	}
	out.Conflicts = append(out.Conflicts, Conflict{name, why})
}
