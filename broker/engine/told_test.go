package engine_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// TestEverybodyIsToldTheSame: why an upstream fails is told alike to whoever tests, to whoever asks meanwhile, and by the status.
func TestEverybodyIsToldTheSame(t *testing.T) {
	for name, c := range map[string]struct {
		fails broker.UpstreamError
		want  broker.Kind
		says  string
	}{
		"unreachable":           {broker.UpstreamError{Level: broker.LevelUpstream, Detail: "nobody listens there"}, broker.UpstreamUnavailable, "nobody listens there"},
		"nothing was chosen":    {broker.UpstreamError{Level: broker.LevelRequest, Status: 400, Code: "invalid_request"}, broker.CredentialMisconfigured, "want scopes"},
		"no scope was chosen":   {broker.UpstreamError{Level: broker.LevelScope, Status: 400, Code: "invalid_scope"}, broker.CredentialMisconfigured, "credential update --default-scope"},
		"no target was chosen":  {broker.UpstreamError{Level: broker.LevelTarget, Status: 400, Code: "invalid_target"}, broker.CredentialMisconfigured, "credential update --default-audience"},
		"no such body":          {broker.UpstreamError{Level: broker.LevelCredential, Status: 415, Detail: "look whether it sends form"}, broker.CredentialMisconfigured, "refuses the request that is made for this credential: look whether"},
		"the client is unknown": {broker.UpstreamError{Level: broker.LevelCredential, Status: 401, Code: "invalid_client"}, broker.CredentialMisconfigured, "status 401, invalid_client"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				up := &upstream{answer: func(context.Context, broker.Exchange) (broker.Answer, error) {
					e := c.fails
					e.Attempts = []broker.Attempt{{Start: time.Now(), Host: "a", Status: e.Status, UpstreamError: e.Code, Reason: e.Kind().Name(), Detail: e.Detail}}
					return broker.Answer{}, &e
				}}
				w := newWorld(t, up)
				w.create("main", nil)
				trial, err := w.TestCredential(context.Background(), local, "main", broker.Selection{}, false)
				if err != nil {
					t.Fatal(err)
				}
				says := func(who string, f *broker.Failure) {
					t.Helper()
					if f == nil || f.Kind != c.want || !strings.Contains(f.Summary(), c.says) {
						t.Errorf("%s: got %v, want %v with %q", who, f, c.want, c.says)
					}
				}
				status := func(after string) {
					t.Helper()
					rep, err := w.CredentialStatus(context.Background(), local, "main")
					if err != nil {
						t.Fatal(err)
					}
					says("status after "+after, rep.Failure)
				}
				says("test", trial.Failure)
				status("the test")
				for _, who := range []string{"first caller", "next caller"} {
					_, err = w.get("main")
					says(who, wantKind(t, err, c.want))
				}
				status("the calls")
				rep, err := w.CredentialStatus(context.Background(), local, "main")
				if err != nil {
					t.Fatal(err)
				}
				secret := c.fails.Code == "invalid_client"
				if c.want == broker.CredentialMisconfigured && (strings.Contains(rep.Failure.Summary(), "set its secret again") != secret || strings.Contains(rep.Advice, "rotate-secret") != secret) {
					t.Errorf("got %q and %q, want the secret named: %v", rep.Failure.Summary(), rep.Advice, secret)
				}
			})
		})
	}
}
