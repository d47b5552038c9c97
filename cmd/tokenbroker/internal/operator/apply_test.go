package operator

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/types/known/timestamppb"

	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

func TestDifference(t *testing.T) {
	at := func(second int64) *timestamppb.Timestamp { return &timestamppb.Timestamp{Seconds: second} }
	secret := func(name string, set int64) *tokenbrokerv1.SecretInput {
		return &tokenbrokerv1.SecretInput{Name: name, SetTime: at(set)}
	}
	base := &tokenbrokerv1.Credential{Name: "one", Provider: "p", Inputs: map[string]string{"a": "1"}, Secrets: []*tokenbrokerv1.SecretInput{secret("s", 1)}}
	for _, x := range []struct {
		name          string
		before, after *tokenbrokerv1.Credential
		want          string
	}{
		{"new", nil, &tokenbrokerv1.Credential{
			Name: "one", Provider: "p", Inputs: map[string]string{"a": "1"}, Secrets: []*tokenbrokerv1.SecretInput{secret("s", 1)}, DefaultScopes: []string{"x", "y"}, Labels: map[string]string{"l": "m"},
		}, "+ inputs.a: 1\n+ secrets.s: set\n+ default_scopes: x y\n+ labels.l: m"},
		{"the same", base, base, ""},
		{"all changed", base, &tokenbrokerv1.Credential{
			Name: "one", Provider: "q", Inputs: map[string]string{"a": "2", "b": "3"}, Secrets: []*tokenbrokerv1.SecretInput{secret("s", 2), secret("t", 2)},
			DefaultScopes: []string{"x", "y"}, DefaultAudience: "z", Labels: map[string]string{"l": "m"}, Disabled: true,
		}, "~ provider: p → q\n~ inputs.a: 1 → 2\n+ inputs.b: 3\n~ secrets.s: changed\n+ secrets.t: set\n" +
			"+ default_scopes: x y\n+ default_audience: z\n+ labels.l: m\n~ disabled: false → true"},
		{"all removed", base, &tokenbrokerv1.Credential{Name: "one", Provider: "p"}, "- inputs.a: 1\n- secrets.s: removed"},
	} {
		t.Run(x.name, func(t *testing.T) {
			if got := strings.Join(difference(x.before, x.after), "\n"); got != x.want {
				t.Errorf("got\n%s\nwant\n%s", got, x.want)
			}
		})
	}
}
