package operator

import (
	"testing"

	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

func TestEventLines(t *testing.T) {
	t.Parallel()
	for want, e := range map[string]*tokenbrokerv1.WatchTokenResponse{
		"token a1 expires -":                     {Event: &tokenbrokerv1.WatchTokenResponse_Token{Token: &tokenbrokerv1.Token{TokenId: "a1", AccessToken: "hidden"}}},
		"invalidated a1: do not use it any more": {Event: &tokenbrokerv1.WatchTokenResponse_InvalidatedTokenId{InvalidatedTokenId: "a1"}},
		"all is well":                            {Event: &tokenbrokerv1.WatchTokenResponse_State{State: &tokenbrokerv1.TokenState{}}},
		"degraded: the token is valid, its refresh fails: UPSTREAM_UNAVAILABLE, next attempt -": {Event: &tokenbrokerv1.WatchTokenResponse_State{
			State: &tokenbrokerv1.TokenState{Degraded: true, Reason: "UPSTREAM_UNAVAILABLE"},
		}},
		"no token: UPSTREAM_UNAVAILABLE, next attempt -": {Event: &tokenbrokerv1.WatchTokenResponse_State{
			State: &tokenbrokerv1.TokenState{Reason: "UPSTREAM_UNAVAILABLE"},
		}},
	} {
		if got := eventLine(e); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
