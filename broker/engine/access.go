package engine

import (
	"context"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/trace"
)

// Whether a caller may do something is decided in up to three steps, each of which may say no: by the name, before the store is asked; by what is
// stored, before anything is done; and by the token that is about to be handed out. What is denied is answered alike, and after the same question to
// the store, whether there is such a credential or not.

// A permit is what a caller may do, as far as that was decided by the name. The zero value is for nothing.
type permit struct {
	b      *Broker
	access broker.Access
	effect broker.Effect
}

// anyway is the permit of what the broker does by itself.
var anyway = permit{effect: broker.Allowed}

// permit decides by the name. CallerNotAllowed.
func (b *Broker) permit(a broker.Access) (permit, error) {
	p := permit{b, a, b.authorize.Decide(a).Effect}
	if p.effect == broker.Denied {
		return p, notAllowed(a.Credential)
	}
	return p, nil
}

// on decides on a credential as it is stored, or is about to be. CallerNotAllowed.
func (p permit) on(c broker.Credential) error {
	switch p.effect {
	case broker.Allowed:
		return nil
	case broker.Depends:
		of := p.access
		of.Known, of.Labels = broker.Stored, c.Labels
		if p.b.authorize.Decide(of).Effect == broker.Allowed {
			return nil
		}
	case broker.Denied:
	}
	return notAllowed(p.access.Credential)
}

// notAllowed is what is denied.
func notAllowed(name broker.CredentialName) *broker.Failure {
	return &broker.Failure{Kind: broker.CallerNotAllowed, Credential: name}
}

// unseen turns NotFound into what is denied, where the caller may not know that there is no such credential, and RecordUnreadable where nobody can say
// whether the caller may know of it.
func (b *Broker) unseen(a broker.Access, err error) error {
	if k := broker.KindOf(err); k != broker.NotFound && k != broker.RecordUnreadable || a.Credential == "" {
		return err
	}
	a.Known = broker.Missing
	if b.authorize.Decide(a).Effect != broker.Allowed {
		return notAllowed(a.Credential)
	}
	return err
}

// allowed does what a caller may do, and counts what fails. do has the permit decide on each credential that it reads or makes, before it does or tells
// anything.
func allowed[T any](ctx context.Context, b *Broker, caller *broker.Caller, op broker.Operation, name broker.CredentialName, do func(permit) (T, error)) (T, error) {
	var none T
	may, err := b.permit(broker.Access{Caller: caller, Operation: op, Credential: name})
	if err != nil {
		return none, b.failed(ctx, may.access, err)
	}
	if err := b.shares.take(caller, name); err != nil {
		return none, b.failed(ctx, may.access, err)
	}
	done, err := do(may)
	if err != nil {
		return none, b.failed(ctx, may.access, b.unseen(may.access, err))
	}
	return done, nil
}

// intend has a change audited before it is made: of who has the permit. done says what came of it. AuditUnavailable.
func (p permit) intend(ctx context.Context, event broker.AuditEvent, c broker.Credential, more func(*broker.AuditRecord)) (done func(count int, err error), err error) {
	if p.b == nil { // what the broker does by itself is no caller's change
		return func(int, error) {}, nil
	}
	r := broker.AuditRecord{Event: event, Caller: p.access.Caller, Operation: p.access.Operation, Credential: p.access.Credential, Provider: c.Provider}
	of := p.access
	of.Known, of.Labels = broker.Stored, c.Labels
	r.Rule = p.b.authorize.Decide(of).Rule
	if more != nil {
		more(&r)
	}
	if done, err = p.b.audit.Intend(ctx, r); err != nil {
		return nil, asFailure(err, p.access.Credential)
	}
	return done, nil
}

// mayAsk decides whether a caller may have a token asked for, or be told why there is none. Who has had as many as the policy lets them have may not, so that
// nothing is asked for them of anybody. Of taken this call has one already.
func (b *Broker) mayAsk(ctx context.Context, a broker.Access, taken broker.Meter) error {
	may, err := b.permit(a)
	if err != nil {
		return err
	}
	var beyond error
	if may.effect == broker.Allowed {
		by := b.authorize.Decide(a)
		if beyond = b.within(a.Caller, by, a.Credential, taken); beyond == nil || !by.More {
			return beyond
		}
	}
	by := func(c broker.Credential) error {
		effective := b.effective(may, c)
		if err := effective.on(c); err != nil {
			return err
		}
		of := effective.access
		of.Known, of.Labels = broker.Stored, c.Labels
		return b.within(a.Caller, b.authorize.Decide(of), a.Credential, taken)
	}
	if c, ok := b.cache.recent(a.Credential); ok && by(c) == nil { // nobody is denied by what may have changed
		return nil
	}
	c, err := b.reading(ctx, a.Caller, a.Credential)
	switch {
	case beyond != nil && err != nil:
		return beyond
	case broker.KindOf(err) == broker.StoreUnavailable && b.mayUnread(may):
		return nil // what is handed out is decided on once more
	case err != nil:
		return b.unseen(a, err)
	}
	return by(c)
}

// effective is a permit for what a selection becomes, also of a credential that is disabled.
func (b *Broker) effective(may permit, c broker.Credential) permit {
	if def, err := b.definition(c); err == nil {
		if chosen, err := def.Select(c, may.access.Selection); err == nil {
			may.access.Selection = chosen
		}
	}
	return may
}

// admits decides whether a caller may have what is in an entry, and has it audited. It is remembered with the caller, so that a hit decides nothing.
// Unless it is, that may take a while, for the audit log: what was found out about the entry before has to be looked at again (stands).
// CallerNotAllowed, CallerLimited, AuditUnavailable; errAgain where who may what has changed meanwhile.
//
// taken is of which meter this call has taken one already, nil: of none, and took the same afterwards, also where it fails: whoever looks again is one call.
func (b *Broker) admits(
	ctx context.Context, caller *broker.Caller, op broker.Operation, key lookup, e *entry, now broker.Instant, taken broker.Meter,
) (remembered bool, took broker.Meter, err error) {
	is := broker.Admission{Operation: op, Serial: e.serial, Generation: b.authorize.Generation()}
	if caller == nil {
		return false, taken, notAllowed(key.name)
	}
	if was := caller.Memo.Admitted(is); was != nil { // what is beyond the rate is no use, and not written down as one
		if taken, err = b.metered(was.Meter, taken, key.name, now); err != nil {
			return true, taken, err
		}
		if was.Uses.Count() {
			return true, taken, nil
		}
	}
	a := broker.Access{
		Caller: caller, Operation: op, Credential: key.name, Known: broker.Stored, Labels: e.credential.Labels, Selection: e.chosen, Granted: e.issued.Granted,
	}
	decided := b.authorize.Decide(a)
	if decided.Effect != broker.Allowed {
		return false, taken, notAllowed(key.name)
	}
	is.Meter = b.meters.of(caller, decided)
	if taken, err = b.metered(is.Meter, taken, key.name, now); err != nil {
		return false, taken, err
	}
	if is.Uses, err = b.audit.Use(ctx, broker.AuditRecord{
		Event: broker.AuditIssued, Caller: caller, Operation: op, Credential: key.name, Provider: e.facts.Name, Rule: decided.Rule,
		Selection: e.chosen, Granted: e.issued.Granted, TokenID: e.issued.ID,
	}); err != nil {
		return false, taken, asFailure(err, key.name)
	}
	caller.Memo.Admit(is)
	if b.authorize.Generation() != is.Generation {
		return false, taken, errAgain
	}
	return false, taken, nil
}

// stands reports whether an entry that a caller was to be given before it waited still may be, also one that has made room meanwhile. The caller holds its line.
func (b *Broker) stands(e *entry) bool {
	now := b.clock.Now()
	if gone, _ := e.line.moves.since(e.moved, e); gone || e.line.outdates(e) {
		return false
	}
	return !e.dropped.Load() && !e.ended(now) && (!b.cache.shared || e.local || b.cache.trusts(e, now.At))
}

// mayUnread decides by what this process knows of a credential, where the store cannot be asked.
func (b *Broker) mayUnread(may permit) bool {
	if may.effect == broker.Allowed {
		return true
	}
	l := b.cache.line(may.access.Credential)
	if l == nil {
		return false
	}
	k := l.known.Load()
	return k != nil && b.effective(may, k.credential).on(k.credential) == nil
}

// readMost bounds a question to the store that callers share.
const readMost = 10 * time.Second

// A reading is a credential as it is stored, or why it could not be read.
type reading struct {
	credential broker.Credential
	err        error
}

// reading reads a credential. Those who want it at the same time share one question, and one of the share of whoever was first.
func (b *Broker) reading(ctx context.Context, caller *broker.Caller, name broker.CredentialName) (broker.Credential, error) {
	begin := func() (context.Context, error) {
		return trace.Detach(ctx, b.stopping), b.shares.take(caller, name) // whoever began it may give up
	}
	f, _, err := b.readings.join(name, begin, func(ctx context.Context) (r reading) {
		defer func() {
			if p := recover(); p != nil {
				b.logPanic(ctx, name, p)
				r = reading{err: &broker.Failure{Kind: broker.Internal, Credential: name}}
			}
		}()
		bounded, cancel := context.WithTimeout(ctx, readMost)
		defer cancel()
		l := b.cache.hold(name)
		defer b.cache.release(l)
		read, moved := b.clock.Now().At, l.moves.now()
		c, err := b.stored(bounded, name)
		if err == nil {
			b.cache.learn(l, c, read, moved)
		}
		return reading{c, err}
	})
	if err != nil {
		return broker.Credential{}, asFailure(err, name)
	}
	if err := f.wait(ctx); err != nil {
		return broker.Credential{}, b.gaveUp(name, err)
	}
	return f.value.credential, f.value.err
}
