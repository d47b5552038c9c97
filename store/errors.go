package store

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/store/seal"
)

// because is a failure that can be told by what it is because of: the end of the caller's context, ErrGroupAway, or errRetired.
type because struct {
	failure *broker.Failure
	cause   error
}

func (b *because) Error() string   { return b.failure.Error() }
func (b *because) Unwrap() []error { return []error{b.failure, b.cause} }

// Ended returns the failure of an operation whose context has ended, for backends; nil while it has not. It matches
// broker.StoreUnavailable and the context's error.
func Ended(ctx context.Context) error {
	err := ctx.Err()
	if err == nil {
		return nil
	}
	detail := "the caller gave up"
	if errors.Is(err, context.DeadlineExceeded) {
		detail = "it did not answer in time"
	}
	return &because{&broker.Failure{Kind: broker.StoreUnavailable, Detail: detail}, err}
}

// Unavailable returns a StoreUnavailable failure, for backends. detail is a sentence of ours: no stored value, no name, and
// nothing that somebody else wrote.
func Unavailable(detail string) error {
	return &broker.Failure{Kind: broker.StoreUnavailable, Detail: detail}
}

// ErrGroupAway is what a failure of GroupUnavailable matches.
var ErrGroupAway = errors.New("the part has answered: a group of it cannot be had now")

// GroupUnavailable is Unavailable of one group alone: the part of the backend that has it has answered, and others' groups may be had there.
func GroupUnavailable(detail string) error {
	return &because{&broker.Failure{Kind: broker.StoreUnavailable, Detail: detail}, ErrGroupAway}
}

// Unfit says why a backend must not be used as it is, and how to mend that.
type Unfit struct {
	// Problems are sentences, each with what to do.
	Problems []string
}

// Error implements error.
func (u *Unfit) Error() string {
	return "the store must not be used as it is: " + strings.Join(u.Problems, "; ")
}

// errRetired is what a failure of RecordUnreadable matches that somebody can mend: the record's key is in the keyring, as a retired one.
var errRetired = errors.New("the key is retired")

// fromBackend passes a backend's failure on, and nothing of one that is not as Backend says.
func fromBackend(err error) error {
	var f *broker.Failure
	switch {
	case err == nil:
		return nil
	case errors.Is(err, broker.ErrConflict):
		return broker.ErrConflict
	case errors.Is(err, ErrUnconfirmed):
		return ErrUnconfirmed
	case errors.As(err, &f) && (f.Kind == broker.StoreUnavailable || f.Kind == broker.RecordUnreadable):
		return err
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return &because{&broker.Failure{Kind: broker.StoreUnavailable}, err}
	}
	return Unavailable("the backend failed")
}

func failure(kind broker.Kind, name broker.CredentialName) error {
	return &broker.Failure{Kind: kind, Credential: name}
}

// misused is a bug of the caller.
func misused(detail string) error {
	return &broker.Failure{Kind: broker.Internal, Detail: detail}
}

// unreadable says which record of which credential or upstream cannot be opened, and why.
func (s *Store) unreadable(p binding, err error) error {
	f := &broker.Failure{Kind: broker.RecordUnreadable, Detail: fmt.Sprintf("the %s record: %v", p.key.Kind, err)}
	if p.key.Kind != kindBackoff {
		f.Credential = broker.CredentialName(p.subject)
	}
	var o *seal.OpenError
	if errors.As(err, &o) && o.KeyID != "" && !o.Held {
		f.Detail += " of " + s.keys().Where()
		if info, ok := s.keys().Key(o.KeyID); ok && info.State == seal.Retired {
			f.Detail += ": it is retired there; `tokenbroker keys restore " + o.KeyID + "` has it open again"
			return &because{f, errRetired}
		}
	}
	return f
}
