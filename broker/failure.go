package broker

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// A Kind is a failure that a caller can act on. It is itself an error, and a Failure matches its Kind by errors.Is. The
// text is for people and says what to do; transports have their own table from Kind to status and reason.
type Kind int

// The kinds. Their order is not significant and they are never stored by number.
const (
	// Internal is the zero value: a bug of ours, or a panic that was recovered.
	Internal Kind = iota
	RequestInvalid
	ParameterNotDeclared
	ParameterRequired
	ScopeRefused
	TargetRefused
	// CallerUnauthenticated: nothing proves who is calling, or what did has ended.
	CallerUnauthenticated
	CallerNotAllowed
	NotFound
	AlreadyExists
	EtagMismatch
	CredentialMisconfigured
	CredentialIncomplete
	CredentialDisabled
	CredentialHeld
	ProviderInvalid
	ReauthorizationRequired
	SecretsRequired
	UpstreamRateLimited
	// TooManyTokens is in the contract, and brokers of a former version say it.
	TooManyTokens
	// CallerLimited: this caller asks for more than its share.
	CallerLimited
	UpstreamUnavailable
	UpstreamResponseInvalid
	// FreshTokensRejected: the upstream issues tokens, and its API takes none of them.
	FreshTokensRejected
	RefreshUncertain
	StoreUnavailable
	// IssuerUnavailable: the keys of the issuer of the caller's token are not there, so that nobody can say whose token it is.
	IssuerUnavailable
	// AuditUnavailable: the audit log cannot be written, so that nothing may be changed.
	AuditUnavailable
	ShuttingDown
	UpstreamSlow
	RecordUnreadable
	// DeadlinePassed: a watch has reached the deadline that its caller gave it.
	DeadlinePassed
	// Canceled: the caller gave up. Whatever it waited for goes on.
	Canceled
	kinds // their number
)

// kindTexts has each kind's stable name and its text for people.
var kindTexts = [kinds]struct{ name, text string }{
	Internal:                {"internal", "internal error of the broker; its log has more"},
	RequestInvalid:          {"request_invalid", "the request is invalid"},
	ParameterNotDeclared:    {"parameter_not_declared", "the request sets something that the provider's definition does not use"},
	ParameterRequired:       {"parameter_required", "the provider's definition requires a parameter that the request does not give"},
	ScopeRefused:            {"scope_refused", "the upstream refuses these scopes for this credential: ask for others"},
	TargetRefused:           {"target_refused", "the upstream refuses this audience or resource: ask for another"},
	CallerUnauthenticated:   {"caller_unauthenticated", "nothing proves who is calling, or what did has ended: come with a certificate or a token that counts here"},
	CallerNotAllowed:        {"caller_not_allowed", "not allowed, or there is no such credential"},
	NotFound:                {"not_found", "not found"},
	AlreadyExists:           {"already_exists", "it exists already: change it with `credential update`"},
	EtagMismatch:            {"etag_mismatch", "it was changed meanwhile: read it again, then repeat the change"},
	CredentialMisconfigured: {"credential_misconfigured", "the upstream refuses this client: check the credential's inputs and set its secret again"},
	CredentialIncomplete:    {"credential_incomplete", "the provider's definition wants an input that the credential does not have: update the credential"},
	CredentialDisabled:      {"credential_disabled", "the credential is disabled: `credential update --enable` lets its tokens be issued again"},
	CredentialHeld:          {"credential_held", "the provider's definition has changed where the credential's secrets and tokens go, or what is sent, taken and shown there, and nobody has accepted that: look at the file and `credential get`, then run `credential accept`"},
	ProviderInvalid:         {"provider_invalid", "the credential's provider definition is missing or does not load"},
	ReauthorizationRequired: {"reauthorization_required", "the upstream refuses the refresh token: give the credential a new one"},
	SecretsRequired:         {"secrets_required", "this change sends secrets to another place: give every secret again in the same call; what was obtained at the former place ends"},
	UpstreamRateLimited:     {"upstream_rate_limited", "the upstream asks to slow down"},
	TooManyTokens:           {"too_many_tokens", "the credential has too many different tokens: ask with fewer combinations of scopes, audience and parameters"},
	CallerLimited:           {"caller_limited", "this caller asks for more than its share"},
	UpstreamUnavailable:     {"upstream_unavailable", "the upstream cannot be reached or fails"},
	UpstreamResponseInvalid: {"upstream_response_invalid", "the upstream's answer does not match the provider's definition"},
	FreshTokensRejected:     {"fresh_tokens_rejected", "the API refuses fresh tokens of this credential, one after the other: look at its answer; another token is not asked for yet"},
	RefreshUncertain:        {"refresh_uncertain", "the answer to a refresh was lost: the broker is finding out whether it took effect"},
	StoreUnavailable:        {"store_unavailable", "the broker's store cannot be reached"},
	IssuerUnavailable:       {"issuer_unavailable", "the keys of whoever issued the caller's token cannot be fetched, so that nobody can say whose it is"},
	AuditUnavailable:        {"audit_unavailable", "the broker's audit log cannot be written, and nothing is changed, or handed out, that is not in it"},
	ShuttingDown:            {"shutting_down", "this broker is shutting down: ask another"},
	UpstreamSlow:            {"upstream_slow", "the upstream has not answered yet; the exchange goes on: ask again"},
	RecordUnreadable:        {"record_unreadable", "a stored record cannot be decrypted, or is in the wrong place"},
	DeadlinePassed:          {"deadline_passed", "the call has reached its deadline: begin another"},
	Canceled:                {"canceled", "the caller gave up"},
}

// Kinds returns every kind, for tables that must be complete.
func Kinds() []Kind {
	all := make([]Kind, 0, kinds)
	for k := range kinds {
		all = append(all, k)
	}
	return all
}

// Name is the kind's stable name in snake case, as in records, logs and metrics.
func (k Kind) Name() string {
	if k < 0 || k >= kinds {
		return "internal"
	}
	return kindTexts[k].name
}

// KindNamed is the inverse of Name; Internal for a name that nobody has.
func KindNamed(name string) Kind {
	for k := range kinds {
		if kindTexts[k].name == name {
			return k
		}
	}
	return Internal
}

// Error implements error.
func (k Kind) Error() string {
	if k < 0 || k >= kinds {
		k = Internal
	}
	return kindTexts[k].text
}

// Passes reports whether such a failure may pass without anybody's changing something.
func (k Kind) Passes() bool {
	switch k {
	case UpstreamRateLimited, UpstreamUnavailable, UpstreamResponseInvalid, FreshTokensRejected, RefreshUncertain, StoreUnavailable, IssuerUnavailable, AuditUnavailable, UpstreamSlow, CallerLimited:
		return true
	default:
		return false
	}
}

// A Failure is what every operation of the Broker fails with. It names what a caller can act on: no upstream text, nothing
// foreign wrapped. Treat it as immutable: waiters share one.
type Failure struct {
	Kind       Kind
	Credential CredentialName
	Provider   string
	// RetryAt is when asking again may help; zero where it does not help before somebody changes something.
	RetryAt time.Time
	// UpstreamStatus is the HTTP status that the upstream answered with; 0: none.
	UpstreamStatus int
	// UpstreamError is the error code that the upstream answered with, if OAuth, OpenID Connect or the definition's rules know it; empty: none.
	UpstreamError string
	Violations    []Violation
	// Detail is a sentence of our own that adds to the kind's text; empty: none. It holds nothing from an upstream.
	Detail string
	// For is whom it was asked for, where another has called; nil: whoever called.
	For *Caller
}

// Error implements error: the summary, and every violation behind it.
func (f *Failure) Error() string {
	var b strings.Builder
	b.WriteString(f.Summary())
	for _, v := range f.Violations {
		fmt.Fprintf(&b, "; %s: %s", v.Field, v.Description)
	}
	return b.String()
}

// Summary is the failure in a sentence, without the violations, for whoever shows those apart.
func (f *Failure) Summary() string {
	var b strings.Builder
	if f.Credential != "" {
		fmt.Fprintf(&b, "credential %s: ", f.Credential)
	}
	switch {
	case f.unsent():
		b.WriteString(f.Detail + ": mend the credential's inputs, or the definition")
	case f.Kind == CredentialMisconfigured && !f.MayBeSecret():
		b.WriteString("the upstream refuses the request that is made for this credential")
		if f.Detail != "" {
			b.WriteString(": " + f.Detail)
		}
	case f.Detail != "":
		b.WriteString(f.Kind.Error() + ": " + f.Detail)
	default:
		b.WriteString(f.Kind.Error())
	}
	if f.UpstreamStatus != 0 {
		fmt.Fprintf(&b, " (upstream status %d", f.UpstreamStatus)
		if f.UpstreamError != "" {
			b.WriteString(", " + f.UpstreamError)
		}
		b.WriteString(")")
	}
	return b.String()
}

// unsent: no upstream has refused anything, for none has answered; the detail says why.
func (f *Failure) unsent() bool {
	refused := f.Kind == CredentialMisconfigured || f.Kind == ReauthorizationRequired
	return refused && f.UpstreamStatus == 0 && f.Detail != ""
}

// MayBeSecret reports whether another secret or input may mend what the upstream refused. A refused scope, a body of the wrong kind or an address at
// which there is nothing is no matter of who asks (RFC 6749 section 5.2, RFC 8707 section 2, RFC 9110 section 15).
func (f *Failure) MayBeSecret() bool {
	switch f.UpstreamError {
	case "invalid_scope", "invalid_target", "unsupported_grant_type":
		return false
	case "invalid_request":
		return f.UpstreamStatus == 401
	case "":
	default:
		return true
	}
	switch s := f.UpstreamStatus; {
	case s >= 300 && s < 400, s == 404, s == 405, s == 410, s == 415:
		return false
	}
	return true
}

// Is matches the failure's Kind.
func (f *Failure) Is(target error) bool {
	k, ok := target.(Kind)
	return ok && k == f.Kind
}

// KindOf returns the Kind in err's tree; Internal where there is none.
func KindOf(err error) Kind {
	if err == nil {
		return Internal // without the allocations of errors.As: each hit asks
	}
	var f *Failure
	if errors.As(err, &f) {
		return f.Kind
	}
	var k Kind
	if errors.As(err, &k) {
		return k
	}
	return Internal
}
