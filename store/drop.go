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
	// Where the answer was lost it may be done: whoever asks again is told that it is. An epoch is another one then, and of all that came until then.
	if err == nil || m.Epoch.IsZero() && broker.KindOf(err) == broker.StoreUnavailable {
		for _, c := range changes {
			s.keep(c)
		}
	}
	if err != nil {
		return broker.Dropped{}, err
	}
	return dropped, nil
}

// drop is Drop. It returns what it changed, as it is to be kept. Where back is given, it does nothing unless that is there: two processes
// that make their drops again whatever is there would go on for ever.
func (s *Store) drop(
	ctx context.Context, name broker.CredentialName, m broker.Match, back replacement, dropped *broker.Dropped,
) (changes []keptChange, err error) {
	err = s.change(ctx, func() (*Batch, error) {
		*dropped = broker.Dropped{}
		n, err := s.list(ctx, name, kindToken)
		if errors.Is(err, broker.NotFound) {
			changes = nil
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		// A try that only deletes conflicts with itself, where its answer was lost and a backend has asked again: what it left is made.
		changes = slices.DeleteFunc(changes, func(c keptChange) bool { return m.Selection == nil || n.revision(c.place.Key) != c.revision })
		made := len(changes)
		dropped.Count, dropped.Matched = made, made > 0
		if back != (replacement{}) && !slices.Contains(n.replaceable(), back) {
			return nil, nil
		}
		b := n.change()
		b.batch.Tell, b.batch.Finish, b.batch.Keep = noteMoved, true, true
		there, err := n.tokens()
		switch {
		case !m.Epoch.IsZero() && (err == nil || errors.Is(err, broker.RecordUnreadable)): // what cannot be read goes too
			*dropped = broker.Dropped{Matched: true, Count: b.dropAll(m.Epoch, len(there))}
		case err != nil:
			return nil, err
		case m.Selection != nil:
			*dropped = b.dropSelection(*m.Selection, there)
			dropped.Count += made
		default:
			*dropped = b.reject(m, there)
		}
		after := b.after(b.batch)
		changed := func(key Key, replaced replacement) {
			if n.revision(key) != after.revision(key) {
				match := broker.Match{TokenID: m.TokenID, Selection: m.Selection, Epoch: m.Epoch}
				changes = append(changes, keptChange{name: name, match: match, replaced: replaced, place: Place{n.group, key}, revision: after.revision(key)})
			}
		}
		dropped.Looked = len(n.order)
		batch, err := b.done()
		if batch != nil && m.Before != nil {
			err = m.Before(n.credential)
		}
		if err != nil {
			return nil, err
		}
		changed(credentialKey, replacement{kindCredential, n.credential.Epoch}) // of all its tokens
		for _, t := range there {
			changed(t.key, replacedToken(t.record, n.rows[t.key]))
		}
		return batch, nil
	})
	return changes, err
}

// reject marks the token that has this id, under every key that has it; or spares it under each where one of them is to be spared: it is one token.
func (b *changing) reject(m broker.Match, there []currentToken) broker.Dropped {
	var dropped broker.Dropped
	var marks []currentToken
	for _, t := range there {
		if t.record.ID != m.TokenID {
			continue
		}
		dropped.Matched = true
		if !t.record.Rejected {
			marks = append(marks, t)
			if m.Spare && b.asked.Wall.Before(t.issued.ReplaceAt) && dropped.Spared.Before(t.issued.ReplaceAt) {
				dropped.Spared = t.issued.ReplaceAt
			}
		}
	}
	if !dropped.Spared.IsZero() {
		marks = nil
	}
	of := map[hash]bool{} // selections that are dropped
	for _, t := range marks {
		of[t.record.SelectionID] = true
		t.record.Rejected = true
		b.write(t.key, t.record, func(p *Put) { // it ends when it would have
			if left := b.rows[t.key].Left; left > 0 {
				b.until(p, b.now.Add(left))
			}
		})
	}
	dropped.Count = len(marks)
	usable := map[string]bool{}
	for _, t := range there {
		if !t.record.Rejected && t.record.ID != m.TokenID && (len(of) == 0 || of[t.record.SelectionID]) {
			usable[t.record.ID] = true
		}
	}
	if len(usable) == 1 {
		for id := range usable {
			dropped.CurrentID = id
		}
	}
	return dropped
}

func (b *changing) dropSelection(selection [32]byte, there []currentToken) broker.Dropped {
	dropped := broker.Dropped{Matched: true}
	for _, t := range there {
		if t.record.SelectionID == selection {
			b.remove(t.key)
			dropped.Count++
		}
	}
	return dropped
}

// dropAll returns how many are dropped of so many.
func (b *changing) dropAll(epoch broker.ID, there int) int {
	if b.credential.Epoch == epoch {
		return 0
	}
	c := b.credential
	c.Epoch = epoch
	b.put(credentialKey, fromCredential(c))
	b.batch.Clear = []Kind{kindToken}
	return there
}

// A currentToken is a token as it lies in a row, and as it is by this process's clock.
type currentToken struct {
	key    Key
	record tokenRecord
	issued *broker.Issued
}

// tokens are the current ones; those before the one that cannot be read where it fails.
func (n *snapshot) tokens() (all []currentToken, err error) {
	for _, key := range n.order {
		if key.Kind != kindToken {
			continue
		}
		r, t, err := n.token(key)
		if err != nil {
			return all, err
		}
		if t != nil {
			all = append(all, currentToken{key, r, t})
		}
	}
	return all, nil
}
