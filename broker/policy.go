package broker

import (
	"strconv"
	"time"
)

// An Operation is what a caller wants to do.
type Operation string

// The operations, as policy names them.
const (
	GetToken         Operation = "get_token"
	Watch            Operation = "watch"
	InvalidateOne    Operation = "invalidate"
	InvalidateAll    Operation = "invalidate.all"
	ReadCredential   Operation = "credential.read"   //nolint:gosec // an operation, no credential
	WriteCredential  Operation = "credential.write"  //nolint:gosec // an operation, no credential
	DeleteCredential Operation = "credential.delete" //nolint:gosec // an operation, no credential
	TestCredential   Operation = "credential.test"   //nolint:gosec // an operation, no credential
	ReadProvider     Operation = "provider.read"
)

// Operations are all of them, in the order in which people name them.
func Operations() []Operation {
	return []Operation{GetToken, Watch, InvalidateOne, InvalidateAll, ReadCredential, WriteCredential, DeleteCredential, TestCredential, ReadProvider}
}

// Selects reports whether the operation hands out a token, so that what is selected counts.
func (o Operation) Selects() bool { return o == GetToken || o == Watch }

// Knowledge is what is known of the credential that an access is about.
type Knowledge int

// What can be known of it.
const (
	// Unread: nothing yet, but its name. Labels are empty, and the selection is what the caller said, without defaults.
	Unread Knowledge = iota
	// Missing: there is none of that name.
	Missing
	// Stored: its labels, and the selection with its defaults.
	Stored
)

// An Access is what somebody wants to do. The zero value is nobody's.
type Access struct {
	Caller    *Caller
	Operation Operation
	// Credential is its name; empty: the operation is on no particular one, such as ReadProvider, or a list before it is read.
	Credential CredentialName
	Known      Knowledge
	// Labels are the credential's, where it is Stored.
	Labels map[string]string
	// Selection is of which token, where the operation selects one.
	Selection Selection
	// Granted are the scopes that the token has, where there is one already: they may be more than were selected.
	Granted []string
}

// An Effect is what is decided of an Access.
type Effect int

// The effects.
const (
	// Denied is the zero value.
	Denied Effect = iota
	// Depends: on what is not known yet. Only of what is Unread.
	Depends
	// Allowed: of what is Unread, whatever is stored.
	Allowed
)

// A Decision is an effect, and by what it came.
type Decision struct {
	Effect Effect
	// Rule is the name of the rule that allows it; empty: none does, or there are no rules.
	Rule string
	// Rate is how often the rule lets each of its callers be given a token.
	Rate Rate
	// More: of what is Unread, another rule may allow it with a higher rate, which depends on what is stored.
	More bool
}

// A Rate is so many times in a while, all of which may be at once. The zero value is without a bound.
type Rate struct {
	Times int
	Per   time.Duration // a second, a minute or an hour
}

// String is as in a policy: 50/s.
func (r Rate) String() string {
	per := map[time.Duration]string{time.Second: "s", time.Minute: "m", time.Hour: "h"}
	return strconv.Itoa(r.Times) + "/" + per[r.Per]
}

// Beyond reports whether it is more than another one: without a bound, it is.
func (r Rate) Beyond(o Rate) bool {
	switch {
	case o == Rate{}:
		return false
	case r == Rate{}:
		return true
	}
	return float64(r.Times)/float64(r.Per) > float64(o.Times)/float64(o.Per)
}

// An Authorizer says who may do what. Safe for concurrent use.
type Authorizer interface {
	// Decide decides. It asks nobody, and keeps nothing of what it is given.
	Decide(a Access) Decision
	// Generation changes whenever a decision may be another one. It is asked on every hit and must cost no more than an atomic load.
	Generation() uint64
	// Changes is closed at the next change of the generation; nil: there is never one.
	Changes() <-chan struct{}
}

// LocalOnly allows callers on this machine everything, and others nothing.
type LocalOnly struct{}

// Decide implements Authorizer.
func (LocalOnly) Decide(a Access) Decision {
	if a.Caller.OnThisMachine() {
		return Decision{Effect: Allowed}
	}
	return Decision{}
}

// Generation implements Authorizer.
func (LocalOnly) Generation() uint64 { return 0 }

// Changes implements Authorizer.
func (LocalOnly) Changes() <-chan struct{} { return nil }
