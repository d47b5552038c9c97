package storetest

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/tokenbroker/tokenbroker/store/seal"
)

// KEK is a key-encryption key in memory. Safe for concurrent use.
type KEK struct {
	uri  string
	key  *seal.Keyring
	away atomic.Bool
	hang atomic.Bool
	slow atomic.Int64
	// refuses are what it does not do for who has it.
	refusesWrap, refusesUnwrap atomic.Bool
	// Asked counts what it was asked.
	Asked atomic.Int64
}

var _ seal.KEK = (*KEK)(nil)

// NewKEK draws one of this name.
func NewKEK(name string) *KEK {
	key, err := seal.New()
	if err != nil {
		panic(err) // the cryptographic library refuses
	}
	return &KEK{uri: "memory:" + name, key: key}
}

// Again is the same key, as another process has it.
func (k *KEK) Again() *KEK { return &KEK{uri: k.uri, key: k.key} }

// Away says whether it fails as one that nobody reaches.
func (k *KEK) Away(away bool) { k.away.Store(away) }

// Hang says whether it answers nothing until its caller gives up.
func (k *KEK) Hang(hang bool) { k.hang.Store(hang) }

// Slow says how long each of its answers takes.
func (k *KEK) Slow(by time.Duration) { k.slow.Store(int64(by)) }

// Refuse says what it refuses, as a KMS does whose caller has lost a right: asking again is of no use.
func (k *KEK) Refuse(wrap, unwrap bool) {
	k.refusesWrap.Store(wrap)
	k.refusesUnwrap.Store(unwrap)
}

var errRefused = errors.New("the KEK refuses it")

type kekAway struct{}

func (kekAway) Error() string { return "the KEK cannot be reached now" }
func (kekAway) Passes() bool  { return true }

// URI implements seal.KEK.
func (k *KEK) URI() string { return k.uri }

func (k *KEK) ask(ctx context.Context) error {
	k.Asked.Add(1)
	if k.hang.Load() {
		<-ctx.Done()
	}
	if by := time.Duration(k.slow.Load()); by > 0 {
		select {
		case <-time.After(by):
		case <-ctx.Done():
		}
	}
	if k.away.Load() || ctx.Err() != nil {
		return kekAway{}
	}
	return nil
}

// Wrap implements seal.KEK.
func (k *KEK) Wrap(ctx context.Context, plaintext, associated []byte) ([]byte, error) {
	if err := k.ask(ctx); err != nil {
		return nil, err
	}
	if k.refusesWrap.Load() {
		return nil, errRefused
	}
	return k.key.Seal(plaintext, associated)
}

// Unwrap implements seal.KEK.
func (k *KEK) Unwrap(ctx context.Context, wrapped, associated []byte) ([]byte, error) {
	if err := k.ask(ctx); err != nil {
		return nil, err
	}
	if k.refusesUnwrap.Load() {
		return nil, errRefused
	}
	plain, err := k.key.Open(wrapped, associated)
	if err != nil {
		return nil, errors.New("it was wrapped by another KEK, or is damaged")
	}
	return plain, nil
}
