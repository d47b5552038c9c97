package product

import (
	"bytes"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/internal/upstreamsim"
)

func (r *rig) read(name string) *cred {
	r.t.Helper()
	return do(r.t, r.credentials.GetCredential, &tokenbrokerv1.GetCredentialRequest{Name: name}).GetCredential()
}

func (r *rig) status(name string) *tokenbrokerv1.GetCredentialStatusResponse {
	r.t.Helper()
	return do(r.t, r.credentials.GetCredentialStatus, &tokenbrokerv1.GetCredentialStatusRequest{Name: name})
}

func wantSame(t testing.TB, got, want *cred) {
	t.Helper()
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("got another credential (-want +got):\n%s", diff)
	}
}

func TestACredentialIsReadAsItWasWritten(t *testing.T) {
	r := newRig(t, rigOptions{})
	a := r.account(upstreamsim.OfficeRnD)
	made := do(t, r.credentials.CreateCredential, &create{Credential: &cred{
		Name: "main", Provider: "officernd", Inputs: a.Inputs, DefaultScopes: []string{"officernd.api.write", "officernd.api.read"},
		Labels: map[string]string{"env": "prod"},
	}, Secrets: a.Secrets}).GetCredential()
	got := r.read("main")
	wantSame(t, got, made)
	if strings.Join(got.GetDefaultScopes(), " ") != "officernd.api.read officernd.api.write" || got.GetInputs()["client_id"] != a.Inputs["client_id"] ||
		got.GetLabels()["env"] != "prod" || got.GetState() != tokenbrokerv1.CredentialState_CREDENTIAL_STATE_UNUSED || got.GetEtag() == "" || got.GetVersion() != 1 {
		t.Errorf("got %v", got)
	}
	if s := got.GetSecrets(); len(s) != 1 || s[0].GetName() != "client_secret" || s[0].GetSetTime() == nil {
		t.Errorf("got secrets %v, want the name and time of one", s)
	}
	r.mustGet("main")
	if s := r.read("main").GetState(); s != tokenbrokerv1.CredentialState_CREDENTIAL_STATE_READY {
		t.Errorf("got state %v after an exchange, want READY", s)
	}
}

func TestCreatingTwiceIsRefusedButForTheSameRequest(t *testing.T) {
	r := newRig(t, rigOptions{})
	a := r.account(upstreamsim.OfficeRnD)
	req := &create{
		Credential: &cred{Name: "main", Provider: "officernd", Inputs: a.Inputs}, Secrets: a.Secrets,
		RequestId: "0b8c7a3e-5f2d-4c1b-9e8a-7d6f5e4c3b2a",
	}
	first := do(t, r.credentials.CreateCredential, req).GetCredential()
	wantSame(t, do(t, r.credentials.CreateCredential, req).GetCredential(), first)
	req.RequestId = ""
	refuse(t, r.credentials.CreateCredential, req).want(t, codes.AlreadyExists, "ALREADY_EXISTS")
	req.RequestId = "1b8c7a3e-5f2d-4c1b-9e8a-7d6f5e4c3b2a"
	refuse(t, r.credentials.CreateCredential, req).want(t, codes.AlreadyExists, "ALREADY_EXISTS")
	wantSame(t, r.read("main"), first)
}

func TestValidateOnlyChangesNothing(t *testing.T) {
	r := newRig(t, rigOptions{})
	a := r.account(upstreamsim.OfficeRnD)
	draft := &cred{Name: "main", Provider: "officernd", Inputs: a.Inputs}
	if c := do(t, r.credentials.CreateCredential, &create{Credential: draft, Secrets: a.Secrets, ValidateOnly: true}).GetCredential(); c.GetProvider() != "officernd" {
		t.Errorf("got %v, want what it would be", c)
	}
	refuse(t, r.credentials.GetCredential, &tokenbrokerv1.GetCredentialRequest{Name: "main"}).want(t, codes.NotFound, "NOT_FOUND")
	do(t, r.credentials.UpdateCredential, &update{Credential: draft, Secrets: a.Secrets, AllowMissing: true, ValidateOnly: true})
	refuse(t, r.credentials.GetCredential, &tokenbrokerv1.GetCredentialRequest{Name: "main"}).want(t, codes.NotFound, "NOT_FOUND")

	r.create("main", a)
	before := r.read("main")
	c := do(t, r.credentials.UpdateCredential, &update{Credential: &cred{Name: "main", Labels: map[string]string{"a": "b"}}, ValidateOnly: true}).GetCredential()
	if c.GetLabels()["a"] != "b" {
		t.Errorf("got %v, want what it would be", c)
	}
	wantSame(t, r.read("main"), before)
	refuse(t, r.credentials.UpdateCredential, &update{Credential: &cred{Name: "main", Provider: "none"}, ValidateOnly: true}).
		want(t, codes.InvalidArgument, "REQUEST_INVALID")
}

func TestAnUpdateChangesWhatItsMaskNames(t *testing.T) {
	r := newRig(t, rigOptions{})
	a := r.account(upstreamsim.DocuWareCookie)
	r.create("main", a)
	change := func(c *cred, secrets map[string]string, paths ...string) *cred {
		t.Helper()
		c.Name = "main"
		req := &update{Credential: c, Secrets: secrets}
		if len(paths) > 0 {
			req.UpdateMask = &fieldmaskpb.FieldMask{Paths: paths}
		}
		return do(t, r.credentials.UpdateCredential, req).GetCredential()
	}
	if c := change(&cred{Labels: map[string]string{"env": "prod", "team": "a"}}, nil); len(c.GetLabels()) != 2 || len(c.GetInputs()) != len(a.Inputs) {
		t.Errorf("got %v, want labels added and inputs kept", c)
	}
	if c := change(&cred{Labels: map[string]string{"env": "dev"}}, nil); c.GetLabels()["env"] != "dev" || c.GetLabels()["team"] != "a" {
		t.Errorf("got %v, want one label changed", c.GetLabels())
	}
	if c := change(&cred{}, nil, "labels.team"); len(c.GetLabels()) != 1 {
		t.Errorf("got %v, want a label removed", c.GetLabels())
	}
	if c := change(&cred{Labels: map[string]string{"only": "x"}}, nil, "labels"); len(c.GetLabels()) != 1 || c.GetLabels()["only"] != "x" {
		t.Errorf("got %v, want the labels replaced", c.GetLabels())
	}
	version := r.read("main").GetVersion()
	if c := change(&cred{}, nil, "inputs.organization"); c.GetInputs()["organization"] != "" || c.GetInputs()["username"] == "" || c.GetVersion() != version+1 {
		t.Errorf("got %v, want an optional input removed, and another version", c)
	}
	same := r.read("main")
	wantSame(t, change(&cred{Labels: map[string]string{"only": "x"}}, a.Secrets), same) // nothing new: not even another etag
	c := change(&cred{Disabled: true}, nil)
	if !c.GetDisabled() || c.GetState() != tokenbrokerv1.CredentialState_CREDENTIAL_STATE_DISABLED {
		t.Errorf("got %v, want it disabled", c)
	}
	refuse(t, r.tokens.GetToken, &get{Credential: "main"}).want(t, codes.FailedPrecondition, "CREDENTIAL_DISABLED")
	change(&cred{}, nil, "disabled")
	r.mustGet("main")
}

func TestAChangeOfWhereSecretsGoNeedsThemAgain(t *testing.T) {
	r := newRig(t, rigOptions{})
	a := r.account(upstreamsim.DocuWare)
	r.create("main", a)
	before := r.read("main")
	elsewhere := &cred{Name: "main", Inputs: map[string]string{"server": "https://evil.example"}}
	for _, req := range []*update{
		{Credential: elsewhere},
		{Credential: &cred{Name: "main", Provider: "docuware-cookie"}},
	} {
		got := refuse(t, r.credentials.UpdateCredential, req)
		got.want(t, codes.FailedPrecondition, "SECRETS_REQUIRED")
		got.wantFields(t, "secrets.password")
	}
	wantSame(t, r.read("main"), before)
	do(t, r.credentials.UpdateCredential, &update{Credential: elsewhere, Secrets: map[string]string{"password": "another secret"}})
	refuse(t, r.credentials.UpdateCredential, &update{Credential: &cred{Name: "main", Inputs: a.Inputs}}).want(t, codes.FailedPrecondition, "SECRETS_REQUIRED")
}

func TestAnEtagKeepsOneFromOverwritingAnother(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.create("main", r.account(upstreamsim.OfficeRnD))
	old := r.read("main").GetEtag()
	label := func(etag, v string) *update {
		return &update{Credential: &cred{Name: "main", Etag: etag, Labels: map[string]string{"v": v}}}
	}
	now := do(t, r.credentials.UpdateCredential, label(old, "1")).GetCredential()
	if now.GetEtag() == old {
		t.Error("a change has the former etag")
	}
	refuse(t, r.credentials.UpdateCredential, label(old, "2")).want(t, codes.Aborted, "ETAG_MISMATCH")
	refuse(t, r.credentials.RotateSecret, &tokenbrokerv1.RotateSecretRequest{Name: "main", Etag: old, Secrets: map[string]string{"client_secret": "x"}}).
		want(t, codes.Aborted, "ETAG_MISMATCH")
	refuse(t, r.credentials.DeleteCredential, &tokenbrokerv1.DeleteCredentialRequest{Name: "main", Etag: old}).want(t, codes.Aborted, "ETAG_MISMATCH")
	wantSame(t, r.read("main"), now)
	do(t, r.credentials.DeleteCredential, &tokenbrokerv1.DeleteCredentialRequest{Name: "main", Etag: now.GetEtag()})
	refuse(t, r.credentials.DeleteCredential, &tokenbrokerv1.DeleteCredentialRequest{Name: "main"}).want(t, codes.NotFound, "NOT_FOUND")
	do(t, r.credentials.DeleteCredential, &tokenbrokerv1.DeleteCredentialRequest{Name: "main", AllowMissing: true})
	refuse(t, r.tokens.GetToken, &get{Credential: "main"}).want(t, codes.NotFound, "NOT_FOUND")
}

func TestAnUpdateThatMayCreateDoes(t *testing.T) {
	r := newRig(t, rigOptions{})
	a := r.account(upstreamsim.OfficeRnD)
	req := &update{Credential: &cred{Name: "main", Provider: "officernd", Inputs: a.Inputs}, Secrets: a.Secrets, AllowMissing: true}
	made := do(t, r.credentials.UpdateCredential, req).GetCredential()
	wantSame(t, do(t, r.credentials.UpdateCredential, req).GetCredential(), made)
	r.mustGet("main")
	// With an etag it was there: to create it would bring back what somebody has deleted.
	req.Credential.Name, req.Credential.Etag = "other", made.GetEtag()
	refuse(t, r.credentials.UpdateCredential, req).want(t, codes.NotFound, "NOT_FOUND")
}

func TestPagesShowEachCredentialOnce(t *testing.T) {
	r := newRig(t, rigOptions{})
	office, snov := r.account(upstreamsim.OfficeRnD), r.account(upstreamsim.Snov)
	for i := range 7 {
		r.create(fmt.Sprintf("office-%d", i), office)
		r.create(fmt.Sprintf("snov-%d", i), snov)
	}
	do(t, r.credentials.UpdateCredential, &update{Credential: &cred{Name: "snov-3", Labels: map[string]string{"env": "prod"}}})
	all := func(filter string, size int32) []string {
		var names []string
		req := &tokenbrokerv1.ListCredentialsRequest{Filter: filter, PageSize: size}
		for range 100 {
			page := do(t, r.credentials.ListCredentials, req)
			if size > 0 && len(page.GetCredentials()) > int(size) {
				t.Errorf("got a page of %d, want %d at most", len(page.GetCredentials()), size)
			}
			for _, c := range page.GetCredentials() {
				names = append(names, c.GetName())
			}
			if req.PageToken = page.GetNextPageToken(); req.GetPageToken() == "" {
				return names
			}
		}
		t.Fatal("the pages do not end")
		return nil
	}
	whole := all("", 0)
	if len(whole) != 14 || strings.Join(all("", 3), " ") != strings.Join(whole, " ") || strings.Join(all("", 7), " ") != strings.Join(whole, " ") ||
		strings.Join(all("", 1<<30), " ") != strings.Join(whole, " ") {
		t.Errorf("got %q", whole)
	}
	for filter, want := range map[string]int{
		"provider = snov": 7, "provider != snov": 7, "name = office-*": 7, "labels.env = prod": 1, "labels.env:*": 1,
		"state = UNUSED AND name = snov-3": 1, "state = READY": 0,
	} {
		if got := all(filter, 2); len(got) != want {
			t.Errorf("%s: got %q, want %d", filter, got, want)
		}
	}
	next := do(t, r.credentials.ListCredentials, &tokenbrokerv1.ListCredentialsRequest{PageSize: 2}).GetNextPageToken()
	refuse(t, r.credentials.ListCredentials, &tokenbrokerv1.ListCredentialsRequest{PageToken: next, Filter: "provider = snov"}).wantFields(t, "page_token")
}

// TestAPageIsWhatAClientTakes: of large credentials a page has fewer than were asked for, and none is left out.
func TestAPageIsWhatAClientTakes(t *testing.T) {
	r := newRig(t, rigOptions{})
	a := r.account(upstreamsim.OfficeRnD)
	labels := map[string]string{}
	for i := range 64 {
		labels[fmt.Sprintf("label-%d", i)] = strings.Repeat("x", 256)
	}
	for i := range 80 {
		name := fmt.Sprintf("large-%02d", i)
		r.create(name, a)
		do(t, r.credentials.UpdateCredential, &update{Credential: &cred{Name: name, Labels: labels}})
	}
	var names []string
	for req := (&tokenbrokerv1.ListCredentialsRequest{PageSize: 1000}); ; {
		page := do(t, r.credentials.ListCredentials, req)
		if n := proto.Size(page); n > 3<<19 {
			t.Errorf("got a page of %d bytes", n)
		}
		for _, c := range page.GetCredentials() {
			names = append(names, c.GetName())
		}
		if req.PageToken = page.GetNextPageToken(); req.GetPageToken() == "" {
			break
		}
	}
	if len(names) != 80 || !slices.IsSorted(names) {
		t.Errorf("got %d, %q", len(names), names)
	}
}

func TestARotatedSecretHasTheFormerOneBehindIt(t *testing.T) {
	r := newRig(t, rigOptions{})
	a := r.account(upstreamsim.OfficeRnD)
	r.create("main", a)
	r.mustGet("main")
	rotate := &tokenbrokerv1.RotateSecretRequest{Name: "main", Secrets: map[string]string{"client_secret": "a secret to come"}, RequestId: "1"}
	first := do(t, r.credentials.RotateSecret, rotate).GetCredential()
	wantSame(t, do(t, r.credentials.RotateSecret, rotate).GetCredential(), first)
	// The upstream does not know the new one yet: the former one works, and the status says so.
	r.mustGet("main")
	if s := r.read("main").GetSecrets()[0]; !s.GetFormerKept() || s.GetFormerUsedTime() == nil {
		t.Errorf("got %v, want a former secret that was used", s)
	}
	if advice := r.status("main").GetAdvice(); !strings.Contains(advice, "former secret is the one that works") {
		t.Errorf("got advice %q", advice)
	}
	changed, err := r.sim.ChangeSecret(a.ID)
	if err != nil {
		t.Fatal(err)
	}
	do(t, r.credentials.UpdateCredential, &update{Credential: &cred{Name: "main"}, Secrets: a.Secrets})
	do(t, r.credentials.RotateSecret, &tokenbrokerv1.RotateSecretRequest{Name: "main", Secrets: changed.Secrets})
	tok := r.mustGet("main")
	if advice := r.status("main").GetAdvice(); !strings.Contains(advice, "no longer used") {
		t.Errorf("got advice %q, want one to retire the former secret", advice)
	}
	if s := do(t, r.credentials.RetireSecret, &tokenbrokerv1.RetireSecretRequest{Name: "main"}).GetCredential().GetSecrets()[0]; s.GetFormerKept() {
		t.Errorf("got %v, want the former secret forgotten", s)
	}
	if r.mustGet("main").GetTokenId() != tok.GetTokenId() {
		t.Error("retiring a secret that is no longer used cost a token")
	}
}

func TestATrialIsARealExchangeThatDisturbsNobody(t *testing.T) {
	r := newRig(t, rigOptions{})
	a := r.account(upstreamsim.DocuWare)
	r.create("main", a)
	try := func(keep bool) *tokenbrokerv1.TestCredentialResponse {
		t.Helper()
		return do(t, r.credentials.TestCredential, &tokenbrokerv1.TestCredentialRequest{Name: "main", Keep: keep})
	}
	for i, keep := range []bool{false, true} {
		res := try(keep)
		if len(res.GetAttempts()) != 3 || res.GetReason() != "" || res.GetExpireTime() == nil || r.sim.SystemStats(a.System).Total() != 3*(i+1) {
			t.Errorf("got %v, want three requests that went well", res)
		}
		if x := res.GetAttempts()[2]; x.GetHost() == "" || x.GetStatus() != http.StatusOK || strings.Join(x.GetTaken(), " ") == "" {
			t.Errorf("got %v, want what was taken from where", x)
		}
		if n := len(r.status("main").GetTokens()); n != i {
			t.Errorf("keep %v: got %d tokens held, want %d", keep, n, i)
		}
	}
	tok := r.mustGet("main")
	if n := r.sim.SystemStats(a.System).Total(); n != 6 {
		t.Errorf("got %d requests, want none for the token that was kept", n)
	}
	if _, err := r.sim.AddFault(upstreamsim.Fault{Kind: upstreamsim.FaultOAuthError, Code: "invalid_client", Endpoint: upstreamsim.EndpointToken}); err != nil {
		t.Fatal(err)
	}
	res := try(true)
	if res.GetReason() != "CREDENTIAL_MISCONFIGURED" || len(res.GetAttempts()) != 3 || res.GetAttempts()[2].GetUpstreamError() != "invalid_client" {
		t.Errorf("got %v, want the failure as a result, with what worked before it", res)
	}
	if r.mustGet("main").GetTokenId() != tok.GetTokenId() {
		t.Error("a failed trial cost the token")
	}
	refuse(t, r.credentials.TestCredential, &tokenbrokerv1.TestCredentialRequest{Name: "main", Scopes: []string{"x"}}).want(t, codes.InvalidArgument, "PARAMETER_NOT_DECLARED")
}

func TestACreationThatMayFindTheSameThereDoes(t *testing.T) {
	r := newRig(t, rigOptions{})
	a := r.account(upstreamsim.OfficeRnD)
	req := &create{Credential: &cred{Name: "main", Provider: "officernd", Inputs: a.Inputs}, Secrets: a.Secrets, AllowExisting: true}
	made := do(t, r.credentials.CreateCredential, req).GetCredential()
	wantSame(t, do(t, r.credentials.CreateCredential, req).GetCredential(), made)
	req.Secrets = map[string]string{"client_secret": "another"}
	refuse(t, r.credentials.CreateCredential, req).want(t, codes.AlreadyExists, "ALREADY_EXISTS")
	req.Secrets, req.AllowExisting = a.Secrets, false
	refuse(t, r.credentials.CreateCredential, req).want(t, codes.AlreadyExists, "ALREADY_EXISTS")
	wantSame(t, r.read("main"), made)
}

func TestACredentialNamesTheDefinitionOfItsNextToken(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.create("main", r.account(upstreamsim.OfficeRnD))
	want := do(t, r.providers.GetProvider, &tokenbrokerv1.GetProviderRequest{Name: "officernd"}).GetProvider().GetRevision()
	if got := r.read("main").GetDefinitionRevision(); got == "" || got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	other := &cred{Name: "main", Provider: "oauth2-client-credentials", Inputs: map[string]string{"token_url": "https://login.example.com/t", "client_id": "x"}}
	checked := do(t, r.credentials.UpdateCredential, &update{Credential: other, Secrets: map[string]string{"client_secret": "x"}, ValidateOnly: true,
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"*"}}})
	if got := checked.GetCredential().GetDefinitionRevision(); got != "" {
		t.Errorf("got %q for what is not stored, want nothing", got)
	}
}

// Clients from before attempts were called so find them where they were.
func TestAttemptsAreThereUnderTheirFormerNameToo(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.create("main", r.account(upstreamsim.OfficeRnD))
	r.mustGet("main")
	trial, rep := do(t, r.credentials.TestCredential, &tokenbrokerv1.TestCredentialRequest{Name: "main"}), r.status("main")
	for _, x := range []struct {
		now    []*tokenbrokerv1.Attempt
		before []*tokenbrokerv1.Exchange //nolint:staticcheck // deprecated for clients
	}{{trial.GetAttempts(), trial.GetExchanges()}, {rep.GetAttempts(), rep.GetExchanges()}} { //nolint:staticcheck // deprecated for clients
		if len(x.now) == 0 || len(x.now) != len(x.before) {
			t.Fatalf("got %v and %v", x.now, x.before)
		}
		for i := range x.now {
			a, err := proto.Marshal(x.now[i])
			b, err2 := proto.Marshal(x.before[i])
			if err != nil || err2 != nil || !bytes.Equal(a, b) {
				t.Errorf("got %v and %v", x.now[i], x.before[i])
			}
		}
	}
}

func TestATrialAsksForTheResourcesThatItIsGiven(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.create("main", r.account(upstreamsim.Snov))
	got := refuse(t, r.credentials.TestCredential, &tokenbrokerv1.TestCredentialRequest{Name: "main", Resources: []string{"https://api.example.com"}})
	got.want(t, codes.InvalidArgument, "PARAMETER_NOT_DECLARED")
	got.wantFields(t, "resources")
}
