package broker

import (
	"context"
	"time"
)

// Store keeps credentials, grants, tokens, leases and failures, sealed. All of one credential is read and changed
// consistently. Every method may fail with StoreUnavailable (nothing may be concluded) or RecordUnreadable; other failures
// are named at the method. A method whose answer was lost may be called again with the same arguments and the same effect.
// Safe for concurrent use.
type Store interface {
	Tokens
	Credentials
}

// Tokens is what exchanges are decided by, and what they bring.
type Tokens interface {
	// Read returns everything that decides about one token, as of one moment, and what is known of the upstream. What a failover
	// has undone, and this process still has, is put in place again before. NotFound.
	Read(ctx context.Context, key TokenKey, upstream string) (View, error)
	// Drop deletes tokens as the match says; nothing that matches is no failure.
	Drop(ctx context.Context, name CredentialName, m Match) (Dropped, error)
	// SaveBackoff replaces what is known of an upstream; the zero Backoff deletes.
	SaveBackoff(ctx context.Context, upstream string, b Backoff) error

	// Shared reports whether other brokers change what is stored, so that what was read is no longer true after a while.
	Shared() bool
	// Unchanged says of each mark whether credential and token are still those that it was given with, as of some moment during
	// the call. Marks may be many. It fails if nothing can be said of any.
	Unchanged(ctx context.Context, marks []Mark) ([]Verdict, error)
	// Watch calls f, one call at a time, with what other brokers change, until ctx ends. Only where the store is shared.
	Watch(ctx context.Context, f func(Notice))

	// Fingerprint is a keyed hash that only holders of the store's key can compute, the same for ever: for ids of tokens, of
	// seeds, and of keys that hold parameters. purpose keeps the uses apart.
	Fingerprint(purpose string, parts ...string) [32]byte
}

// Credentials is what operators write and read.
type Credentials interface {
	// CreateCredential stores a new credential, and its seed as the credential's grant where one is given. AlreadyExists.
	CreateCredential(ctx context.Context, c Credential, seed *Grant) error
	// Credential reads one. NotFound.
	Credential(ctx context.Context, name CredentialName) (Credential, error)
	// SaveCredential replaces the credential whose Etag is etag, and its grant where seed is given; otherwise its grants are
	// kept, unless its Place is another: then they end, also those that exchanges under way bring. EtagMismatch, NotFound.
	SaveCredential(ctx context.Context, etag ID, c Credential, seed *Grant) error
	// DeleteCredential deletes the credential and everything of it, if its Etag is etag or etag is zero. EtagMismatch,
	// NotFound.
	DeleteCredential(ctx context.Context, name CredentialName, etag ID) error
	// Credentials returns up to limit credentials whose names come after the given one, by name.
	Credentials(ctx context.Context, after CredentialName, limit int) ([]Credential, error)
	// Statuses returns what is known of how each of these credentials is doing, and its tokens, in one question; why there is none of one
	// of them is in its Err. It fails if nothing can be said of any.
	Statuses(ctx context.Context, names []CredentialName) ([]Status, error)
}

// A conflict is not a failure of anybody: it says that what was read has changed.
type conflict struct{}

func (conflict) Error() string { return "changed meanwhile: look again" }

// ErrConflict is what a Store's Acquire fails with when the view is no longer what is stored, or somebody holds the lease.
var ErrConflict error = conflict{}

// A TokenKey names one token of a credential by everything that changes the answer. Credential version and epoch are in
// the stored token and compared on reading. Comparable.
type TokenKey struct {
	Credential CredentialName
	// Token is the fingerprint of the selection and the definition's digest.
	Token [32]byte
	// Selection is the fingerprint of the selection alone.
	Selection [32]byte
	// Grant is Selection where an obtain brings the refresh token, zero for the credential's own, that a human gave.
	Grant [32]byte
	// Digest is the definition's, by which failures of the credential are told apart.
	Digest string
	// Spends: an exchange for this key may present a refresh token, so that its lease is the grant's.
	Spends bool
}

// A Mark tells whether a credential and one of its tokens are still what was read. Where no token was stored, it says that
// there still is none. Comparable; the zero Mark is of nothing that was read, and never unchanged.
type Mark struct {
	Credential CredentialName
	// Token is that of the TokenKey.
	Token [32]byte
	// CredentialRevision is Credential.Revision. TokenRevision is of the stored token; zero: there was none.
	CredentialRevision, TokenRevision ID
}

// A Verdict says what has become of what a Mark was given with.
type Verdict int

// The verdicts.
const (
	// Unknown: the part of the store that has it is away.
	Unknown Verdict = iota
	Same
	Changed
)

// A Notice is what another broker did.
type Notice struct {
	// Credential is whose; empty: anybody's, because changes may have been missed.
	Credential CredentialName
	// Moved: what was read before is no longer true. Otherwise an exchange has ended, or a lease.
	Moved bool
}

// A View is what is stored about one token, as of one moment. A record of another incarnation, version, epoch or digest,
// and one that has expired, is absent.
type View struct {
	Credential Credential
	// Grant is the zero Grant where there is none.
	Grant Grant
	// Token is nil where there is none.
	Token *Issued
	// KeyFailure is of this key, CredentialFailure of this credential version and definition; nil: none.
	KeyFailure, CredentialFailure *Remembered
	// LeaseLeft is how long somebody holds the lease; 0: nobody does.
	LeaseLeft time.Duration
	// FormerWorked: the last exchange that worked used the former secret.
	FormerWorked bool
	// Upstream is what is known of the upstream that Read was asked about. UpstreamUnknown: that could not be read, because
	// another part of the store has it, which is away.
	Upstream        Backoff
	UpstreamUnknown bool
	// Mark is of Credential and Token.
	Mark Mark
	// Lessor gives the lease that the key needs, as of this view; nil in the zero View, which nobody has read.
	Lessor
}

// A Lessor gives leases on what was read. Safe for concurrent use.
type Lessor interface {
	// Acquire takes a lease for ttl, if nothing of the view has changed meanwhile and nobody holds one; with spend it marks the view's
	// grant as being presented, in the same step. ErrConflict: look again. Where nobody knows whether the lease was taken, it is returned
	// beside the failure: nothing must be sent, and whoever does not release it has others wait until it ends.
	Acquire(ctx context.Context, ttl time.Duration, spend bool) (Lease, error)
}

// A Lease is the right to one exchange. It expires by itself and is never renewed. What it does may be repeated where its answer was
// lost. Safe for concurrent use.
type Lease interface {
	// Commit stores what an exchange brought, in one step. The grant is stored if credential incarnation and grant
	// generation are those of the lease, also where the lease ran out. The token is if incarnation, version and epoch are, and the
	// grant was stored along with it or the lease is still held: whoever was held up replaces nothing that came meanwhile. It clears
	// failures and marker, and releases the lease if it is still held.
	Commit(ctx context.Context, o Outcome) (Committed, error)
	// Fail records why an exchange failed and releases the lease, in one step and under Commit's conditions; what no longer
	// applies is not recorded.
	Fail(ctx context.Context, r FailureRecord) error
	// Release gives the lease back: nothing was sent.
	Release(ctx context.Context) error
}

// A Grant is a refresh token and what is known of it. The zero Grant is none.
type Grant struct {
	// Generation is new with every commit of the grant.
	Generation   ID
	RefreshToken Secret
	// Held are the values that came with it, by name.
	Held map[string]HeldValue
	// GivenAt is when the first of its line was given, UsedAt when this one was last presented. Both are for people: they are by
	// the clock of whichever broker wrote them.
	GivenAt, UsedAt time.Time
	// UsedFor is how long ago that was, by the store's clock or this process's, whichever says longer; 0: not known.
	UsedFor time.Duration
	// Marker is the owner of the exchange that is presenting it, or was when it was last heard of; zero: nobody.
	Marker ID
	// Uncertain: it was presented and the answer was lost; it may be spent.
	Uncertain bool
	// Refused is set when the upstream refused it, and RefusedBy is the digest of the definition that it was presented by; empty: not
	// known. See RefusedFor.
	Refused   *Remembered
	RefusedBy string
}

// A HeldValue is a value of an answer that is kept beside a refresh token, for a refresh that names it.
type HeldValue struct {
	Value Secret
	// TakenBy says how it was taken: an Answer's TakenBy. A definition that takes something else by the same name gets nothing of it. Empty: a
	// broker of a former version kept it, which did not say.
	TakenBy string
}

// RefusedFor is why it is not to be presented now by a definition of this digest: it was refused. Another definition may have mended what
// was wrong with the request, and presents it again after a while: brokers of two definitions are not to take turns at it. nil: it may be.
func (g Grant) RefusedFor(digest string, now time.Time) *Remembered {
	if g.Refused != nil && g.RefusedBy != "" && g.RefusedBy != digest && !now.Before(g.Refused.RetryAt) {
		return nil
	}
	return g.Refused
}

// None reports whether there is no grant.
func (g Grant) None() bool { return g.RefreshToken.IsZero() }

// MayBeSpent reports whether the refresh token may have been spent already.
func (g Grant) MayBeSpent() bool { return g.Uncertain || !g.Marker.IsZero() }

// An Outcome is what a successful exchange brought.
type Outcome struct {
	// Token is nil where only the grant is to be kept. Its times are by the wall clock as it is when the outcome is given to the store.
	Token *Issued
	// Failure is why there is no token that anybody could use, remembered for the key; nil: nothing is.
	Failure *Remembered
	// RefreshToken replaces the grant's; zero: the grant is kept as it is, unless DropGrant.
	RefreshToken Secret
	// DropGrant: the token was obtained without the grant, and what is stored must not be presented again.
	DropGrant bool
	// Held goes with the grant.
	Held     map[string]HeldValue
	Attempts []Attempt
	// UsedFormer: the former secret was the one that worked.
	UsedFormer bool
	Now        time.Time
}

// Committed says what of an Outcome was stored.
type Committed struct {
	Token, Grant bool
	// Mark is of the token; zero where it was not stored.
	Mark Mark
}

// A FailureRecord is what a failed exchange leaves behind.
type FailureRecord struct {
	// Level says where Failure belongs: a key's, the credential's, the grant's. LevelUpstream and LevelRateLimited leave nothing here but
	// the attempts; their backoff is the upstream's.
	Level   Level
	Failure Remembered
	// Uncertain: the refresh token was presented and the answer was lost.
	Uncertain bool
	// Presented: the refresh token was presented; with neither Uncertain nor a refusal it is known not to be spent.
	Presented bool
	Attempts  []Attempt
	Now       time.Time
}

// Remembered is a failure that is shared with whoever asks next.
type Remembered struct {
	Kind           Kind
	At             time.Time
	RetryAt        time.Time
	Count          int
	UpstreamStatus int
	UpstreamError  string
	// Detail is that of the UpstreamError.
	Detail string
}

// Shared is the failure that whoever asks for a credential's token gets while it is remembered.
func (r *Remembered) Shared(name CredentialName, provider string) *Failure {
	return &Failure{
		Kind: r.Kind, Credential: name, Provider: provider, RetryAt: r.RetryAt,
		UpstreamStatus: r.UpstreamStatus, UpstreamError: r.UpstreamError, Detail: r.Detail,
	}
}

// A Match says which tokens to drop. Exactly one of TokenID, Selection and Epoch is set.
type Match struct {
	// TokenID marks the token that has this id as Rejected, if it is a current one and not marked already. It is kept so that
	// an upstream that hands out the same token again is recognised.
	TokenID string
	// Spare: a token of that id stays as it is, under every key that has it, until the last Issued.ReplaceAt of these.
	Spare bool
	// Selection drops the tokens of exactly this selection.
	Selection *[32]byte
	// Epoch drops all: it becomes the credential's epoch.
	Epoch ID
	// Before is called with the credential as it is, once something is found that is to be dropped, and before it is: where it fails, nothing is, and Drop fails
	// with that. It may be called again, for what has changed meanwhile. Nil: nobody is asked.
	Before func(Credential) error
}

// Dropped says what was dropped.
type Dropped struct {
	Count int
	// Matched: what was named is there, or was: it may have been dropped before, or be obtained just now. Otherwise a token id was named that
	// nothing has.
	Matched bool
	// Spared is until when what was named stays, as Match.Spare says; zero: it does not.
	Spared time.Time
	// Looked is how many tokens were read for it.
	Looked int
	// CurrentID is the id of a token that can be used, of the selections that were dropped or, for a token id that matched
	// none, of the only one that there is; empty: there is none, or several.
	CurrentID string
}

// Status is how a credential is doing.
type Status struct {
	Credential  Credential
	Grants      []Grant
	Tokens      []Issued
	Failure     *Remembered
	LastSuccess time.Time
	// FormerWorked: the last exchange that worked used the former secret.
	FormerWorked bool
	// Attempts are the last 20, the newest first.
	Attempts []Attempt
	// Err is why nothing is known of it: NotFound, RecordUnreadable, StoreUnavailable; nil: it is known.
	Err error
}

// Backoff is what all replicas know of an upstream that fails.
type Backoff struct {
	Failures int
	Until    time.Time
	Last     Remembered
}
