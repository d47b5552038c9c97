package operator

import (
	"bytes"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

func TestDifference(t *testing.T) {
	at := func(second int64) *timestamppb.Timestamp { return &timestamppb.Timestamp{Seconds: second} }
	secret := func(name string, set int64) *tokenbrokerv1.SecretInput {
		return &tokenbrokerv1.SecretInput{Name: name, SetTime: at(set)}
	}
	d := declared{name: "one", provider: "p", inputs: map[string]string{"b": "2", "a": "1"}, secrets: map[string]string{"s": "sEcReT"}}
	base := &tokenbrokerv1.Credential{Name: "one", Provider: "p", Inputs: map[string]string{"a": "1"}, Secrets: []*tokenbrokerv1.SecretInput{secret("s", 1)}}
	for _, x := range []struct {
		name          string
		before, after *tokenbrokerv1.Credential
		want          string
	}{
		{"new", nil, base, "+ one (p)\n    + inputs.a: 1\n    + inputs.b: 2\n    + secrets.s: set\n"},
		{"the same", base, base, ""},
		{"all changed", base, &tokenbrokerv1.Credential{
			Name: "one", Provider: "q", Inputs: map[string]string{"a": "2", "b": "3"}, Secrets: []*tokenbrokerv1.SecretInput{secret("s", 2), secret("t", 2)},
			DefaultScopes: []string{"x", "y"}, DefaultAudience: "z", Labels: map[string]string{"l": "m"}, Disabled: true,
		}, "~ one\n    ~ provider: p → q\n    ~ inputs.a: 1 → 2\n    + inputs.b: 3\n    ~ secrets.s: changed\n    + secrets.t: set\n" +
			"    + default_scopes: x y\n    + default_audience: z\n    + labels.l: m\n    ~ disabled: false → true\n"},
		{"all removed", base, &tokenbrokerv1.Credential{Name: "one", Provider: "p"}, "~ one\n    - inputs.a: 1\n    - secrets.s: removed\n"},
	} {
		t.Run(x.name, func(t *testing.T) {
			var out bytes.Buffer
			changed := difference(&out, x.before, x.after, d)
			if out.String() != x.want || changed != (x.want != "") {
				t.Errorf("got %v\n%s\nwant\n%s", changed, &out, x.want)
			}
		})
	}
}

func TestWhen(t *testing.T) {
	now := time.Now()
	for _, x := range []struct {
		at   *timestamppb.Timestamp
		want string
	}{
		{nil, "-"},
		{timestamppb.New(now.Add(-time.Millisecond)), "0s ago ("},
		{timestamppb.New(now.Add(-25 * time.Hour)), "25h0m0s ago ("},
		{timestamppb.New(now.Add(1000 * time.Hour)), "in "},
	} {
		if got := when(x.at); !bytes.HasPrefix([]byte(got), []byte(x.want)) {
			t.Errorf("got %q, want %q…", got, x.want)
		}
	}
}
