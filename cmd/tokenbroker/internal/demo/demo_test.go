package demo

import (
	"testing"

	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

func TestMask(t *testing.T) {
	for in, want := range map[string]string{
		"": "…", "short": "…", "elevenchars": "…", "twelve-chars": "twe…", "a-long-secret-value": "a-l…",
	} {
		if got := mask(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
	got := presentedAs(&tokenbrokerv1.Token{
		Headers:         []*tokenbrokerv1.Header{{Name: "Authorization", Value: "Bearer 0123456789abcdef"}, {Name: "X-Key", Value: "0123456789abcdef"}, {Name: "User-Agent", Value: "agent"}},
		Cookies:         []*tokenbrokerv1.Cookie{{Name: "c", Value: "0123456789abcdef"}},
		QueryParameters: []*tokenbrokerv1.QueryParameter{{Name: "q", Value: "0123456789abcdef"}},
	})
	if want := "Authorization: Bearer 012…, X-Key: 012…, User-Agent: agent, cookie c=012…, ?q=012…"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
