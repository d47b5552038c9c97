package server

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"pgregory.net/rapid"

	"github.com/tokenbroker/tokenbroker/broker"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

func newValidator(t testing.TB) protovalidate.Validator {
	v, err := protovalidate.New(protovalidate.WithMessages(requests()...), protovalidate.WithDisableLazy())
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// wantContract holds the verdict of the short way against the contract's: what is waved through the contract allows, always; and
// what the contract allows is waved through, where the request is of the usual kind, in ASCII, and has no odd duration: one that is malformed or the very longest.
func wantContract(t interface{ Errorf(string, ...any) }, v protovalidate.Validator, r *get) {
	plain, err := plainlyValid(r), v.Validate(r)
	usual := r.GetAudience() == "" && len(r.GetParameters()) == 0 && len(r.GetResources()) == 0 && r.GetRejectedTokenId() == "" &&
		(r.GetMinTtl() == nil || r.GetMinTtl().IsValid() && r.GetMinTtl().GetSeconds() != minTTLMost)
	for _, s := range r.GetScopes() {
		usual = usual && !strings.ContainsFunc(s, func(c rune) bool { return c > unicode.MaxASCII })
	}
	if plain && err != nil || usual && plain != (err == nil) {
		t.Errorf("%.200v: waved through: %v, and the contract says: %v", r, plain, err)
	}
}

type get = tokenbrokerv1.GetTokenRequest

// usualRequest draws a request for a token whose every part is below, at or above a limit of the contract, or of another kind.
func usualRequest(t *rapid.T) *get {
	around := func(limit int) *rapid.Generator[int] {
		return rapid.SampledFrom([]int{0, 1, max(limit-1, 0), limit, limit + 1})
	}
	name := rapid.OneOf(
		rapid.StringMatching(`[a-z0-9._-]{0,66}`), rapid.StringMatching(`[a-z0-9]([a-z0-9._-]{60,62}[a-z0-9])?`),
		rapid.StringMatching(`[a-zA-Z0-9._/ -]{1,4}`), rapid.String(), rapid.Just("main"),
	)
	scope := rapid.Map(around(scopeMost), func(n int) string { return strings.Repeat("s", n) })
	long := rapid.Map(around(scopeMost), func(n int) string { return strings.Repeat("é", n) })
	r := &get{Credential: name.Draw(t, "credential")}
	r.Scopes = rapid.SliceOfN(rapid.OneOf(rapid.Just("a"), scope, long), 0, 4).Draw(t, "scopes")
	if rapid.IntRange(0, 3).Draw(t, "many") == 0 {
		r.Scopes = slices.Repeat([]string{"a"}, around(scopesMost).Draw(t, "n"))
	}
	if rapid.Bool().Draw(t, "has min_ttl") {
		seconds := rapid.SampledFrom([]int64{math.MinInt64, -1, 0, 1, minTTLMost - 1, minTTLMost, minTTLMost + 1, math.MaxInt64})
		nanos := rapid.SampledFrom([]int32{math.MinInt32, -1, 0, 1, 999_999_999, 1_000_000_000, math.MaxInt32})
		r.MinTtl = &durationpb.Duration{Seconds: seconds.Draw(t, "seconds"), Nanos: nanos.Draw(t, "nanos")}
	}
	if rapid.IntRange(0, 3).Draw(t, "other") == 0 {
		r.Audience = rapid.StringN(0, 3, 9).Draw(t, "audience")
		r.Resources = rapid.SliceOfN(rapid.SampledFrom([]string{"", "https://a.example", "no uri"}), 0, 2).Draw(t, "resources")
		r.Parameters = rapid.MapOfN(rapid.StringN(0, 3, 9), rapid.StringN(0, 3, 9), 0, 2).Draw(t, "parameters")
		r.RejectedTokenId = strings.Repeat("x", around(128).Draw(t, "rejected"))
	}
	return r
}

func TestTheShortWayIsTheContracts(t *testing.T) {
	v := newValidator(t)
	rapid.Check(t, func(t *rapid.T) { wantContract(t, v, usualRequest(t)) })
}

// Whatever is written is a name for the broker exactly where it is one for the contract.
func TestTheBrokersNamesAreTheContracts(t *testing.T) {
	v, pattern := newValidator(t), regexp.MustCompile(namePattern)
	want := func(t interface{ Errorf(string, ...any) }, name string) {
		if broker.IsCredentialName(name) != pattern.MatchString(name) {
			t.Errorf("%q: got %v, want %v", name, broker.IsCredentialName(name), pattern.MatchString(name))
		}
	}
	for c := range 256 {
		b := string([]byte{byte(c)})
		for _, name := range []string{b, "a" + b, b + "a", "a" + b + "a"} {
			want(t, name)
			if utf8.ValidString(name) {
				wantContract(t, v, &get{Credential: name})
			}
		}
	}
	for n := range 130 {
		for _, name := range []string{strings.Repeat("a", n), "a" + strings.Repeat(".", n) + "a", strings.Repeat("é", n)} {
			want(t, name)
			wantContract(t, v, &get{Credential: name})
		}
	}
	rapid.Check(t, func(t *rapid.T) { want(t, rapid.StringMatching(`[a-z0-9._\n-]{0,65}`).Draw(t, "name")) })
}

// The short way looks at every field, and at everything that the contract says of those that it waves through.
func TestTheShortWayKnowsEveryRule(t *testing.T) {
	str := func(s *validate.StringRules) *validate.FieldRules {
		return &validate.FieldRules{Type: &validate.FieldRules_String_{String_: s}}
	}
	known := map[protoreflect.Name]*validate.FieldRules{
		"credential": str(&validate.StringRules{Pattern: &namePattern}),
		"scopes": {Type: &validate.FieldRules_Repeated{Repeated: &validate.RepeatedRules{
			MaxItems: proto.Uint64(uint64(scopesMost)),
			Items:    str(&validate.StringRules{MinLen: proto.Uint64(uint64(scopeLeast)), MaxLen: proto.Uint64(uint64(scopeMost))}),
		}}},
		"min_ttl": {Type: &validate.FieldRules_Duration{Duration: &validate.DurationRules{
			GreaterThan: &validate.DurationRules_Gte{Gte: &durationpb.Duration{Seconds: minTTLLeast}},
			LessThan:    &validate.DurationRules_Lte{Lte: &durationpb.Duration{Seconds: minTTLMost}},
		}}},
		"audience": nil, "parameters": nil, "resources": nil, "rejected_token_id": nil, // never waved through
	}
	d := (&get{}).ProtoReflect().Descriptor()
	if d.Fields().Len() != len(known) || proto.HasExtension(d.Options(), validate.E_Message) {
		t.Errorf("the request has %d fields or rules of its own: does plainlyValid look at each?", d.Fields().Len())
	}
	for field, want := range known {
		if got := rulesOf(&get{}, field); want != nil && !proto.Equal(got, want) {
			t.Errorf("%s: the contract says %v, and plainlyValid knows %v", field, got, want)
		}
	}
	if scopesMost < 1 || scopeLeast < 1 || scopeMost < 1 || minTTLMost < 1 || namePattern == "" {
		t.Error("a limit is not in the contract any more")
	}
}

func TestARefusalIsNeverLargerThanItsCallersCanRead(t *testing.T) {
	e := &edge{validator: newValidator(t)}
	var f *broker.Failure
	for _, r := range []*get{
		{Credential: "main", Scopes: make([]string, 100_000)},
		{Credential: "main", Parameters: map[string]string{strings.Repeat("é", 100_000): ""}},
	} {
		if !errors.As(e.validate(r), &f) || len(f.Violations) == 0 {
			t.Fatal("it was not refused")
		}
		s, _ := toStatus(f, "id", time.Now())
		if n := proto.Size(s.Proto()); n > 8<<10 {
			t.Errorf("got a status of %d bytes", n)
		}
	}
}

func FuzzTheShortWay(f *testing.F) {
	v := newValidator(f)
	for i, r := range []*get{
		{}, {Credential: "main"}, {Credential: "a.b-c_d", Scopes: []string{"a", "b"}}, {Credential: "main", MinTtl: &durationpb.Duration{Seconds: 5}},
		{Credential: "main", MinTtl: &durationpb.Duration{Seconds: minTTLMost, Nanos: 1}}, {Credential: "main", Scopes: []string{strings.Repeat("s", scopeMost+1)}},
	} {
		b, err := proto.Marshal(r)
		if err != nil {
			f.Fatal(fmt.Errorf("%d: %w", i, err))
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r := &get{}
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
