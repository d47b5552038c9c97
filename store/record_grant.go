package store

import (
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// grantRecord is a broker.Grant.
type grantRecord struct {
	Generation   id                `json:"generation"`
	Predecessor  id                `json:"predecessor,omitzero"`
	RefreshToken secret            `json:"refresh_token"`
	Held         map[string]secret `json:"held,omitzero"`
	// TakenBy is that of each held value; of one that is not in it a former version said nothing.
	TakenBy map[string]string `json:"taken_by,omitzero"`
	GivenAt instant           `json:"given_at,omitzero"`
	UsedAt  instant           `json:"used_at,omitzero"`
	Marker  id                `json:"marker,omitzero"`
	// MarkedAt is when Marker was set. It becomes UsedAt when it is known, or possible, that the token was presented then.
	MarkedAt instant `json:"marked_at,omitzero"`
	// Used and Marked are UsedAt and MarkedAt by the backend's clock.
	Used      stored            `json:"used,omitzero"`
	Marked    stored            `json:"marked,omitzero"`
	Uncertain bool              `json:"uncertain,omitzero"`
	Refused   *rememberedRecord `json:"refused,omitzero"`
	RefusedBy string            `json:"refused_by,omitzero"`
}

// freshGrant is a grant that begins a line: it has a generation of its own and was never presented.
func freshGrant(seed broker.Grant) grantRecord {
	r := grantRecord{Generation: id(broker.NewID()), RefreshToken: reveal(seed.RefreshToken), GivenAt: at(seed.GivenAt)}
	r.hold(seed.Held)
	return r
}

func (n *snapshot) grant(r grantRecord) broker.Grant {
	g := broker.Grant{
		Generation: r.Generation.id(), RefreshToken: r.RefreshToken.secret(), Held: r.held(),
		GivenAt: r.GivenAt.time(), UsedAt: r.UsedAt.time(), Marker: r.Marker.id(), Uncertain: r.Uncertain,
		Refused: n.recall(r.Refused), RefusedBy: r.RefusedBy,
	}
	used := r.Used
	if !g.Marker.IsZero() && !g.Uncertain {
		g.UsedAt, used = r.MarkedAt.time(), r.Marked
	}
	if used == 0 {
		return g
	}
	d := n.now.Sub(used.time())
	if d <= -clockBehind { // a clock that went back knows nothing
		return g
	}
	if g.UsedFor = max(d, time.Nanosecond); !g.UsedAt.IsZero() { // a master's clock may be behind that of the one before it
		g.UsedFor = max(g.UsedFor, n.asked.Wall.Sub(g.UsedAt))
	}
	return g
}

// hold keeps values beside the refresh token.
func (r *grantRecord) hold(values map[string]broker.HeldValue) {
	r.Held = mapped(values, func(v broker.HeldValue) secret { return reveal(v.Value) })
	r.TakenBy = mapped(values, func(v broker.HeldValue) string { return v.TakenBy })
}

func (r *grantRecord) held() map[string]broker.HeldValue {
	all := mapped(r.Held, func(s secret) broker.HeldValue { return broker.HeldValue{Value: s.secret()} })
	for name, v := range all {
		v.TakenBy = r.TakenBy[name]
		all[name] = v
	}
	return all
}

// present marks the grant as being presented by owner. A marker that somebody else left is a presentation whose answer was
// lost, and stays one whatever becomes of this one. UsedAt is then the first of the presentations that are in doubt: an
// upstream that allows a second use for a while counts from the first.
func (r *grantRecord) present(owner broker.ID, wall, stored time.Time) {
	if !r.Marker.IsZero() && r.Marker.id() != owner {
		if !r.Uncertain {
			r.UsedAt, r.Used = r.MarkedAt, r.Marked
		}
		r.Uncertain = true
	}
	r.Marker, r.MarkedAt, r.Marked = id(owner), at(wall), storedAt(stored)
}

// unmark takes the marker away if it is the owner's. presented: the refresh token was sent.
func (r *grantRecord) unmark(owner broker.ID, presented bool) {
	if r.Marker.id() != owner {
		return
	}
	if presented && !r.Uncertain {
		r.UsedAt, r.Used = r.MarkedAt, r.Marked
	}
	r.Marker, r.MarkedAt, r.Marked = id{}, instant{}, 0
}

// leaseRecord is who holds a lease, and for what.
type leaseRecord struct {
	Owner      id   `json:"owner"`
	Version    id   `json:"version"`
	Epoch      id   `json:"epoch"`
	Generation id   `json:"generation,omitzero"`
	Spends     bool `json:"spends,omitzero"`
}

func fromLease(l *lease) leaseRecord {
	return leaseRecord{
		Owner: id(l.owner), Version: id(l.version), Epoch: id(l.epoch), Generation: id(l.generation), Spends: l.spends,
	}
}

// counts reports whether the lease stands in the way of an exchange for the key. One on a key whose token would be void
// by now does not.
func (r leaseRecord) counts(key broker.TokenKey, c broker.Credential) bool {
	return key.Spends || (r.Version.id() == c.Version && r.Epoch.id() == c.Epoch)
}
