package store

import (
	"context"

	"github.com/tokenbroker/tokenbroker/broker"
)

// mendMost is how often it is read again although nothing could be put in place: that must not keep others waiting.
const mendMost = 3

// Read implements broker.Tokens, in one round trip.
func (s *Store) Read(ctx context.Context, key broker.TokenKey, upstream string) (broker.View, error) {
	var backoff Reading
	n, err := s.mended(ctx, func() (n *snapshot, err error) {
		n, backoff, err = s.readWith(ctx, key.Credential, upstream, flightRows(key)...)
		return n, err
	})
	if err != nil {
		return broker.View{}, err
	}
	v, err := n.view(key)
	if err == nil && upstream != "" {
		// It is advice, which nobody is to be without a token for.
		v.Upstream, v.UpstreamUnknown = s.backoff(upstream, backoff, n.asked)
	}
	return v, err
}

// readMended is read, where nothing is missing that the backend has lost and this process has.
func (s *Store) readMended(ctx context.Context, name broker.CredentialName, keys ...Key) (*snapshot, error) {
	return s.mended(ctx, func() (*snapshot, error) { return s.read(ctx, name, keys...) })
}

// mended reads until nothing is undone: this process has put it in place again, or somebody was quicker.
func (s *Store) mended(ctx context.Context, read func() (*snapshot, error)) (*snapshot, error) {
	for try := 0; ; {
		n, err := read()
		if err != nil {
			return nil, err
		}
		undone, made, err := s.mend(ctx, n)
		if err != nil {
			return nil, err
		}
		if !undone || try == mendMost {
			return n, nil
		}
		if !made { // else what it built on may show next to be undone too
			try++
		}
	}
}

// view is what the rows say about a token.
func (n *snapshot) view(key broker.TokenKey) (v broker.View, err error) {
	v = broker.View{Credential: n.credential, Mark: n.mark(key)}
	var g grantRecord
	if there, err := n.open(grantKey(key), &g); err != nil {
		return v, err
	} else if there {
		v.Grant = n.grant(g)
	}
	v.Lessor = lessor{n, key, g}
	r, t, err := n.token(tokenKey(key))
	if err != nil {
		return v, err
	}
	if !n.s.ahead(r.SentAt.time(), n.asked) { // else it is not served; a drop finds it all the same
		v.Token = t
	}
	var f failureRecord
	if there, err := n.open(failureKey(key), &f); err != nil {
		return v, err
	} else if there && f.Version.id() == n.credential.Version {
		v.KeyFailure = n.recall(&f.Failure)
	}
	var h healthRecord
	if _, err := n.open(healthKey, &h); err != nil {
		return v, err
	}
	v.CredentialFailure = n.recall(h.failure(n.credential.Version, key.Digest))
	v.FormerWorked = !h.FormerWorked.IsZero() && h.FormerWorked.id() == n.credential.Version
	held, err := n.leased(key)
	if held {
		v.LeaseLeft = n.rows[leaseKey(key)].Left
	}
	return v, err
}

// leased reports whether somebody holds a lease that stands in the way of an exchange for the key.
func (n *snapshot) leased(key broker.TokenKey) (bool, error) {
	var l leaseRecord
	there, err := n.open(leaseKey(key), &l)
	return there && err == nil && l.counts(key, n.credential), err
}

// mark is of the credential and the token as they were read.
func (n *snapshot) mark(key broker.TokenKey) broker.Mark {
	return broker.Mark{
		Credential: key.Credential, Token: key.Token,
		CredentialRevision: broker.ID(n.revision(credentialKey)), TokenRevision: broker.ID(n.revision(tokenKey(key))),
	}
}
