package store

import (
	"bytes"
	"errors"
	"reflect"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/store/seal"
)

// FuzzOpen: what was changed, in the ciphertext or in where it is said to belong, does not open and does not panic.
func FuzzOpen(f *testing.F) {
	k, err := seal.New()
	if err != nil {
		f.Fatal(err)
	}
	s := &Store{}
	s.keyring.Store(k)
	home := binding{key: Key{kindGrant, [32]byte{1}}, subject: "name", incarnation: broker.ID{2}}
	record := grantRecord{Generation: id{1}, RefreshToken: secret("refresh token")}
	put, err := s.seal(home, record)
	if err != nil {
		f.Fatal(err)
	}
	var opened grantRecord
	if err := s.open(home, Row{Value: put.Value}, &opened); err != nil || !reflect.DeepEqual(opened, record) {
		f.Fatalf("open what was sealed: %+v, %v", opened, err)
	}
	f.Add(0, byte(1), 0, []byte(nil), "name", "grant", []byte{2}, []byte{1})                // a bit of the version
	f.Add(3, byte(1), 0, []byte(nil), "name", "grant", []byte{2}, []byte{1})                // of the key id
	f.Add(10, byte(0x80), 0, []byte(nil), "name", "grant", []byte{2}, []byte{1})            // of the nonce
	f.Add(len(put.Value)-1, byte(1), 0, []byte(nil), "name", "grant", []byte{2}, []byte{1}) // of the tag
	f.Add(0, byte(0), 1, []byte(nil), "name", "grant", []byte{2}, []byte{1})                // cut
	f.Add(0, byte(0), len(put.Value), []byte(nil), "name", "grant", []byte{2}, []byte{1})
	f.Add(0, byte(0), 0, []byte{0}, "name", "grant", []byte{2}, []byte{1}) // longer
	f.Add(0, byte(0), 0, []byte(nil), "nam", "egrant", []byte{2}, []byte{1})
	f.Add(0, byte(0), 0, []byte(nil), "name", "token", []byte{2}, []byte{1})
	f.Add(0, byte(0), 0, []byte(nil), "name", "grant", []byte{3}, []byte{1})
	f.Add(0, byte(0), 0, []byte(nil), "name", "grant", []byte{2}, []byte{2})
	f.Add(0, byte(0), 0, []byte(nil), "name", "grant", []byte{2}, []byte{1})
	f.Fuzz(func(t *testing.T, at int, bit byte, cut int, more []byte, subject, kind string, incarnation, keyID []byte) {
		value := bytes.Clone(put.Value)
		if cut > 0 && cut <= len(value) {
			value = value[:len(value)-cut]
		}
		if at >= 0 && at < len(value) {
			value[at] ^= bit
		}
		value = append(value, more...)
		p := binding{key: Key{Kind: Kind(kind)}, subject: subject}
		copy(p.incarnation[:], incarnation)
		copy(p.key.ID[:], keyID)
		var r grantRecord
		err := s.open(p, Row{Value: value}, &r)
		same := bytes.Equal(value, put.Value) && p == home
		if (err == nil) != same {
			t.Fatalf("changed: %v, open: %v", !same, err)
		}
		if err != nil && !errors.Is(err, broker.RecordUnreadable) {
			t.Fatalf("got %v, want one that is RecordUnreadable", err)
		}
	})
}

// FuzzRecord: the plaintext of a record, whatever it is, is decoded or refused, never panicked over; and what was decoded is
// the same after it was encoded again.
func FuzzRecord(f *testing.F) {
	for _, r := range records() {
		plain, err := encode(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(plain)
	}
	for _, text := range []string{
		"", "\x00", "\x01", "\x02{}", "\x01null", "\x01{}", "\x01[]", "\x01{\"generation\":\"zz\"}", "\x01{\"incarnation\":\"00\"}",
		"\x01{\"given_at\":[1]}", "\x01{\"given_at\":[9223372036854775807,9223372036854775807]}", "\x01{\"given_at\":\"now\"}",
		"\x01{\"default_scopes\":[\"\"]}", "\x01{\"selection\":{\"scopes\":[\"a\\u001fb\"],\"resources\":[\"\\u0000\"]}}",
		"\x01{\"receipts\":\"AAAA\"}", "\x01{\"refused\":{\"kind\":\"nobody\"}}", "\x01{\"refresh_token\":\"***\"}",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, plain []byte) {
		for _, r := range records() {
			to := reflect.New(reflect.TypeOf(r))
			if decode(plain, to.Interface()) != nil {
				continue
			}
			switch r := to.Interface().(type) {
			case *credentialRecord:
				if c, err := r.credential("n"); err == nil && len(c.Secrets) != len(r.Secrets) {
					t.Errorf("got %d secrets, want %d", len(c.Secrets), len(r.Secrets))
				}
			case *tokenRecord:
				_ = r.token()
			case *grantRecord:
				_ = (&snapshot{s: &Store{}}).grant(*r)
			case *historyRecord:
				_ = r.attempts()
			case *healthRecord:
				_ = r.failure(broker.ID{}, "")
			}
			again, err := encode(to.Interface())
			if err != nil {
				t.Fatalf("%T does not encode again: %v", r, err)
			}
			twice := reflect.New(reflect.TypeOf(r))
			if err := decode(again, twice.Interface()); err != nil {
				t.Fatalf("%T does not decode again: %v", r, err)
			}
			if third, _ := encode(twice.Interface()); !bytes.Equal(again, third) {
				t.Errorf("%T changes when it is encoded again", r)
			}
		}
	})
}

// records has one of each, filled.
func records() []any {
	remembered := rememberedRecord{Kind: "scope_refused", Count: 2, UpstreamStatus: 400, UpstreamError: "invalid_scope"}
	return []any{
		credentialRecord{
			Provider: "p", Inputs: map[string]string{"a": "b"}, Secrets: map[string]inputRecord{"s": {Value: secret("v"), Former: secret("\xff")}},
			Seeds: map[string]seedRecord{"r": {Hash: id{1}}}, DefaultScopes: []string{"a"}, Incarnation: id{1}, Version: id{2},
		},
		grantRecord{Generation: id{1}, RefreshToken: secret("r"), Held: map[string]secret{"h": secret("x")}, Refused: &remembered},
		leaseRecord{Owner: id{1}, Spends: true},
		tokenRecord{
			ID: "t", Values: map[string]secret{"token": secret("v")}, Headers: []fieldRecord{{"n", secret("v")}}, Granted: []string{"a"},
			Selection: selectionRecord{"a"}, SelectionID: hash{1}, Source: "token",
		},
		failureRecord{Version: id{1}, Failure: remembered},
		healthRecord{Version: id{1}, Digest: "d", Failure: &remembered, FormerWorked: id{1}},
		historyRecord{Attempts: []attemptRecord{{Host: "h", Taken: []string{"token"}}}, Receipts: make([]byte, 17)},
		backoffRecord{Failures: 1, Last: remembered},
	}
}
