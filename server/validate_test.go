package server

import (
	"fmt"
	"strings"
	"testing"

	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tokenbroker/tokenbroker/broker"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

// wantContract holds a request that is waved through against the contract.
func wantContract(t *testing.T, v protovalidate.Validator, r *tokenbrokerv1.GetTokenRequest) (plain bool) {
	t.Helper()
	plain = plainlyValid(r)
	if !plain {
		return false
	}
	if err := v.Validate(r); err != nil {
		t.Errorf("%v is waved through: %v", r, err)
	}
	if _, err := broker.ParseCredentialName(r.GetCredential()); err != nil {
		t.Errorf("%v is waved through: %v", r, err)
	}
	return true
}

func newValidator(t testing.TB) protovalidate.Validator {
	v, err := protovalidate.New(protovalidate.WithMessages(requests()...))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// The contract says what a request may be, and the short way must never be wider: neither now nor when the contract changes.
func TestTheShortWayIsNotWiderThanTheContract(t *testing.T) {
	v := newValidator(t)
	var names []string
	for c := range 256 {
		s := string([]byte{byte(c)})
		names = append(names, s, "a"+s, s+"a", "a"+s+"a")
	}
	for n := range 70 {
		names = append(names, strings.Repeat("a", n), "a"+strings.Repeat(".", n)+"a")
	}
	for _, name := range names {
		valid := v.Validate(&tokenbrokerv1.GetTokenRequest{Credential: name}) == nil
		if got := wantContract(t, v, &tokenbrokerv1.GetTokenRequest{Credential: name}); got != valid {
			t.Errorf("%q: got %v, want %v", name, got, valid)
		}
	}
	long := strings.Repeat("s", scopeBytes)
	for _, c := range []struct {
		r     *tokenbrokerv1.GetTokenRequest
		plain bool
	}{
		{&tokenbrokerv1.GetTokenRequest{Scopes: []string{"a", long}}, true},
		{&tokenbrokerv1.GetTokenRequest{Scopes: []string{"a", long + "s"}}, false},
		{&tokenbrokerv1.GetTokenRequest{Scopes: []string{""}}, false},
		{&tokenbrokerv1.GetTokenRequest{Scopes: make([]string, 101)}, false},
		{&tokenbrokerv1.GetTokenRequest{Scopes: strings.Split(strings.Repeat("a,", 99)+"a", ",")}, true},
		{&tokenbrokerv1.GetTokenRequest{Scopes: strings.Split(strings.Repeat("a,", 100)+"a", ",")}, false},
		{&tokenbrokerv1.GetTokenRequest{MinTtl: &durationpb.Duration{}}, true},
		{&tokenbrokerv1.GetTokenRequest{MinTtl: &durationpb.Duration{Seconds: plainTTL - 1, Nanos: 999999999}}, true},
		{&tokenbrokerv1.GetTokenRequest{MinTtl: &durationpb.Duration{Seconds: plainTTL}}, false},
		{&tokenbrokerv1.GetTokenRequest{MinTtl: &durationpb.Duration{Seconds: -1}}, false},
		{&tokenbrokerv1.GetTokenRequest{MinTtl: &durationpb.Duration{Nanos: -1}}, false},
		{&tokenbrokerv1.GetTokenRequest{MinTtl: &durationpb.Duration{Nanos: 1e9}}, false},
		{&tokenbrokerv1.GetTokenRequest{Audience: "a"}, false},
		{&tokenbrokerv1.GetTokenRequest{Parameters: map[string]string{"a": "b"}}, false},
		{&tokenbrokerv1.GetTokenRequest{Resources: []string{"https://a.example"}}, false},
		{&tokenbrokerv1.GetTokenRequest{RejectedTokenId: "x"}, false},
	} {
		c.r.Credential = "main"
		if got := wantContract(t, v, c.r); got != c.plain {
			t.Errorf("%v: got %v, want %v", c.r, got, c.plain)
		}
	}
	// A field that is added to the contract is not waved through unseen.
	if n := (&tokenbrokerv1.GetTokenRequest{}).ProtoReflect().Descriptor().Fields().Len(); n != 7 {
		t.Errorf("a request has %d fields: does plainlyValid look at each?", n)
	}
}

func FuzzTheShortWay(f *testing.F) {
	v := newValidator(f)
	for i, r := range []*tokenbrokerv1.GetTokenRequest{
		{}, {Credential: "main"}, {Credential: "a.b-c_d", Scopes: []string{"a", "b"}}, {Credential: "main", MinTtl: &durationpb.Duration{Seconds: 5}},
	} {
		b, err := proto.Marshal(r)
		if err != nil {
			f.Fatal(fmt.Errorf("%d: %w", i, err))
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r := &tokenbrokerv1.GetTokenRequest{}
		if proto.Unmarshal(b, r) != nil {
			t.Skip()
		}
		wantContract(t, v, r)
	})
}

func BenchmarkValidate(b *testing.B) {
	e := &edge{validator: newValidator(b)}
	for _, c := range []struct {
		name string
		r    *tokenbrokerv1.GetTokenRequest
	}{
		{"plain", &tokenbrokerv1.GetTokenRequest{Credential: "main"}},
		{"contract", &tokenbrokerv1.GetTokenRequest{Credential: "main", Audience: "a"}},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := e.validate(c.r); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
