package redis

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"

	"github.com/redis/go-redis/v9"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/store"
)

var errClosed = store.Unavailable("the connection to Redis is closed")

// answers are what Redis says when it cannot do its work, by the first word of its error, and what we say of it. A Redis error
// may quote what it was sent, so nothing else of it goes on.
//
//nolint:gosec // no password is in it
var answers = map[string]string{
	"LOADING":     "Redis is loading its data",
	"CLUSTERDOWN": "the Redis Cluster is down (CLUSTERDOWN)",
	"READONLY":    "this Redis is a replica (READONLY)",
	"OOM":         "Redis is out of memory (OOM): give it more, or delete what else is in it",
	"MISCONF":     "Redis cannot write its data to disk (MISCONF): see its log",
	"NOREPLICAS":  "Redis has too few replicas (NOREPLICAS)",
	"TRYAGAIN":    "the Redis Cluster is moving slots (TRYAGAIN)",
	"MASTERDOWN":  "Redis has lost its master (MASTERDOWN)",
	"MOVED":       "the Redis Cluster has moved a slot (MOVED)",
	"ASK":         "the Redis Cluster is moving a slot (ASK)",
	"NOAUTH":      "Redis wants a password (NOAUTH): set redis.password_file",
	"WRONGPASS":   "Redis refuses the user or the password (WRONGPASS)",
	"NOPERM":      "Redis does not let this user do what the broker needs (NOPERM): see docs/redis.md for its ACL",
	"BUSY":        "Redis is busy with a script (BUSY)",
	"MAXCLIENTS":  "Redis has too many clients",
	"CROSSSLOT":   "Redis refuses keys of several slots (CROSSSLOT)",
	"UNBLOCKED":   "Redis has changed its role (UNBLOCKED)",
}

// ofSlots are those that a Cluster says of one slot: it has others, and answers.
var ofSlots = []string{"TRYAGAIN", "MOVED", "ASK"}

// A movingError is what Redis would say itself of keys that it knows of.
type movingError struct{}

func (movingError) Error() string { return "TRYAGAIN" }
func (movingError) RedisError()   {}

var errStrayed = movingError{}

// failed gives every error of go-redis and of Redis as StoreUnavailable, and wraps nothing of it.
func failed(ctx context.Context, err error) error {
	var said redis.Error
	var ours *broker.Failure
	var network net.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &ours):
		return err
	case errors.Is(err, redis.ErrClosed):
		return errClosed
	case ctx.Err() != nil:
		return store.Ended(ctx)
	case errors.As(err, &said):
		word := firstWord(said.Error())
		text, known := answers[word]
		switch {
		case slices.Contains(ofSlots, word):
			return store.GroupUnavailable(text)
		case known:
			return store.Unavailable(text)
		}
		return store.Unavailable("Redis refuses what it was asked")
	case errors.Is(err, redis.ErrPoolTimeout), errors.Is(err, redis.ErrPoolExhausted):
		return store.Unavailable("all connections to Redis are busy")
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &network) && network.Timeout():
		return store.Unavailable("Redis does not answer in time")
	case errors.As(err, &network), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return store.Unavailable("Redis cannot be reached" + cause(err))
	}
	return store.Unavailable("Redis cannot be asked")
}

// cause is why Redis cannot be reached, as far as the system says: no name, and nothing that somebody else wrote.
func cause(err error) string {
	var name *net.DNSError
	switch {
	case errors.As(err, &name):
		return ": its name cannot be resolved"
	case errors.Is(err, syscall.ECONNREFUSED):
		return ": nobody listens at its address"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return ": it has closed the connection"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return ": there is no way to its address"
	}
	return ""
}

// firstWord tells errors apart. What a script is not allowed to do has none of its own, before Redis 7.2 and since.
func firstWord(s string) string {
	if strings.Contains(s, "The user executing the script") || strings.Contains(s, "ACL failure in script") {
		return "NOPERM"
	}
	if strings.Contains(s, "access a non local key") { // a script, of a slot that is being moved
		return "TRYAGAIN"
	}
	word, _, _ := strings.Cut(s, " ")
	return strings.TrimPrefix(word, "-")
}

// refusedBy reports whether Redis answered with this error.
func refusedBy(err error, word string) bool {
	var said redis.Error
	return errors.As(err, &said) && firstWord(said.Error()) == word
}

// passing reports whether it may help to ask once more at once: the connection was dead, or the one that was asked is
// about to become what it should be.
func passing(err error) bool {
	var said redis.Error
	if errors.As(err, &said) {
		switch firstWord(said.Error()) {
		case "LOADING", "CLUSTERDOWN", "READONLY", "TRYAGAIN", "MASTERDOWN", "MOVED", "ASK", "UNBLOCKED":
			return true
		}
		return false
	}
	var network net.Error
	if errors.As(err, &network) && network.Timeout() || errors.Is(err, context.DeadlineExceeded) {
		return false // it was waited for already
	}
	return errors.As(err, &network) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}
