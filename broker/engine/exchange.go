package engine

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/trace"
)

// leaseSpare is what a lease outlives the exchange's deadline by, so that a commit finds it held.
const leaseSpare = 2 * time.Second

// errLate is what a request is refused with when the lease has no time left for it.
var errLate = errors.New("too late to send")

// exchange takes the lease, asks the upstream once and commits what came of it. It leaves its place as soon as the upstream
// has answered.
func (p *pursuit) exchange(ctx context.Context, t target, run broker.Run, s seen) (*entry, error) {
	b := p.b
	deadline := b.clock.Now().At.Add(b.timeout)
	acquiring, step := trace.Begin(ctx, "acquire lease")
	lease, err := s.view.Acquire(acquiring, b.timeout+leaseSpare, run == broker.Refresh)
	step.End(err)
	if errors.Is(err, broker.ErrConflict) {
		return nil, p.pause(ctx, "await lease", lookAgain/10, s.ended, nil)
	}
	// Both times are counted from before the lease was asked for.
	end := &pending{l: p.l, lease: lease, spends: run == broker.Refresh, ends: deadline.Add(leaseSpare)}
	if err != nil {
		if lease != nil { // nobody need wait for it, or believe that the refresh token may be spent
			b.behind(ctx, end, false, 0, end.release, nil)
		}
		return nil, b.storeFailure(p.key.name, err)
	}
	defer p.leave()
	var sent atomic.Bool
	x := request(t, run, s.view.Grant)
	x.BeforeSend = b.beforeSend(deadline, &sent)
	defer func() {
		if r := recover(); r != nil {
			presented := sent.Load() && end.spends
			b.behind(ctx, end, false, 0, end.failing(broker.FailureRecord{Presented: presented, Uncertain: presented, Now: b.clock.Now().Wall}), nil)
			panic(r)
		}
	}()
	// What a refresh token is spent for is waited for longer: nobody else presents that token before the takeover grace is over,
	// and given up it would be lost.
	until := deadline
	if end.spends && !t.facts.Reuse.Allowed {
		until = until.Add(takeoverGrace)
	}
	bounded, cancel := patient(ctx, b.clock, until.Sub(b.clock.Now().At))
	defer cancel()
	a, former, failure := p.ask(bounded, t, x, s.view.FormerWorked && !p.trial.on, s.usable(t.facts))
	if failure != nil && (a.RefreshToken.IsZero() || !t.facts.Refreshes) {
		return nil, p.failed(ctx, t, end, s, failure)
	}
	return p.succeeded(ctx, t, end, s, a, former, failure)
}

// beforeSend lets nothing be sent after a deadline: the process was stopped, or the machine slept, and somebody else may have the lease. It notes
// that something is sent.
func (b *Broker) beforeSend(deadline broker.Moment, sent *atomic.Bool) func(string) error {
	return func(string) error {
		if b.clock.Now().At >= deadline {
			return errLate
		}
		sent.Store(true)
		return nil
	}
}

// beginBefore has an exchange begin before a moment, or not at all: what comes after its first request has to go on.
func (b *Broker) beginBefore(until broker.Moment, then func(string) error) func(string) error {
	var begun atomic.Bool
	return func(host string) error {
		if !begun.Load() && b.clock.Now().At >= until {
			return errLate
		}
		begun.Store(true)
		return then(host)
	}
}

// usable is until when the refresh token may be presented that was read: one that may be spent already, only for as long as its upstream
// takes it again.
func (s seen) usable(f *broker.Facts) broker.Moment {
	g := s.view.Grant
	if !g.MayBeSpent() || f.Reuse.Allowed || g.UsedFor == 0 || g.UsedFor >= f.Reuse.Within {
		return math.MaxInt64 // or it was decided otherwise: to present it once more
	}
	return s.at.Add(f.Reuse.Within - g.UsedFor)
}

// request is what an exchange asks with, but for BeforeSend.
func request(t target, run broker.Run, g broker.Grant) broker.Exchange {
	x := broker.Exchange{Run: run, Credential: t.credential, Selection: t.chosen, Held: g.Held}
	if run == broker.Refresh {
		x.RefreshToken = g.RefreshToken
	}
	return x
}

// ask runs the exchange, and once more with the former secrets where the upstream refuses the client and there are some. formerWorked: they
// were what worked last, and are asked with first, unless that left no time for the other; the upstream may know the new secret only later. What comes back has the
// attempts of both, and why the secret that is set failed, unless the former one's failure says more. former: the former secrets have worked, also where
// the exchange failed after they had brought a refresh token. Each has to begin before usable.
func (p *pursuit) ask(ctx context.Context, t target, x broker.Exchange, formerWorked bool, usable broker.Moment) (a broker.Answer, former bool, failure *broker.UpstreamError) {
	p.asked = true
	now := p.b.clock.Now().Wall
	order := []bool{false}
	if x.Credential.FormerKept(now) {
		formerWorked = formerWorked && !p.untried
		order = []bool{formerWorked, !formerWorked}
	}
	var attempts []broker.Attempt
	lost := false // by either
	failures := map[bool]*broker.UpstreamError{}
	for _, former = range order {
		y := x
		y.BeforeSend = p.b.beginBefore(usable, x.BeforeSend)
		if former {
			y.Credential = x.Credential.WithFormer(now)
		}
		if a, failure = p.b.run(ctx, t, y); failure == nil {
			attempts = append(attempts, a.Attempts...)
			break
		}
		failures[former] = failure
		if n := len(failure.Attempts); n > 0 && failure.Attempts[n-1].Reason != "" {
			f := said(t, failure) // the status says what whoever asked is told
			failure.Attempts[n-1].Reason, failure.Attempts[n-1].Detail = f.Kind.Name(), f.Detail
		}
		attempts = append(attempts, failure.Attempts...)
		if lost = lost || failure.Lost; !failure.InvalidClient || !a.RefreshToken.IsZero() || lost && x.Run == broker.Refresh { // what it presents may be spent
			break
		}
	}
	p.attempts = append(p.attempts, attempts...)
	if failure != nil {
		brought := !a.RefreshToken.IsZero() // so these are what works, and what became of them is what counts
		if !brought {
			set, was := failures[false], failures[true]
			p.untried = p.untried || set != nil && set.Refused && was != nil && was.InvalidClient
			failure = telling(set, was)
		}
		failure.Lost = lost
		failure.Attempts, a.Attempts = attempts, attempts
		return a, former && brought, failure
	}
	a.Attempts, p.former = attempts, former
	return a, former, nil
}

// telling is which failure counts: that of the secret that is set, where it was tried. A former secret is tried on suspicion, and what comes
// of it counts where the upstream was away, which passes, and where it refused the grant of a client that it had to know first.
func telling(set, former *broker.UpstreamError) *broker.UpstreamError {
	switch {
	case former == nil, former.Refused && set != nil: // it was too late for the former one
		return set
	case set != nil && set.Refused && former.InvalidClient: // or for the one that is set, of which nobody knows anything
		return set
	case set == nil, set.Refused:
		return former
	case former.Level == broker.LevelUpstream, former.Level == broker.LevelRateLimited:
		return former
	case former.Level == broker.LevelGrant && set.Code == "invalid_client":
		return former
	}
	return set
}

// run runs the definition once, and counts it.
func (b *Broker) run(ctx context.Context, t target, x broker.Exchange) (broker.Answer, *broker.UpstreamError) {
	started := b.clock.Now().At
	ctx, step := trace.Begin(ctx, x.Run.String(), trace.Provider(t.facts.Name))
	a, err := t.definition.Exchange(ctx, x)
	var failure *broker.UpstreamError
	if err != nil && !errors.As(err, &failure) {
		failure = &broker.UpstreamError{Level: broker.LevelUpstream, Lost: true}
	}
	var kind *broker.Kind
	var ended error
	if failure != nil {
		k := failure.Kind()
		kind, ended = &k, k
	}
	step.End(ended)
	now := b.clock.Now()
	if took := now.At.Sub(started); a.Expiry.SentAt.After(now.Wall) {
		a.Expiry.SentAt = now.Wall.Add(-took) // the wall clock was set back since, and a lifetime counts from there
	}
	b.observe.Exchanged(t.facts.Name, x.Run, kind, now.At.Sub(started))
	b.auditExchange(ctx, t, x.Run, kind)
	return a, failure
}

// auditExchange has an exchange audited: the broker makes it by itself, whoever wants the token.
func (b *Broker) auditExchange(ctx context.Context, t target, run broker.Run, failed *broker.Kind) {
	r := broker.AuditRecord{Event: broker.AuditExchange, Credential: t.name, Provider: t.facts.Name, Selection: t.chosen, Detail: run.String()}
	if failed != nil {
		r.Outcome = *failed
	}
	b.audit.Note(ctx, r)
}

// fit turns what an exchange brought into what callers get, or says why nobody could use it. before is the token until now; nil: there was
// none. presented is the refresh token that was; zero: none was.
func (b *Broker) fit(ctx context.Context, t target, a broker.Answer, before *broker.Issued, presented broker.Secret) (shown offer, unfit *broker.UpstreamError) {
	defer func() {
		if r := recover(); r != nil { // a refresh token that came with it is to be kept all the same
			b.logPanic(ctx, t.name, r)
			unfit = &broker.UpstreamError{Level: broker.LevelResponse, Detail: "the token cannot be shown"}
		}
	}()
	id := b.tokenID(t.credential, a.Values["token"])
	now := b.clock.Now()
	issued := issue(a, t.facts, t.chosen, id, before, rand.Float64()) //nolint:gosec // jitter needs no secrecy
	shown, err := b.offer(t, issued, now, broker.Mark{})
	switch {
	case err != nil:
		var f *broker.Failure
		errors.As(err, &f) // it is one
		return shown, &broker.UpstreamError{Level: broker.LevelResponse, Detail: f.Detail}
	case !now.Wall.Before(issued.ExpireAt):
		return shown, &broker.UpstreamError{Level: broker.LevelResponse, Detail: "the token that it gave has expired already"}
	}
	for _, r := range []broker.Secret{a.RefreshToken, presented} {
		if shown.token.Shows(r) {
			return shown, &broker.UpstreamError{Level: broker.LevelResponse, Detail: "callers would get the refresh token, by the token or beside it: have the definition take each where it is alone"}
		}
	}
	return shown, nil
}

// failureOf is a failure of a target's credential.
func failureOf(t target, kind broker.Kind) *broker.Failure {
	return &broker.Failure{Kind: kind, Credential: t.credential.Name, Provider: t.credential.Provider}
}

// said is the failure of an exchange as the upstream told it; when to ask again is to be added.
func said(t target, e *broker.UpstreamError) *broker.Failure {
	f := failureOf(t, e.Kind())
	f.UpstreamStatus, f.UpstreamError, f.Detail = e.Status, e.Code, e.Detail
	return t.blamed(f)
}

// blamed says who is to mend a request that the upstream refuses: whoever chose something of it, else whoever keeps the credential.
func (t target) blamed(f *broker.Failure) *broker.Failure {
	var chosen []broker.Violation
	for _, c := range []struct {
		field string
		empty bool
	}{{"scopes", t.sel.Scopes.Empty()}, {"audience", t.sel.Audience == ""}, {"resources", t.sel.Resources.Empty()}, {"parameters", t.sel.Parameters.Empty()}} {
		if !c.empty {
			chosen = append(chosen, broker.Violation{Field: c.field, Description: "the upstream refuses a request with these: ask for others"})
		}
	}
	switch {
	case f.Kind == broker.RequestInvalid && len(chosen) > 0:
		f.Violations = append(f.Violations, chosen...)
	case f.Kind == broker.ScopeRefused && t.sel.Scopes.Empty() && t.sel.Parameters.Empty(), f.Kind == broker.TargetRefused && len(chosen) == 0, f.Kind == broker.RequestInvalid:
		if f.Kind != broker.RequestInvalid || f.Detail == "" {
			f.Detail = also(t.unchosen(f.Kind), f.Detail)
		}
		f.Kind = broker.CredentialMisconfigured
	}
	return f
}

// unchosen says what may be wrong with a request of which no caller chose what is refused, and who mends it.
func (t target) unchosen(refused broker.Kind) string {
	audience := t.chosen.Audience != "" || !t.chosen.Resources.Empty()
	switch {
	case refused == broker.ScopeRefused && !t.credential.DefaultScopes.Empty():
		return "no caller named scopes, and the credential's default scopes are refused: set others with `credential update --default-scope`"
	case refused == broker.ScopeRefused && !t.chosen.Scopes.Empty():
		return "no caller named scopes, and those that the definition names are refused: set others with `credential update --default-scope`"
	case refused == broker.ScopeRefused:
		return "it may want scopes, of which none were named: name some, or set them with `credential update --default-scope`"
	case refused == broker.TargetRefused && t.credential.DefaultAudience != "":
		return "no caller named an audience, and the credential's default audience is refused: set another with `credential update --default-audience`"
	case refused == broker.TargetRefused && audience:
		return "no caller named an audience or resources, and those that the definition names are refused: set an audience with `credential update --default-audience`"
	case refused == broker.TargetRefused:
		return "it may want an audience, of which none was named: name one, or set it with `credential update --default-audience`"
	}
	return "it may want scopes, an audience or parameters, of which none were named: name some, or set scopes with `credential update --default-scope`"
}

// also is a sentence with another behind it; either may be empty.
func also(s, more string) string {
	if s == "" || more == "" {
		return s + more
	}
	return s + "; " + more
}

// secondLook is what a process that was stopped has for reading what came meanwhile.
const secondLook = 2 * time.Second

// patient returns a context that ends after d, or with ctx. Its cause is context.DeadlineExceeded then.
//
// A process that was stopped (SIGSTOP, a machine that slept, a debugger) finds its timers due when it goes on, and beside them the
// answer that came meanwhile, in the socket. An answer that brings a refresh token must not lose that race: where the timer
// comes late, there is time for a second look. What must not happen too late is held against the clock by itself, before
// each request is written.
func patient(ctx context.Context, clock *broker.Clock, d time.Duration) (context.Context, context.CancelFunc) {
	inner, cancel := context.WithCancelCause(ctx)
	due := clock.Now().At.Add(d)
	timer := time.NewTimer(d)
	go func() {
		defer timer.Stop()
		for second := false; ; second = true {
			select {
			case <-timer.C:
			case <-inner.Done():
				return
			}
			if late := clock.Now().At.Sub(due); second || late < lateMost {
				cancel(context.DeadlineExceeded)
				return
			}
			timer.Reset(secondLook)
		}
	}()
	return inner, func() { cancel(nil) }
}

// lateMost is how late a timer is in a process that runs.
const lateMost = 250 * time.Millisecond
