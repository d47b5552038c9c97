package operator

import (
	"bytes"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

// TestTextFitsItsColumns: what operators look at every day, with values that are long and usual.
func TestTextFitsItsColumns(t *testing.T) {
	ago := timestamppb.New(time.Now().Add(-47 * time.Hour))
	soon := timestamppb.New(time.Now().Add(59*time.Minute + 59*time.Second))
	status := &tokenbrokerv1.GetCredentialStatusResponse{
		State: tokenbrokerv1.CredentialState_CREDENTIAL_STATE_MISCONFIGURED, Reason: "CREDENTIAL_MISCONFIGURED",
		Message: "credential oauth2-client-credentials-basic-1: the upstream refuses this client: check the credential's inputs and set its secret again (upstream status 401, invalid_client)",
		Advice:  "check the inputs, set the secret again with `credential rotate-secret`; `credential test` tries at once", LastSuccessTime: ago, NextAttemptTime: soon,
		Tokens: []*tokenbrokerv1.HeldToken{{
			TokenId: "b7101000ffebb893bcf17a0bda360614", ExpireTime: soon, RefreshTime: ago, Scopes: []string{"accounts:read", "email", "hubs:read", "officernd.api.write"},
		}},
		Attempts: []*tokenbrokerv1.Attempt{
			{StartTime: ago, Host: "login-emea.docuware.cloud:443", Status: 401, Reason: "CREDENTIAL_MISCONFIGURED", UpstreamError: "invalid_client", Duration: durationpb.New(time.Second)},
			{StartTime: ago, Host: "login-emea.docuware.cloud:8443", Reason: "UPSTREAM_RESPONSE_INVALID"},
			{StartTime: ago, Host: "login-emea.docuware.cloud:443", Status: 200, Taken: []string{"token", "refresh_token", "expires_in", "scope"}},
		},
	}
	list := []*tokenbrokerv1.Credential{
		{Name: "oauth2-client-credentials-basic-1", Provider: "oauth2-client-credentials-basic", State: tokenbrokerv1.CredentialState_CREDENTIAL_STATE_REAUTHORIZATION_REQUIRED, UpdateTime: ago},
		{Name: "officernd-main", Provider: "officernd", UpdateTime: ago},
	}
	for name, print := range map[string]func(*bytes.Buffer) error{
		"credential status": func(b *bytes.Buffer) error { return printStatus(b, console.Format{}, status) },
		"credential list":   func(b *bytes.Buffer) error { return (&credentialListCommand{}).print(b, list) },
	} {
		var b bytes.Buffer
		if err := print(&b); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(b.String()) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > console.Columns {
				t.Errorf("%s: got %d columns, want at most %d:\n%s", name, n, console.Columns, &b)
				break
			}
		}
		if strings.Contains(b.String(), "refreshed") {
			t.Errorf("%s: a refresh that is due is not one that was:\n%s", name, &b)
		}
	}
}
