package broker

import (
	"context"
	"math"
	"sync/atomic"
)

// An AuditEvent says what happened, as the audit log names it.
type AuditEvent string

// The events of the broker. Others are those of whoever serves it.
const (
	// AuditIssued is the first use of a token by a caller; AuditUsed counts those that followed.
	AuditIssued AuditEvent = "token.issued"
	AuditUsed   AuditEvent = "token.used"
	// AuditInvalidated: tokens are to be dropped.
	AuditInvalidated AuditEvent = "token.invalidated"
	AuditDenied      AuditEvent = "access.denied"
	// AuditUnauthenticated: somebody could not prove who they are.
	AuditUnauthenticated AuditEvent = "auth.failed"
	AuditCreated         AuditEvent = "credential.created"
	AuditUpdated         AuditEvent = "credential.updated"
	AuditRotated         AuditEvent = "credential.rotated"
	AuditRetired         AuditEvent = "credential.retired"
	AuditAccepted        AuditEvent = "credential.accepted"
	AuditDeleted         AuditEvent = "credential.deleted"
	AuditTested          AuditEvent = "credential.tested"
	// AuditExchange is a request to an upstream for a token, which the broker makes by itself.
	AuditExchange AuditEvent = "exchange"
	AuditBackup   AuditEvent = "backup"
	// What is done with the keys that seal what is stored.
	AuditKeysRotated   AuditEvent = "keys.rotated"
	AuditKeysPromoted  AuditEvent = "keys.promoted"
	AuditKeysRewrapped AuditEvent = "keys.rewrapped"
	AuditKeysRetired   AuditEvent = "keys.retired"
	AuditKeysRestored  AuditEvent = "keys.restored"
	AuditKeysDestroyed AuditEvent = "keys.destroyed"
	AuditPolicy        AuditEvent = "policy.loaded"
)

// An AuditRecord is what happened, for the audit log. It holds no secret and no value of a parameter. The zero value of a field: it is not known, or
// there is none.
type AuditRecord struct {
	Event AuditEvent
	// Outcome is why it was not done; nil: it was, or is about to be.
	Outcome error
	// Caller is nil for the broker itself, and for whoever is not known. Listener and Peer, an address, are of those.
	Caller         *Caller
	Listener, Peer string
	Operation      Operation
	Credential     CredentialName
	Provider       string
	// Rule is the name of the policy's rule that allows it.
	Rule string
	// Selection is of which token. Of its parameters the names are kept.
	Selection Selection
	// Granted are the scopes that the token has.
	Granted []string
	TokenID string
	// Fields are the names of what is changed; Count is how many tokens are dropped.
	Fields []string
	Count  int
	// Detail is a sentence of our own that adds to the outcome.
	Detail string
}

// An Auditor keeps the audit log. Safe for concurrent use.
type Auditor interface {
	// Intend writes down that somebody is about to change something, and returns once it cannot be lost. It fails with AuditUnavailable, and then nothing may be
	// changed. done writes down what came of it; the number is of what was changed, where that is counted.
	Intend(ctx context.Context, r AuditRecord) (done func(count int, err error), err error)
	// Note writes down what has happened. It waits for nobody; what happens again and again is counted.
	Note(ctx context.Context, r AuditRecord)
	// Use writes down that a caller is about to be given a token, the first time, and returns what the times after it are counted by. Of the same caller, operation
	// and token it is the same, as long as it counts. It fails with AuditUnavailable where that has to be written first, and cannot be.
	Use(ctx context.Context, r AuditRecord) (*Uses, error)
}

// Uses counts how often a caller is given a token. The zero value counts.
type Uses struct{ n atomic.Int64 }

// usesOver is so far below zero that no additions lead out of it.
const usesOver = math.MinInt64 / 2

// Count counts one use. It reports whether it is counted: else somebody has to call Auditor.Use again. Nil counts nothing, and says so for ever.
func (u *Uses) Count() bool { return u == nil || u.n.Add(1) > 0 }

// Take returns how many there were since it was last called.
func (u *Uses) Take() int64 {
	for {
		n := u.n.Load()
		if n <= 0 || u.n.CompareAndSwap(n, 0) {
			return max(n, 0)
		}
	}
}

// End is Take for the last time: nothing is counted any more.
func (u *Uses) End() int64 { return max(u.n.Swap(usesOver), 0) }

// Unaudited keeps no audit log.
type Unaudited struct{}

// Intend implements Auditor.
func (Unaudited) Intend(context.Context, AuditRecord) (func(int, error), error) {
	return func(int, error) {}, nil
}

// Note implements Auditor.
func (Unaudited) Note(context.Context, AuditRecord) {}

// Use implements Auditor.
func (Unaudited) Use(context.Context, AuditRecord) (*Uses, error) { return nil, nil }
