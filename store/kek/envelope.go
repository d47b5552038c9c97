package kek

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"time"
)

// A wrapper wraps data keys. Its failures are *Failure, without the URI.
type wrapper interface {
	// name is what stays the same when the address moves: what another name has wrapped is not shown to it.
	name() string
	// wrap and unwrap are given a bound context, and as associated data a digest of 32 bytes.
	wrap(ctx context.Context, dataKey []byte, bound [sha256.Size]byte) ([]byte, error)
	unwrap(ctx context.Context, wrapped []byte, bound [sha256.Size]byte) ([]byte, error)
}

// envelope is every KEK: it seals with a data key, and has the wrapper wrap that. Immutable.
type envelope struct {
	uri     string
	timeout time.Duration
	wrapper wrapper
}

// URI implements KEK.
func (e *envelope) URI() string { return e.uri }

// String is the URI.
func (e *envelope) String() string { return e.uri }

// GoString is the URI.
func (e *envelope) GoString() string { return e.uri }

// Wrap implements KEK.
func (e *envelope) Wrap(ctx context.Context, plaintext, associated []byte) ([]byte, error) {
	if len(plaintext) > MaxPlaintext {
		return nil, at(e.uri, invalid("it is asked to wrap more than 1 MiB, which a keyset is not: wrap something smaller"))
	}
	dataKey := make([]byte, dataKeySize)
	_, _ = rand.Read(dataKey) // never fails (crypto/rand)
	defer clear(dataKey)
	name := e.wrapper.name()
	wrapped, err := e.call(ctx, func(ctx context.Context) ([]byte, error) { return e.wrapper.wrap(ctx, dataKey, bind(name, associated)) })
	if err != nil {
		return nil, err
	}
	if len(wrapped) == 0 || len(wrapped) > maxPart {
		return nil, at(e.uri, nonsense())
	}
	h := head(name, wrapped)
	return append(h, aeadOf(dataKey).Seal(nil, nil, plaintext, concat(h, associated))...), nil //nolint:gosec // G407: this GCM draws its nonces
}

// Unwrap implements KEK.
func (e *envelope) Unwrap(ctx context.Context, wrapped, associated []byte) ([]byte, error) {
	f, err := parse(wrapped)
	if err != nil {
		return nil, at(e.uri, err)
	}
	if f.name != e.wrapper.name() {
		return nil, at(e.uri, failure(Another, "this was wrapped by "+f.name+", and the settings name another key: set the one that wrapped it"))
	}
	dataKey, err := e.call(ctx, func(ctx context.Context) ([]byte, error) {
		return e.wrapper.unwrap(ctx, f.dataKey, bind(f.name, associated))
	})
	if err != nil {
		return nil, err
	}
	defer clear(dataKey)
	if len(dataKey) != dataKeySize {
		return nil, at(e.uri, nonsense())
	}
	plaintext, err := aeadOf(dataKey).Open(nil, nil, f.sealed, concat(f.head, associated))
	if err != nil {
		return nil, at(e.uri, damaged())
	}
	return plaintext, nil
}

// call bounds a call. Whoever gave up hears of that, and not of what it did to the call.
func (e *envelope) call(ctx context.Context, do func(context.Context) ([]byte, error)) ([]byte, error) {
	if ctx.Err() != nil {
		return nil, at(e.uri, ended(ctx))
	}
	bounded, cancel := context.WithTimeout(ctx, e.timeout)
	defer cancel()
	out, err := do(bounded)
	if err == nil {
		return out, nil
	}
	clear(out)
	if ctx.Err() != nil {
		err = ended(ctx)
	}
	return nil, at(e.uri, err)
}

// aeadOf is AES-256-GCM. A data key seals once, so that a random nonce is enough.
func aeadOf(dataKey []byte) cipher.AEAD {
	block, err := aes.NewCipher(dataKey)
	if err != nil {
		panic("kek: AES refuses a key of 32 bytes") // a bug of ours: the callers have looked
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic("kek: GCM refuses AES") // the same
	}
	return aead
}

// bind is what a KMS is given as associated data: the purpose, the KEK and what the caller binds to, of one size for every KMS, and without a word
// of it in a KMS's log.
func bind(name string, associated []byte) [sha256.Size]byte {
	b := []byte("tokenbroker kek 1\x00")
	b = binary.AppendUvarint(b, uint64(len(name)))
	b = append(b, name...)
	return sha256.Sum256(append(b, associated...))
}

func concat(a, b []byte) []byte { return append(a[:len(a):len(a)], b...) }
