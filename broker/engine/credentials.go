package engine

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// A Draft is a credential as somebody wants it: what they may say of it, and the secrets that they set. The broker gives
// identities and times.
type Draft struct {
	Provider        string
	Inputs          map[string]string
	DefaultScopes   broker.Scopes
	DefaultAudience string
	Labels          map[string]string
	Disabled        bool
	// Secrets are those to be set; the others stay. A Secret that is zero removes an optional one.
	Secrets map[string]broker.Secret
}

// A Change says how a credential is written.
type Change struct {
	Name broker.CredentialName
	// Edit turns what is there (the zero Draft for a new one) into what is wanted. It may be called several times, when
	// somebody else changes the credential meanwhile.
	Edit func(*Draft) error
	// Etag must match what is there; zero: whatever is there.
	Etag broker.ID
	// AllowMissing creates it when it is not there; AllowExisting answers what is there when its content is the same.
	AllowMissing, AllowExisting bool
	// ValidateOnly checks everything and changes nothing.
	ValidateOnly bool
	// RequestID: the same within an hour has the effect of one (AIP-155). Empty: none.
	RequestID string
	// contents is a keyed hash of what is asked for under the RequestID; zero: not known, and not compared.
	contents broker.ID
	// permit decides on what is there and on what is to be.
	permit permit
	// how it is changed, for the logs; empty: by the broker itself, which says it otherwise.
	how broker.AuditEvent
}

// conflictsMost bounds the times a change is tried again because somebody else changed the same credential.
const conflictsMost = 20

// CreateCredential stores a new credential. AlreadyExists, RequestInvalid with every violation.
func (b *Broker) CreateCredential(ctx context.Context, caller *broker.Caller, ch Change) (broker.Credential, error) {
	return allowed(ctx, b, caller, broker.WriteCredential, ch.Name, func(may permit) (broker.Credential, error) {
		ch.permit = may
		return b.create(ctx, ch)
	})
}

func (b *Broker) create(ctx context.Context, ch Change) (broker.Credential, error) {
	var d Draft
	if err := ch.Edit(&d); err != nil {
		return broker.Credential{}, err
	}
	if err := ch.permit.on(broker.Credential{Name: ch.Name, Labels: d.Labels}); err != nil { // before anything is said of what it asks for
		return broker.Credential{}, err
	}
	if ch.RequestID != "" {
		ch.contents = b.contentsOf("create", d)
	}
	now := b.clock.Now().Wall
	blank := broker.Credential{Name: ch.Name, Incarnation: broker.NewID(), Epoch: broker.NewID(), CreateTime: now}
	c, seed, err := b.apply(blank, d, now, ch)
	if err != nil {
		return broker.Credential{}, err
	}
	there, err := b.store.Credential(ctx, ch.Name)
	switch {
	case err == nil:
		if err := ch.permit.on(there); err != nil {
			return broker.Credential{}, err
		}
		if again, err := repeated(there, ch, now); again || err != nil {
			return there, err
		}
		if ch.AllowExisting && sameContent(there, c) {
			return there, nil
		}
		return broker.Credential{}, &broker.Failure{Kind: broker.AlreadyExists, Credential: ch.Name}
	case broker.KindOf(err) != broker.NotFound:
		return broker.Credential{}, b.storeFailure(ch.Name, err)
	case ch.ValidateOnly:
		return c, nil
	}
	done, err := ch.permit.intend(ctx, broker.AuditCreated, c, nil)
	if err != nil {
		return broker.Credential{}, err
	}
	err = b.store.CreateCredential(ctx, c, seed)
	b.wrote(ch.Name, err)
	done(0, err)
	if err != nil {
		return broker.Credential{}, b.storeFailure(ch.Name, err)
	}
	b.logChange(ch.permit.access.Caller, broker.AuditCreated, c, nil)
	return c, nil
}

// UpdateCredential changes one. NotFound, EtagMismatch, SecretsRequired, RequestInvalid with every violation.
func (b *Broker) UpdateCredential(ctx context.Context, caller *broker.Caller, ch Change) (broker.Credential, error) {
	ch.how = broker.AuditUpdated
	edit := func(there broker.Credential, now time.Time) (broker.Credential, *broker.Grant, error) {
		d := Draft{
			Provider: there.Provider, Inputs: maps.Clone(there.Inputs), DefaultScopes: there.DefaultScopes,
			DefaultAudience: there.DefaultAudience, Labels: maps.Clone(there.Labels), Disabled: there.Disabled,
		}
		if err := ch.Edit(&d); err != nil {
			return broker.Credential{}, nil, err
		}
		c, seed, err := b.apply(there, d, now, ch)
		if err == nil && sameContent(there, c) && c.Version == there.Version && seed == nil {
			return there, nil, nil // nothing changes: no new etag either
		}
		return c, seed, err
	}
	return allowed(ctx, b, caller, broker.WriteCredential, ch.Name, func(may permit) (c broker.Credential, err error) {
		ch.permit = may
		for range conflictsMost {
			c, err = b.rewrite(ctx, ch, edit)
			if broker.KindOf(err) != broker.NotFound || !ch.AllowMissing || !ch.Etag.IsZero() {
				return c, err
			}
			if c, err = b.create(ctx, ch); broker.KindOf(err) != broker.AlreadyExists {
				return c, err
			}
		}
		return c, err
	})
}

// rewrite changes a credential that is there, and tries again when somebody else changes it meanwhile. edit makes of what is there what is to
// be, and the grant of a new seed; the same etag: nothing changes. Of ch it needs who, which and whether.
func (b *Broker) rewrite(ctx context.Context, ch Change, edit func(broker.Credential, time.Time) (broker.Credential, *broker.Grant, error)) (broker.Credential, error) {
	mismatch := &broker.Failure{Kind: broker.EtagMismatch, Credential: ch.Name}
	for range conflictsMost {
		there, err := b.store.Credential(ctx, ch.Name)
		if err != nil {
			return broker.Credential{}, b.storeFailure(ch.Name, err)
		}
		if err := ch.permit.on(there); err != nil {
			return broker.Credential{}, err
		}
		now := b.clock.Now().Wall
		again, err := repeated(there, ch, now)
		switch {
		case again || err != nil:
			return there, err
		case !ch.Etag.IsZero() && ch.Etag != there.Etag:
			return broker.Credential{}, mismatch
		}
		c, seed, err := edit(there, now)
		if err == nil {
			err = ch.permit.on(c) // labels are rights: of what it was, and of what it becomes
		}
		switch {
		case err != nil:
			return broker.Credential{}, err
		case c.Etag == there.Etag || ch.ValidateOnly:
			return c, nil
		}
		differs := differing(there, c)
		done, err := ch.permit.intend(ctx, ch.how, c, func(r *broker.AuditRecord) { r.Fields = differs })
		if err != nil {
			return broker.Credential{}, err
		}
		err = b.store.SaveCredential(ctx, there.Etag, c, seed)
		b.wrote(ch.Name, err)
		done(0, err)
		switch {
		case err == nil:
			if ch.how != "" {
				b.logChange(ch.permit.access.Caller, ch.how, c, differs)
			}
			return c, nil
		case broker.KindOf(err) != broker.EtagMismatch || !ch.Etag.IsZero():
			return broker.Credential{}, b.storeFailure(ch.Name, err)
		}
	}
	return broker.Credential{}, mismatch
}

// apply makes the credential that a draft asks for of the one that is there, and the grant of a new seed. It finds
// everything that is wrong.
func (b *Broker) apply(there broker.Credential, d Draft, now time.Time, ch Change) (broker.Credential, *broker.Grant, error) {
	def, err := b.definition(broker.Credential{Name: there.Name, Provider: d.Provider})
	if err != nil {
		if d.Provider == there.Provider && there.Provider != "" {
			return broker.Credential{}, nil, err
		}
		code := broker.CodeUnknown
		if d.Provider == "" {
			code = broker.CodeRequired
		}
		return broker.Credential{}, nil, broker.Invalid(broker.Violation{Field: "credential.provider", Code: code, Description: fmt.Sprintf("there is no provider %.80q; list them with `provider list`", d.Provider)})
	}
	facts := def.Facts()
	var wrong []broker.Violation
	c := there.Clone()
	c.Provider, c.Inputs, c.DefaultScopes, c.DefaultAudience = d.Provider, d.Inputs, d.DefaultScopes, d.DefaultAudience
	c.Labels, c.Disabled = d.Labels, d.Disabled
	if c.Secrets == nil {
		c.Secrets = map[string]broker.SecretInput{}
	}
	if c.Seeds == nil {
		c.Seeds = map[string]broker.Seed{}
	}
	renameInputs(c, facts)
	renameSecrets(c, facts)
	moves := there.Provider != d.Provider || !maps.Equal(there.Inputs, c.Inputs)
	elsewhere := sentElsewhere(there, c, facts)
	for _, name := range slices.Sorted(maps.Keys(c.Inputs)) {
		switch in, ok := facts.Inputs[name]; {
		case !ok:
			wrong = append(wrong, broker.Violation{Field: "credential.inputs." + name, Code: broker.CodeUnknown, Description: fmt.Sprintf("provider %s has no such input; it has: %s", d.Provider, inputNames(facts, false))})
		case in.Secret:
			wrong = append(wrong, broker.Violation{Field: "credential.inputs." + name, Code: broker.CodeMisplaced, Description: "is a secret: give it under secrets (at the command line with --secret)"})
		}
	}
	var seed *broker.Grant
	for _, name := range slices.Sorted(maps.Keys(d.Secrets)) {
		v := d.Secrets[name]
		in, ok := facts.Inputs[name]
		_, stored := c.Secrets[name]
		switch {
		case stored && v.IsZero() && (!ok || !in.Secret): // this file does not have it any more
			delete(c.Secrets, name)
			moves = true
		case !ok || !in.Secret:
			wrong = append(wrong, broker.Violation{Field: "secrets." + name, Code: broker.CodeUnknown, Description: fmt.Sprintf("provider %s has no such secret; it has: %s", d.Provider, inputNames(facts, true))})
		case in.Seed && v.IsZero(), !in.Seed && v.IsZero() && !in.Optional:
			wrong = append(wrong, broker.Violation{Field: "secrets." + name, Code: broker.CodeRequired, Description: "is empty, and required"})
		case v.IsZero():
			if _, set := c.Secrets[name]; set {
				delete(c.Secrets, name)
				moves = true
			}
		case in.Seed:
			hash := b.seedHash(name, v)
			if was, set := c.Seeds[name]; set && was.Hash == hash && !elsewhere {
				continue // a seed that was given before changes nothing: what it has become meanwhile is kept
			}
			c.Seeds[name] = broker.Seed{Hash: hash, SetTime: now}
			seed = &broker.Grant{RefreshToken: v, GivenAt: now}
			moves = true
		default:
			if was := c.Secrets[name]; !was.Value.Equal(v) || elsewhere { // a former secret is another place's
				c.Secrets[name] = broker.SecretInput{Value: v, SetTime: now}
				moves = true
			}
		}
	}
	if elsewhere { // what is not sent to the new place is forgotten with the former one; at the same place the next file may have it again
		maps.DeleteFunc(c.Secrets, func(name string, _ broker.SecretInput) bool {
			return !facts.Inputs[name].Secret || facts.Inputs[name].Seed
		})
		maps.DeleteFunc(c.Seeds, func(name string, _ broker.Seed) bool { return !facts.Inputs[name].Seed })
	}
	if len(wrong) == 0 {
		wrong = def.Check(c, append(given(there, c, facts), slices.Collect(maps.Keys(d.Secrets))...))
	}
	if len(wrong) > 0 {
		return broker.Credential{}, nil, &broker.Failure{Kind: broker.RequestInvalid, Credential: there.Name, Provider: d.Provider, Violations: wrong}
	}
	if elsewhere {
		if missing := secretsToRepeat(c, d); len(missing) > 0 {
			return broker.Credential{}, nil, &broker.Failure{Kind: broker.SecretsRequired, Credential: there.Name, Provider: d.Provider, Violations: missing}
		}
		c.Place = broker.NewID()
	}
	if elsewhere || there.Provider == "" {
		c.Destinations = nil
		c = accepting(c, def.Destinations(c))
	}
	if moves {
		c.Version = broker.NewID()
		c.Number = there.Number + 1
	}
	c.Etag, c.UpdateTime = broker.NewID(), now
	c.Requests = rememberRequest(c.Requests, ch, now)
	return c, seed, nil
}

// given are the secrets that a change sets to another value, whatever they were called.
func given(before, after broker.Credential, f *broker.Facts) (names []string) {
	for _, n := range after.SecretNames() {
		was, kept := before.Secrets[n]
		if !kept {
			was = before.Secrets[f.Inputs[n].Was]
		}
		if !was.Value.Equal(after.Secrets[n].Value) {
			names = append(names, n)
		}
	}
	return names
}

// renameInputs gives what is stored under an input's former name its new one.
func renameInputs(c broker.Credential, f *broker.Facts) {
	for name, in := range f.Inputs {
		if in.Was != "" {
			move(c.Inputs, in.Was, name)
		}
	}
}

// renameSecrets does so with secrets that somebody has accepted by their new name. By another file's name, the next file might send one where
// that name may go.
func renameSecrets(c broker.Credential, f *broker.Facts) {
	for name, in := range f.Inputs {
		if in.Was != "" && (c.GoesBy(in.Called) || f.Builtin && followed(c)) {
			move(c.Secrets, in.Was, name)
			move(c.Seeds, in.Was, name)
		}
	}
}

func move[V any](m map[string]V, from, to string) {
	v, ok := m[from]
	if _, taken := m[to]; !ok || taken {
		return
	}
	m[to] = v
	delete(m, from)
}

// sentElsewhere reports whether a change has the secrets of a credential that is there sent somewhere else, or its tokens by those who get them.
func sentElsewhere(there, c broker.Credential, f *broker.Facts) bool {
	if there.Provider == "" {
		return false
	}
	there = there.Clone()
	renameInputs(there, f)
	return there.Provider != c.Provider || slices.ContainsFunc(f.PlaceInputs, func(in string) bool { return there.Inputs[in] != c.Inputs[in] })
}

// secretsToRepeat names the secrets that have to be given again, because the change sends them somewhere else: whoever may
// edit a credential could otherwise send its secrets to themselves.
func secretsToRepeat(c broker.Credential, d Draft) []broker.Violation {
	var missing []broker.Violation
	for _, name := range c.SecretNames() {
		if _, again := d.Secrets[name]; !again {
			missing = append(missing, broker.Violation{Field: "secrets." + name, Code: broker.CodeRequired, Description: "give it again: the change sends it to another place"})
		}
	}
	return missing
}

func inputNames(f *broker.Facts, secret bool) string {
	var names []string
	for n, in := range f.Inputs {
		if in.Secret == secret {
			names = append(names, n)
		}
	}
	if len(names) == 0 {
		return "none"
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// sameContent reports whether two credentials say the same, identities and times aside.
func sameContent(a, b broker.Credential) bool {
	same := a.Provider == b.Provider && maps.Equal(a.Inputs, b.Inputs) && a.DefaultScopes == b.DefaultScopes &&
		a.DefaultAudience == b.DefaultAudience && maps.Equal(a.Labels, b.Labels) && a.Disabled == b.Disabled &&
		len(a.Secrets) == len(b.Secrets) && len(a.Seeds) == len(b.Seeds)
	for n, s := range a.Secrets {
		o, ok := b.Secrets[n]
		same = same && ok && o.Value.Equal(s.Value) && o.Former.Equal(s.Former)
	}
	for n, s := range a.Seeds {
		o, ok := b.Seeds[n]
		same = same && ok && o.Hash == s.Hash
	}
	return same
}

func (b *Broker) seedHash(name string, v broker.Secret) (id broker.ID) {
	h := b.store.Fingerprint("seed", name, v.Reveal())
	copy(id[:], h[:])
	return id
}

// wrote has this process look again after it has written a credential, or has tried to: where the answer was lost, nobody knows what
// is stored. What was refused has changed nothing.
func (b *Broker) wrote(name broker.CredentialName, err error) {
	switch k := broker.KindOf(err); {
	case err == nil:
		b.cache.forget(name)
	case k == broker.StoreUnavailable || k == broker.Canceled || k == broker.Internal:
		b.cache.doubt(name)
	}
}
