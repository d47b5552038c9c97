package engine

import (
	"context"
	"slices"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// A State is how a credential is doing, in a word.
type State int

// The states.
const (
	// Unused: no exchange has been tried since it was created.
	Unused State = iota
	Ready
	// Degraded: the last exchange failed, and it may help to wait.
	Degraded
	// Misconfigured: the upstream refuses the client, or an input is missing: somebody has to change something.
	Misconfigured
	// Reauthorize: the upstream refuses the refresh token.
	Reauthorize
	Disabled
	// Held: its definition goes to a place that nobody has accepted.
	Held
)

// A Report is how a credential is doing.
type Report struct {
	State State
	// Failure is what the next GetToken would meet, or that of whoever rejects the token again; nil: nothing known.
	Failure *broker.Failure
	// Advice is what to do about it; empty: nothing.
	Advice      string
	LastSuccess time.Time
	NextAttempt time.Time
	Attempts    []broker.Attempt
	Tokens      []broker.Issued
	// RefreshTokenExpires is when the refresh token ends by what the definition says; zero: unknown, or there is none.
	RefreshTokenExpires time.Time
	Credential          broker.Credential
	// Definition is the Digest of its definition as it is now; empty: there is none that loads.
	Definition string
	// Err, in an answer of CredentialStatuses, is what CredentialStatus would have failed with; nil: it is known.
	Err error
}

// CredentialStatus says how a credential is doing. It asks no upstream. NotFound.
func (b *Broker) CredentialStatus(ctx context.Context, caller *broker.Caller, name broker.CredentialName) (Report, error) {
	return allowed(ctx, b, caller, broker.ReadCredential, name, func(may permit) (Report, error) {
		all, err := b.store.Statuses(ctx, []broker.CredentialName{name})
		if err == nil {
			err = all[0].Err
		}
		if err != nil {
			return Report{}, b.storeFailure(name, err)
		}
		b.shares.owe(caller, len(all[0].Tokens)/rowsAtOnce)
		return b.report(all[0], b.clock.Now().Wall), may.on(all[0].Credential)
	})
}

// statusesAtOnce is of how many credentials the store is asked at once: each has all its tokens read.
const statusesAtOnce = 100

// CredentialStatuses is CredentialStatus of each of these, for one question to the store for a hundred of them. It fails if nothing can be said of any. Of the
// caller's share it takes what many tokens cost, and no more: it is for what a call that has taken its part brings, a page of Credentials or what was written.
func (b *Broker) CredentialStatuses(ctx context.Context, caller *broker.Caller, names []broker.CredentialName) ([]Report, error) {
	all := make([]Report, len(names))
	permits := make([]permit, len(names))
	var may []broker.CredentialName
	for i, name := range names {
		var err error
		if permits[i], err = b.permit(broker.Access{Caller: caller, Operation: broker.ReadCredential, Credential: name}); err != nil {
			all[i].Err = b.failed(ctx, permits[i].access, err)
		} else {
			may = append(may, name)
		}
	}
	if len(may) == 0 {
		return all, nil
	}
	var statuses []broker.Status
	looked := 0
	for some := range slices.Chunk(may, statusesAtOnce) {
		part, err := b.store.Statuses(ctx, some)
		if err != nil {
			return nil, b.failed(ctx, broker.Access{Caller: caller, Operation: broker.ReadCredential, Credential: some[0]}, b.storeFailure(some[0], err))
		}
		for i := range part {
			looked += len(part[i].Tokens)
		}
		statuses = append(statuses, part...)
	}
	b.shares.owe(caller, looked/rowsAtOnce)
	now := b.clock.Now().Wall
	for i, name := range names {
		if all[i].Err != nil {
			continue
		}
		s := statuses[0]
		statuses = statuses[1:]
		err := s.Err
		if err == nil {
			all[i] = b.report(s, now)
			err = permits[i].on(s.Credential)
		}
		if err != nil {
			all[i] = Report{Err: b.failed(ctx, permits[i].access, b.unseen(permits[i].access, b.storeFailure(name, err)))}
		}
	}
	return all, nil
}

func (b *Broker) report(s broker.Status, now time.Time) Report {
	r := Report{Credential: s.Credential, LastSuccess: s.LastSuccess, Attempts: s.Attempts, Tokens: s.Tokens}
	slices.SortFunc(r.Tokens, func(x, y broker.Issued) int { return x.SentAt.Compare(y.SentAt) })
	b.judge(&r, s, now)
	if r.Advice == "" {
		r.Advice = adviseAboutExpiry(r.Tokens)
	}
	if r.Advice == "" && r.State == Unused {
		r.Advice = "nobody has asked yet: `credential test` tries whether it works"
	}
	return r
}

// judge finds the state, the failure and the advice.
func (b *Broker) judge(r *Report, s broker.Status, now time.Time) {
	c := s.Credential
	def, err := b.definition(c)
	if err == nil {
		r.Definition = def.Facts().Digest
	}
	fail := func(k broker.Kind) { r.Failure = &broker.Failure{Kind: k, Credential: c.Name, Provider: c.Provider} }
	if c.Disabled {
		r.State, r.Advice = Disabled, "enable it with `credential update --enable`"
		fail(broker.CredentialDisabled)
		return
	}
	if err != nil {
		fail(broker.ProviderInvalid)
		r.State, r.Advice = Misconfigured, asFailure(err, c.Name).Detail
		return
	}
	if v := def.Check(c, nil); len(v) > 0 {
		r.State, r.Advice = Misconfigured, "give the inputs that the definition wants, with `credential update`"
		fail(broker.CredentialIncomplete)
		r.Failure.Violations = v
		return
	}
	if _, held := astray(def, c); held {
		r.State, r.Advice = Held, "look at the definition's file, and where it would go by `credential get`: if that is right, run `credential accept`"
		fail(broker.CredentialHeld)
		r.Failure.Detail = broker.News(c.Unaccepted(def.Destinations(c)))
		return
	}
	facts := def.Facts()
	if f := s.Failure; f != nil {
		r.State, r.Failure, r.NextAttempt = Misconfigured, f.Shared(c.Name, c.Provider), f.RetryAt
		r.Advice = adviseAboutRefusal(r.Failure)
		return
	}
	for _, g := range s.Grants {
		switch {
		case g.RefusedFor(facts.Digest, now) != nil && !facts.Obtains:
			r.State = Reauthorize
			fail(broker.ReauthorizationRequired)
			r.Advice = "give it a new refresh token: `credential update` with the seed's secret"
			return
		case g.MayBeSpent() && !facts.Obtains:
			r.State = Degraded
			fail(broker.RefreshUncertain)
			r.Advice = "wait: the refresh token is presented once more when the access token has expired"
		case facts.RefreshTokenIdle > 0 || facts.RefreshTokenAbsolute > 0:
			r.RefreshTokenExpires = expires(g, facts)
		}
	}
	if r.State == Unused && (len(s.Attempts) > 0 || !s.LastSuccess.IsZero()) { // a token that is computed here takes no attempt
		r.State = Ready
		if last := lastOfItsOwn(s); last.Reason != "" {
			r.lastFailed(c, last)
			if t, err := b.aim(lookup{name: c.Name}, c); err == nil && r.State == Degraded {
				r.NextAttempt = b.gates.LeftAlone(t.upstream)
			}
		}
	}
	for _, t := range r.Tokens {
		if r.State != Ready || !keeps(&t, now) {
			continue
		}
		r.State, r.NextAttempt = Degraded, t.ReplaceAt
		r.Advice = "callers reject one fresh token after the other: look at the API's answer, the account's rights, the address that is called, how the token is presented"
		r.Failure = refusesFresh(c, &t)
	}
	if s.FormerWorked && r.Advice == "" {
		r.Advice = "the former secret is the one that works: set the new one in the upstream, or rotate again"
	}
	if !s.FormerWorked && r.Advice == "" && c.FormerKept(now) && r.State == Ready {
		r.Advice = "the former secret is no longer used: forget it with `credential retire-secret`"
	}
}

// lastOfItsOwn is the last request that says how the credential is doing; the zero Attempt: none does. That what a caller chose was refused says so
// only while nothing has worked: whoever asks for something else is served.
func lastOfItsOwn(s broker.Status) broker.Attempt {
	for _, a := range s.Attempts {
		switch broker.KindNamed(a.Reason) {
		case broker.ScopeRefused, broker.TargetRefused, broker.RequestInvalid:
			if !s.LastSuccess.IsZero() {
				continue
			}
		default:
		}
		return a
	}
	return broker.Attempt{}
}

// lastFailed is the state of a credential whose last exchange failed, and left nothing behind that decides: a test leaves nothing, and what is
// of one caller's choice or of the upstream is remembered elsewhere.
func (r *Report) lastFailed(c broker.Credential, last broker.Attempt) {
	kind := broker.KindNamed(last.Reason)
	r.Failure = &broker.Failure{Kind: kind, Credential: c.Name, Provider: c.Provider, UpstreamStatus: last.Status, UpstreamError: last.UpstreamError, Detail: last.Detail}
	switch kind {
	case broker.CredentialMisconfigured, broker.ReauthorizationRequired:
		if kind == broker.ReauthorizationRequired || last.Start.Before(c.UpdateTime) { // the grant says nothing of it any more
			r.State, r.Advice = Degraded, "something has changed since the upstream refused it: `credential test` tries at once"
			break
		}
		r.State, r.Advice = Misconfigured, adviseAboutRefusal(r.Failure)
	case broker.ScopeRefused, broker.TargetRefused, broker.RequestInvalid:
		r.State, r.Advice = Degraded, "ask for other scopes, audience or parameters: the upstream refused those that were asked for last"
	case broker.UpstreamRateLimited, broker.UpstreamUnavailable:
		r.State, r.Advice = Degraded, "wait: the broker asks again by itself, as soon as the upstream wants it to, and within an hour at most"
	default:
		r.State, r.Advice = Degraded, "wait: the broker asks again by itself"
	}
	if kind == broker.UpstreamUnavailable && last.Status == 0 {
		r.Advice = "if the message names something to set or to mend, do that; else wait: the broker asks again by itself"
	}
}

// adviseAboutRefusal says what mends a credential that the upstream refuses.
func adviseAboutRefusal(f *broker.Failure) string {
	switch {
	case f.MayBeSecret():
		return "check the inputs, set the secret again with `credential rotate-secret`; `credential test` tries at once"
	case f.UpstreamError == "invalid_scope":
		return "set other default scopes with `credential update --default-scope`; `credential test` tries at once"
	case f.UpstreamError == "invalid_target":
		return "set another audience with `credential update --default-audience`; `credential test` tries at once"
	}
	return "the secret is not what is refused: do what the message says; `credential test` tries at once"
}

// expires is when the refresh token ends by what the definition says.
func expires(g broker.Grant, f *broker.Facts) time.Time {
	var at time.Time
	if f.RefreshTokenIdle > 0 {
		used := g.UsedAt
		if used.IsZero() {
			used = g.GivenAt
		}
		at = used.Add(f.RefreshTokenIdle)
	}
	if f.RefreshTokenAbsolute > 0 {
		if end := g.GivenAt.Add(f.RefreshTokenAbsolute); at.IsZero() || end.Before(at) {
			at = end
		}
	}
	return at
}

// adviseAboutExpiry says when nothing tells how long the tokens live.
func adviseAboutExpiry(tokens []broker.Issued) string {
	for _, t := range tokens {
		if t.Unread != "" {
			return broker.UnreadAdvice(t.Unread)
		}
		if t.Source == broker.ExpiryUnknown {
			return "neither the upstream nor the definition says how long its tokens live: ten minutes are assumed; set `lifetime`"
		}
	}
	return ""
}
