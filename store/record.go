package store

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// encode gives a record's plaintext.
func encode(record any) ([]byte, error) {
	data, err := json.Marshal(record)
	if err != nil {
		return nil, errors.New("a record cannot be encoded") // the library's error could quote a value
	}
	return append([]byte{recordVersion}, data...), nil
}

var errRecordDamaged = errors.New("it is damaged")

// decode is the inverse of encode. It never panics, whatever it is given, and its errors quote nothing.
func decode(data []byte, record any) error {
	if len(data) == 0 {
		return errRecordDamaged
	}
	if v := data[0]; v != recordVersion {
		return fmt.Errorf("it has record version %d, and this tokenbroker reads version %d: use a newer one", v, recordVersion)
	}
	if err := json.Unmarshal(data[1:], record); err != nil {
		return errRecordDamaged
	}
	return nil
}

// An id is a broker.ID in hexadecimal.
type id broker.ID

func (i id) IsZero() bool                 { return i == id{} }
func (i id) MarshalText() ([]byte, error) { return hexText(i[:]), nil }
func (i *id) UnmarshalText(t []byte) error {
	return unhexText(i[:], t)
}

// A hash is a fingerprint in hexadecimal.
type hash [32]byte

func (h hash) IsZero() bool                 { return h == hash{} }
func (h hash) MarshalText() ([]byte, error) { return hexText(h[:]), nil }
func (h *hash) UnmarshalText(t []byte) error {
	return unhexText(h[:], t)
}

func hexText(b []byte) []byte { return hex.AppendEncode(nil, b) }

func unhexText(to, text []byte) error {
	if hex.DecodedLen(len(text)) != len(to) {
		return errRecordDamaged
	}
	_, err := hex.Decode(to, text)
	return err
}

// secret is base64 in JSON. broker.Secret itself would be encoded as redacted.
type secret []byte

func reveal(s broker.Secret) secret    { return secret(s.Reveal()) }
func (s secret) secret() broker.Secret { return broker.NewSecret(string(s)) }
func (i id) id() broker.ID             { return broker.ID(i) }
func (t instant) time() time.Time      { return time.Time(t) }
func at(t time.Time) instant           { return instant(t) }

// listed is f of each, and nil of nil.
func listed[V, W any](l []V, f func(V) W) []W {
	if l == nil {
		return nil
	}
	out := make([]W, len(l))
	for i, v := range l {
		out[i] = f(v)
	}
	return out
}

// mapped is a map with each value as f makes it; nil stays nil.
func mapped[K comparable, V, W any](m map[K]V, f func(V) W) map[K]W {
	if m == nil {
		return nil
	}
	all := make(map[K]W, len(m))
	for k, v := range m {
		all[k] = f(v)
	}
	return all
}

func revealAll(m map[string]broker.Secret) map[string]secret { return mapped(m, reveal) }
func secretsOf(m map[string]secret) map[string]broker.Secret { return mapped(m, secret.secret) }

// An instant is [seconds, nanoseconds] in JSON: time.Time refuses years after 9999, and what an upstream says must not be
// able to make a commit fail.
type instant time.Time

func (t instant) IsZero() bool { return time.Time(t).IsZero() }

func (t instant) MarshalJSON() ([]byte, error) {
	return json.Marshal([2]int64{time.Time(t).Unix(), int64(time.Time(t).Nanosecond())})
}

func (t *instant) UnmarshalJSON(data []byte) error {
	var parts [2]int64
	if err := json.Unmarshal(data, &parts); err != nil {
		return errRecordDamaged
	}
	*t = instant(time.Unix(parts[0], parts[1]).UTC())
	return nil
}

// rememberedRecord is a broker.Remembered. The kind is stored by name: numbers change.
type rememberedRecord struct {
	Kind           string  `json:"kind"`
	At             instant `json:"at,omitzero"`
	RetryAt        instant `json:"retry_at,omitzero"`
	Count          int     `json:"count,omitzero"`
	UpstreamStatus int     `json:"upstream_status,omitzero"`
	UpstreamError  string  `json:"upstream_error,omitzero"`
	Detail         string  `json:"detail,omitzero"`
	// RetryEnds is RetryAt by the backend's clock; 0: in a record of a former version, or where no clock was asked.
	RetryEnds stored `json:"retry_ends,omitzero"`
}

// stored is a moment by the backend's clock, in nanoseconds since 1970; 0: not known.
type stored int64

func storedAt(t time.Time) stored {
	if t.IsZero() {
		return 0
	}
	return stored(t.UnixNano())
}

func (s stored) time() time.Time { return time.Unix(0, int64(s)) }

func fromRemembered(r broker.Remembered) rememberedRecord {
	return rememberedRecord{
		Kind: r.Kind.Name(), At: at(r.At), RetryAt: at(r.RetryAt), Count: r.Count,
		UpstreamStatus: r.UpstreamStatus, UpstreamError: r.UpstreamError, Detail: r.Detail,
	}
}

func (r rememberedRecord) remembered() broker.Remembered {
	return broker.Remembered{
		Kind: broker.KindNamed(r.Kind), At: r.At.time(), RetryAt: r.RetryAt.time(), Count: r.Count,
		UpstreamStatus: r.UpstreamStatus, UpstreamError: r.UpstreamError, Detail: r.Detail,
	}
}

// remember makes the record of a failure that other brokers are to share.
func (n *snapshot) remember(r broker.Remembered) rememberedRecord {
	record := fromRemembered(r)
	if !r.RetryAt.IsZero() {
		record.RetryEnds = storedAt(n.ends(r.RetryAt))
	}
	return record
}

// recall is the inverse of remember: whoever wrote it, it may be tried again when the backend's clock says so. nil: none.
func (n *snapshot) recall(r *rememberedRecord) *broker.Remembered {
	if r == nil {
		return nil
	}
	remembered := r.remembered()
	if n.s.ahead(remembered.At, n.asked) {
		return nil
	}
	if r.RetryEnds != 0 {
		remembered.RetryAt = n.s.over(remembered.RetryAt, n.local(r.RetryEnds.time()))
	}
	return &remembered
}
