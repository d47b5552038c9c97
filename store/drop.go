package store

import (
	"context"
	"errors"
	"slices"

	"github.com/tokenbroker/tokenbroker/broker"
)

// Drop implements broker.Store. Of a credential that is not there, nothing matches.
func (s *Store) Drop(ctx context.Context, name broker.CredentialName, m broker.Match) (broker.Dropped, error) {
	given := 0
	for _, set := range []bool{m.TokenID != "", m.Selection != nil, !m.Epoch.IsZero()} {
		if set {
			given++
		}
	}
	if given != 1 {
		return broker.Dropped{}, misused("a match that does not say exactly one thing")
	}
	var dropped broker.Dropped
	changes, err := s.drop(ctx, name, m, replacement{}, &dropped)
	if err != nil {
		return broker.Dropped{}, err
	}
	for _, c := range changes {
		s.keep(c)
	}
	return dropped, nil
}

// drop is Drop. It returns what it changed, as it is to be kept. Where back is given, it does nothing unless that is there: two processes
// that make their drops again whatever is there would go on for ever.
func (s *Store) drop(
	ctx context.Context, name broker.CredentialName, m broker.Match, back replacement, dropped *broker.Dropped,
) (changes []keptChange, err error) {
	err = s.change(ctx, func() (*Batch, error) {
		*dropped, changes = broker.Dropped{}, nil
		n, err := s.list(ctx, name, kindToken)
		if errors.Is(err, broker.NotFound) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		if back != (replacement{}) && !slices.Contains(n.replaceable(), back) {
			return nil, nil
		}
		b := n.change()
		b.batch.Tell, b.batch.Finish, b.batch.Keep = noteMoved, true, true
		switch {
		case m.TokenID != "":
			*dropped, err = b.reject(m)
		case m.Selection != nil:
			*dropped, err = b.dropSelection(*m.Selection)
		default:
			dropped.Matched = true
			dropped.Count, err = b.dropAll(m.Epoch)
		}
		if err != nil {
			return nil, err
		}
		after := b.after(b.batch)
		for _, key := range n.order {
			if n.revision(key) == after.revision(key) {
				continue
			}
			c := keptChange{name: name, match: broker.Match{TokenID: m.TokenID, Selection: m.Selection, Epoch: m.Epoch}, place: Place{n.group, key}, revision: after.revision(key)}
			var t tokenRecord
			if key == credentialKey {
				c.replaced = replacement{kindCredential, n.credential.Epoch} // of all its tokens
			} else if err := n.spare(key, &t); err == nil {
				c.replaced = replacedToken(t, n.rows[key])
			}
			changes = append(changes, c)
		}
		return b.done()
	})
	return changes, err
}

// reject marks the token that has this id, under every key that has it.
func (b *changing) reject(m broker.Match) (broker.Dropped, error) {
	var dropped broker.Dropped
	of := map[[32]byte]bool{} // selections that were dropped
	err := b.tokens(func(key Key, t tokenRecord, issued *broker.Issued) {
		dropped.Matched = dropped.Matched || t.ID == m.TokenID
		if t.ID != m.TokenID || t.Rejected {
			return
		}
		if m.Spare && b.asked.Wall.Before(issued.ReplaceAt) {
			dropped.Spared = issued.ReplaceAt
			return
		}
		t.Rejected = true
		b.write(key, t, func(p *Put) { // it ends when it would have
			if left := b.rows[key].Left; left > 0 {
				p.Ends = b.now.Add(left)
			}
		})
		of[t.SelectionID] = true
		dropped.Count++
	})
	if err != nil {
		return dropped, err
	}
	usable := map[string]bool{}
	err = b.tokens(func(_ Key, t tokenRecord, _ *broker.Issued) {
		if !t.Rejected && t.ID != m.TokenID && (len(of) == 0 || of[t.SelectionID]) {
			usable[t.ID] = true
		}
	})
	if len(usable) == 1 {
		for id := range usable {
			dropped.CurrentID = id
		}
	}
	return dropped, err
}

func (b *changing) dropSelection(selection [32]byte) (broker.Dropped, error) {
	dropped := broker.Dropped{Matched: true}
	err := b.tokens(func(key Key, t tokenRecord, _ *broker.Issued) {
		if t.SelectionID == selection {
			b.remove(key)
			dropped.Count++
		}
	})
	return dropped, err
}

func (b *changing) dropAll(epoch broker.ID) (int, error) {
	count := 0
	if err := b.tokens(func(Key, tokenRecord, *broker.Issued) { count++ }); err != nil && !errors.Is(err, broker.RecordUnreadable) {
		return 0, err
	}
	if b.credential.Epoch == epoch {
		return 0, nil
	}
	c := b.credential
	c.Epoch = epoch
	b.put(credentialKey, fromCredential(c))
	b.batch.Clear = []Kind{kindToken}
	return count, nil
}

// tokens calls f with each current token.
func (n *snapshot) tokens(f func(Key, tokenRecord, *broker.Issued)) error {
	for _, key := range n.order {
		if key.Kind != kindToken {
			continue
		}
		r, t, err := n.token(key)
		if err != nil {
			return err
		}
		if t != nil {
			f(key, r, t)
		}
	}
	return nil
}
