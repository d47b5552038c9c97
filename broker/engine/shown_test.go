package engine_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/store/storetest"
)

// TestCallersGetNoRefreshTokenHoweverItIsTaken: no reading of a definition tells all the ways by which one gets among what callers are shown. The
// token is not handed out, and the refresh token that came with it is kept.
func TestCallersGetNoRefreshTokenHoweverItIsTaken(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRotating(time.Minute)
		w := seeded(t, r, broker.Facts{})
		w.mustGet("main")
		good := w.up.answer
		w.up.answer = func(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
			a, err := good(ctx, x)
			rotated := a.RefreshToken.Reveal() + strings.Repeat("x", 20)
			a.RefreshToken = broker.NewSecret(rotated)
			r.current[""] = rotated
			a.Values["token"] = broker.NewSecret("the whole answer: " + rotated)
			return a, err
		}
		sleep(5 * time.Minute)
		_, err := w.get("main")
		if f := wantKind(t, err, broker.UpstreamResponseInvalid); !strings.Contains(f.Detail, "callers would get the refresh token") {
			t.Errorf("got %q", f.Detail)
		}
		st, err := storetest.Status(t.Context(), w.store, "main")
		if err != nil || len(st.Grants) != 1 || st.Grants[0].RefreshToken.Reveal() != r.current[""] || len(st.Tokens) > 0 {
			t.Errorf("got %d tokens and %d grants, %v, want the newest refresh token alone", len(st.Tokens), len(st.Grants), err)
		}

		// One that the upstream has not rotated is none of theirs either.
		granted := r.current[""]
		w.up.answer = func(context.Context, broker.Exchange) (broker.Answer, error) {
			return token(`{"t": "access", "r": "`+granted+`"}`, time.Minute), nil
		}
		sleep(time.Hour)
		_, err = w.get("main")
		wantKind(t, err, broker.UpstreamResponseInvalid)

		// Where it is one token for both, callers get that by their right.
		w.up.answer = func(context.Context, broker.Exchange) (broker.Answer, error) {
			a := token(granted, time.Minute)
			a.RefreshToken = broker.NewSecret(granted)
			return a, nil
		}
		sleep(3 * time.Hour)
		if got := w.mustGet("main"); got.Token.AccessToken.Reveal() != granted {
			t.Error("got another token")
		}
	})
}
