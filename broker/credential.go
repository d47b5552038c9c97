package broker

import (
	"maps"
	"slices"
	"time"
)

// A Credential is one stored set of inputs for a provider. Holders treat it as immutable; change a Clone.
type Credential struct {
	Name CredentialName
	// Provider is the name of the definition.
	Provider string
	// Inputs are those that are not secret.
	Inputs map[string]string
	// Secrets are the secret inputs, but for seeds.
	Secrets map[string]SecretInput
	// Seeds remember, by input name, which initial refresh token was given; the token itself is in the grant.
	Seeds map[string]Seed
	// DefaultScopes and DefaultAudience are used where a caller names none.
	DefaultScopes   Scopes
	DefaultAudience string
	Labels          map[string]string
	Disabled        bool

	// Incarnation is drawn when the credential is created: a credential that was deleted and created again under the same
	// name is another one.
	Incarnation ID
	// Version is drawn when something changes that decides how its tokens are issued: provider, inputs, secrets, seed.
	Version ID
	// Place is drawn when it changes where its secrets and tokens are sent: its provider, or an input that makes a host. What was obtained
	// for another place is not sent to this one. Zero: it never has.
	Place ID
	// Destinations are where its secrets and tokens may go, sorted: what its definition said when it was created or moved, and what was
	// accepted since. Nil: nobody has written them down yet, as in records of before.
	Destinations []Destination
	// Epoch is drawn when all its tokens are invalidated.
	Epoch ID
	// Etag is drawn at every change.
	Etag ID
	// Revision is of the record that it was read from; the store sets it. It changes whenever anything about the credential
	// does. Ignored when it is written.
	Revision ID
	// Number counts the versions, for people.
	Number     int64
	CreateTime time.Time
	UpdateTime time.Time
	// Requests remembers the requests that changed it within the last hour by their ids, so that a repeated one has the effect of
	// one (AIP-155).
	Requests map[string]Request
}

// A Request is one that changed a credential.
type Request struct {
	At time.Time
	// Contents is a keyed hash of what it asked for; zero: not known.
	Contents ID
}

// A SecretInput is the value of a secret input, and the one before it while that is kept as a fallback.
type SecretInput struct {
	Value   Secret
	SetTime time.Time
	// Former is tried where it may be Value that the upstream refuses. Zero: none is kept.
	Former Secret
	// FormerUntil is when the former is forgotten; zero: when it is retired.
	FormerUntil time.Time
	// FormerUsedTime is the last time that the former was the one that worked.
	FormerUsedTime time.Time
}

// A Seed remembers an initial refresh token by a keyed hash.
type Seed struct {
	Hash    ID
	SetTime time.Time
}

// Clone copies deeply.
func (c Credential) Clone() Credential {
	c.Inputs, c.Secrets, c.Seeds, c.Labels = maps.Clone(c.Inputs), maps.Clone(c.Secrets), maps.Clone(c.Seeds), maps.Clone(c.Labels)
	c.Requests, c.Destinations = maps.Clone(c.Requests), slices.Clone(c.Destinations)
	return c
}

// Seeded reports whether a human gave the credential its refresh token.
func (c Credential) Seeded() bool { return len(c.Seeds) > 0 }

// FormerKept reports whether a former secret is kept as a fallback at now.
func (c Credential) FormerKept(now time.Time) bool {
	for _, s := range c.Secrets {
		if s.FormerKept(now) {
			return true
		}
	}
	return false
}

// FormerKept reports whether the former secret is kept as a fallback at now.
func (s SecretInput) FormerKept(now time.Time) bool {
	return !s.Former.IsZero() && (s.FormerUntil.IsZero() || now.Before(s.FormerUntil))
}

// SecretNames returns the names of the secret inputs that are set, seeds included, sorted.
func (c Credential) SecretNames() []string {
	names := slices.Collect(maps.Keys(c.Secrets))
	names = slices.AppendSeq(names, maps.Keys(c.Seeds))
	slices.Sort(names)
	return names
}

// WithFormer returns the credential with each secret that has a former one replaced by it.
func (c Credential) WithFormer(now time.Time) Credential {
	c = c.Clone()
	for name, s := range c.Secrets {
		if s.FormerKept(now) {
			s.Value = s.Former
			c.Secrets[name] = s
		}
	}
	return c
}
