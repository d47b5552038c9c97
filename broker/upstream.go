package broker

import (
	"context"
	"time"
)

// Upstream gives the definitions by which tokens are issued. Safe for concurrent use.
type Upstream interface {
	// Definition returns the named definition as it is now. It fails with ProviderInvalid where there is none, or where it
	// does not load; the Detail says which, and what to do.
	Definition(name string) (Definition, error)
	// Revision changes whenever any definition changes; it is asked on every hit and must cost no more than an atomic load.
	Revision() uint64
}

// A Definition says how one upstream issues tokens. It is immutable: a flight that holds one is not disturbed by a reload.
// Safe for concurrent use.
type Definition interface {
	// Facts returns what the broker decides by. The same value at every call.
	Facts() *Facts
	// Check returns everything that is wrong with the credential's inputs; nil: nothing. Violations never show a value. Of a secret that is kept only
	// whether it is there counts, for what is said of its value tells of it: given are those that were given just now.
	Check(c Credential, given []string) []Violation
	// Select applies the credential's and the definition's defaults to what the caller asked for and refuses what the
	// definition does not use (ParameterNotDeclared), misses (ParameterRequired) or forbids (RequestInvalid), and a default that the credential's inputs make
	// and the definition forbids (CredentialIncomplete).
	Select(Credential, Selection) (Selection, error)
	// Host names the upstream of this credential for limits and shared backoff: the host and port of the first request whose
	// host is known before anything is asked, also where what the caller chose makes it. Empty: nothing is asked of anybody.
	Host(Credential, Selection) string
	// Destinations are where this credential's secrets and tokens go, sorted, without repetition, never nil. Nothing is asked of anybody.
	Destinations(Credential) []Destination
	// Exchange runs the declared requests of obtain or refresh once each, in order, without any retry, bounded by ctx. It
	// fails with an *UpstreamError and nothing else. It keeps nothing of what it was given.
	Exchange(context.Context, Exchange) (Answer, error)
	// Present renders how the token is shown to the API. It fails if the definition changed so that a stored token no longer has
	// what it wants, in which case the broker fetches another, and if an answer brought what cannot be shown. The error quotes the definition only.
	Present(Credential, Selection, Issued) (Presentation, error)
}

// Facts are what the broker decides by.
type Facts struct {
	Name string
	// Digest is a hash of what decides issuance: titles, comments, order and presentation do not count.
	Digest string
	// Builtin: it came with this release. Else it is of a file, which may be in other hands than the credentials are.
	Builtin bool
	// Inputs as declared, by name.
	Inputs map[string]InputFacts
	// HostInputs are the inputs from which the host of a request is made, or the URL of an issuer that says which host it is.
	HostInputs []string
	// PlaceInputs are those, and the ones from which the host of base_url is made: where secrets and tokens are sent.
	PlaceInputs []string
	// Obtains: tokens are had without a human. Refreshes: there is a refresh run.
	Obtains, Refreshes bool
	// Reuse says what a second use of a refresh token means.
	Reuse Reuse
	// RefreshTokenIdle and RefreshTokenAbsolute bound a refresh token's life since its last use and since it was given; 0:
	// unknown.
	RefreshTokenIdle, RefreshTokenAbsolute time.Duration
	// Lifetime is how long a token lives when the answer does not tell; 0: not declared.
	Lifetime time.Duration
	// UntilRejected: nobody knows how long a token lives (`lifetime: until_rejected`).
	UntilRejected bool
	// Margin is the declared distance between refresh and expiry; 0: not declared.
	Margin time.Duration
	// RateRequests per RatePeriod is the declared limit of token requests; 0: none.
	RateRequests int
	RatePeriod   time.Duration
	// Requests is how many requests one obtain run takes.
	Requests int
	// ObtainsAlone: while the store is away, a broker may obtain a token for itself, which nobody else gets.
	ObtainsAlone bool
}

// InputFacts say how the broker has to treat an input.
type InputFacts struct {
	Secret, Optional, Seed bool
	// Was is the name that the input had before it was renamed; empty: it always had this one. Called is what a Destination calls it then.
	Was, Called string
}

// Reuse is the meaning of a second use of a refresh token. The zero value is the careful one: spent by use.
type Reuse struct {
	// Allowed: never spent.
	Allowed bool
	// Within: usable again for so long after its first use; 0: spent by use.
	Within time.Duration
}

// A Selection is what of a credential's tokens is meant: everything that a caller can choose and that changes the token.
// Comparable; the zero value asks for all defaults.
type Selection struct {
	Scopes     Scopes
	Audience   string
	Parameters Pairs
	Resources  Set
}

// Run says which of a definition's runs an exchange is.
type Run int

// The runs.
const (
	Obtain Run = iota
	Refresh
)

// String is the run's word in the definition language.
func (r Run) String() string {
	if r == Refresh {
		return "refresh"
	}
	return "obtain"
}

// An Exchange is what to run, with what.
type Exchange struct {
	Run        Run
	Credential Credential
	Selection  Selection
	// RefreshToken is what a Refresh presents.
	RefreshToken Secret
	// Held are the values that the last answer brought, for a Refresh that names them; may be nil.
	Held map[string]HeldValue
	// BeforeSend is called immediately before each request is written, with its host. When it fails nothing is sent and the
	// exchange fails with UpstreamError.Refused set. Never nil.
	BeforeSend func(host string) error
}

// An Answer is what a run brought.
type Answer struct {
	// Values are the taken ones, by name; "token" is always among them, "refresh_token" never.
	Values map[string]Secret
	// TakenBy says by name how a value was taken: where in which answer, for a HeldValue. It is nothing to read, only to compare.
	TakenBy map[string]string
	// Headers are the definition's `headers` as they were sent: handed out with the token.
	Headers []Field
	// TokenType as the upstream spelled it; empty: it did not say.
	TokenType string
	// RefreshToken is zero where the answer brings none. It is set beside the error of a Refresh too, where
	// one has come all the same, and nothing since may have spent it.
	RefreshToken Secret
	// Scopes are those that the answer says it granted; nil: it does not say.
	Scopes []string
	Expiry Expiry
	// Attempts has one entry for each request.
	Attempts []Attempt
}

// A Field is a header, cookie or query parameter.
type Field struct {
	Name  string
	Value Secret
}

// A Presentation is a token as the API wants to see it.
type Presentation struct {
	Headers, Cookies, Query []Field
	BaseURL                 string
	Attributes              map[string]string
}

// An Attempt is one request to an upstream, for the credential's status: no body, no path, no query, no value.
type Attempt struct {
	Start    time.Time
	Duration time.Duration
	Host     string
	// Status is the HTTP status; 0: no answer.
	Status int
	// UpstreamError is an error code that OAuth, OpenID Connect or the definition's rules know; else empty.
	UpstreamError string
	// Reason is the Kind's name; empty: it went well.
	Reason string
	// Detail is that of the UpstreamError; empty: none.
	Detail string
	// Taken names what was taken from the answer, but for what is there or not by its value: whoever writes a definition could have it tell of one.
	Taken []string
}

// A Level says whose failure an upstream's answer is.
type Level int

// The levels; lifecycle rules differ for each.
const (
	// LevelUpstream: unreachable, failing, or answering with something that no token service says.
	LevelUpstream Level = iota
	// LevelRateLimited: the upstream asks to slow down.
	LevelRateLimited
	// LevelResponse: it answered with success, but what the definition takes is not there. It may pass, and is this key's alone: what
	// another credential is answered may be right.
	LevelResponse
	// LevelScope and LevelTarget: what the caller chose is refused (RFC 6749 invalid_scope, RFC 8707 invalid_target).
	LevelScope
	LevelTarget
	// LevelRequest: the definition says that what the caller chose is refused.
	LevelRequest
	// LevelCredential: the client, or what it logs in with, is refused.
	LevelCredential
	// LevelGrant: the refresh token is refused.
	LevelGrant
)

// An UpstreamError is how an exchange fails. It never holds or wraps anything that an upstream or a transport wrote, but
// for an error code that OAuth, OpenID Connect or the definition's rules know.
type UpstreamError struct {
	Level Level
	// Refused: BeforeSend refused, and Unsent: for another reason the last request was not sent, such as a value that it cannot be made of. It says
	// nothing of the upstream.
	Refused, Unsent bool
	// Lost: a request was sent, and nothing that came back says whether it was processed. What it spent may be spent.
	Lost bool
	// Status and Code are the HTTP status and the OAuth error code; 0 and empty: none.
	Status int
	Code   string
	// InvalidClient: it may be the secret that is refused, so that a former one may be tried.
	InvalidClient bool
	// Mute: neither a code nor a rule says why it refuses; a proxy may have answered.
	Mute bool
	// RetryAfter is what the upstream asked for; 0: nothing. Wait is what the definition's rule says; 0: nothing.
	RetryAfter, Wait time.Duration
	// Detail is a sentence of ours, such as "the answer has no access_token"; it quotes the definition only.
	Detail   string
	Attempts []Attempt
}

// Error implements error.
func (e *UpstreamError) Error() string {
	f := Failure{Kind: e.Kind(), UpstreamStatus: e.Status, UpstreamError: e.Code, Detail: e.Detail}
	return f.Error()
}

// levelKinds are what a caller learns of each level.
var levelKinds = map[Level]Kind{
	LevelUpstream: UpstreamUnavailable, LevelRateLimited: UpstreamRateLimited, LevelResponse: UpstreamResponseInvalid, LevelScope: ScopeRefused,
	LevelTarget: TargetRefused, LevelRequest: RequestInvalid, LevelCredential: CredentialMisconfigured, LevelGrant: ReauthorizationRequired,
}

// Kind is what a caller learns.
func (e *UpstreamError) Kind() Kind { return levelKinds[e.Level] }

// Remembered is what is kept of it for whoever asks next, but for until when: the count-th in a row, that came at a moment.
func (e *UpstreamError) Remembered(at time.Time, count int) Remembered {
	return Remembered{Kind: e.Kind(), At: at, Count: count, UpstreamStatus: e.Status, UpstreamError: e.Code, Detail: e.Detail}
}
