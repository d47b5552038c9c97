package product

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/internal/upstreamsim"
)

// refuse calls one of a client's methods, which must fail.
func refuse[Q, A any](t testing.TB, call func(context.Context, Q, ...grpc.CallOption) (A, error), req Q) refusal {
	t.Helper()
	var trailer metadata.MD
	if _, err := call(testContext(t), req, grpc.Trailer(&trailer)); err != nil {
		return refusalOf(err, trailer)
	}
	t.Fatal("it was done, want a refusal")
	return refusal{}
}

// do calls one of a client's methods, which must not fail.
func do[Q, A any](t testing.TB, call func(context.Context, Q, ...grpc.CallOption) (A, error), req Q) A {
	t.Helper()
	res, err := call(testContext(t), req)
	if err != nil {
		t.Fatalf("%v %s", err, refusalOf(err, nil).text)
	}
	return res
}

func many(n int) []string {
	var out []string
	for i := range n {
		out = append(out, fmt.Sprintf("scope:%d", i))
	}
	return out
}

func pairs(n, length int) map[string]string {
	m := map[string]string{}
	for i := range n {
		m[fmt.Sprintf("k%03d", i)] = strings.Repeat("v", length)
	}
	return m
}

func uris(n int) []string {
	out := many(n)
	for i := range out {
		out[i] = "https://api.example.com/" + out[i]
	}
	return out
}

type get = tokenbrokerv1.GetTokenRequest

func TestARequestForATokenIsHeldAgainstTheContract(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.create("main", r.account(upstreamsim.OfficeRnD))
	for _, c := range []struct {
		req   *get
		field string
	}{
		{&get{}, "credential"},
		{&get{Credential: "Main"}, "credential"},
		{&get{Credential: "-main"}, "credential"},
		{&get{Credential: "main/../other"}, "credential"},
		{&get{Credential: strings.Repeat("a", 64)}, "credential"},
		{&get{Credential: "main", Scopes: many(101)}, "scopes"},
		{&get{Credential: "main", Scopes: []string{"a", strings.Repeat("s", 257)}}, "scopes[1]"},
		{&get{Credential: "main", Scopes: []string{""}}, "scopes[0]"},
		{&get{Credential: "main", Scopes: []string{"a\nb"}}, "scopes"},
		{&get{Credential: "main", Scopes: []string{"a\x1fb", "c"}}, "scopes"},
		{&get{Credential: "main", Audience: strings.Repeat("a", 2049)}, "audience"},
		{&get{Credential: "main", Parameters: pairs(33, 1)}, "parameters"},
		{&get{Credential: "main", Parameters: pairs(1, 8193)}, `parameters["k000"]`},
		{&get{Credential: "main", Resources: uris(17)}, "resources"},
		{&get{Credential: "main", Resources: []string{"not a uri"}}, "resources[0]"},
		{&get{Credential: "main", MinTtl: durationpb.New(-time.Second)}, "min_ttl"},
		{&get{Credential: "main", MinTtl: durationpb.New(8 * 24 * time.Hour)}, "min_ttl"},
		{&get{Credential: "main", RejectedTokenId: strings.Repeat("x", 129)}, "rejected_token_id"},
	} {
		got := refuse(t, r.tokens.GetToken, c.req)
		got.want(t, codes.InvalidArgument, "REQUEST_INVALID")
		got.wantFields(t, c.field)
		stream, err := r.tokens.WatchToken(testContext(t), &tokenbrokerv1.WatchTokenRequest{
			Credential: c.req.GetCredential(), Scopes: c.req.GetScopes(), Audience: c.req.GetAudience(), Parameters: c.req.GetParameters(),
			Resources: c.req.GetResources(), MinTtl: c.req.GetMinTtl(), KnownTokenId: c.req.GetRejectedTokenId(),
		})
		if err != nil {
			t.Fatal(err)
		}
		_, err = stream.Recv()
		watch := refusalOf(err, stream.Trailer())
		watch.want(t, codes.InvalidArgument, "REQUEST_INVALID")
		watch.wantFields(t, strings.Replace(c.field, "rejected_", "known_", 1))
	}
	if n := r.sim.SystemStats(upstreamsim.OfficeRnD).Total(); n != 0 {
		t.Errorf("the upstream was asked %d times", n)
	}
}

func TestWhatADefinitionDoesNotUseIsRefused(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.create("main", r.account(upstreamsim.Snov))
	for field, req := range map[string]*get{
		"scopes":            {Credential: "main", Scopes: []string{"a"}},
		"audience":          {Credential: "main", Audience: "b"},
		"parameters.tenant": {Credential: "main", Parameters: map[string]string{"tenant": "c"}},
		"resources":         {Credential: "main", Resources: []string{"https://api.example.com"}},
	} {
		got := refuse(t, r.tokens.GetToken, req)
		got.want(t, codes.InvalidArgument, "PARAMETER_NOT_DECLARED")
		got.wantFields(t, field)
	}
	refuse(t, r.tokens.GetToken, &get{Credential: "nobody"}).want(t, codes.NotFound, "NOT_FOUND")
}

func TestAnInvalidationSaysWhich(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.create("main", r.account(upstreamsim.OfficeRnD))
	tok := r.mustGet("main")
	type inv = tokenbrokerv1.InvalidateRequest
	for _, c := range []struct {
		req   *inv
		field string
	}{
		{&inv{Credential: "main"}, "target"},
		{&inv{Credential: "main", Scopes: []string{"officernd.api.read"}}, "target"},
		{&inv{Credential: "main", Target: &tokenbrokerv1.InvalidateRequest_All{}}, "all"},
		{&inv{Credential: "main", Target: &tokenbrokerv1.InvalidateRequest_TokenId{}}, "token_id"},
		{&inv{Credential: "main", Target: &tokenbrokerv1.InvalidateRequest_AccessToken{}}, "access_token"},
		{&inv{Credential: "main", Target: &tokenbrokerv1.InvalidateRequest_AccessToken{AccessToken: strings.Repeat("t", 65537)}}, "access_token"},
		{&inv{Credential: "NO", Target: &tokenbrokerv1.InvalidateRequest_All{All: true}}, "credential"},
	} {
		got := refuse(t, r.tokens.Invalidate, c.req)
		got.want(t, codes.InvalidArgument, "REQUEST_INVALID")
		got.wantFields(t, c.field)
	}
	if again := r.mustGet("main"); again.GetTokenId() != tok.GetTokenId() {
		t.Error("a refused invalidation dropped the token")
	}
	for _, target := range []*inv{
		{Target: &tokenbrokerv1.InvalidateRequest_AccessToken{AccessToken: tok.GetAccessToken()}},
		{Target: &tokenbrokerv1.InvalidateRequest_All{All: true}},
		{Target: &tokenbrokerv1.InvalidateRequest_All{All: true}, Scopes: []string{"officernd.api.read"}},
	} {
		before := r.mustGet("main", target.GetScopes()...).GetTokenId()
		target.Credential = "main"
		if n := do(t, r.tokens.Invalidate, target).GetInvalidated(); n != 1 {
			t.Errorf("%T: dropped %d, want 1", target.GetTarget(), n)
		}
		if r.mustGet("main", target.GetScopes()...).GetTokenId() == before {
			t.Errorf("%T: the dropped token came back", target.GetTarget())
		}
	}
	// The first one is not current any more: nothing happens, and the answer says which is.
	done := do(t, r.tokens.Invalidate, &inv{Credential: "main", Target: &tokenbrokerv1.InvalidateRequest_TokenId{TokenId: tok.GetTokenId()}})
	if done.GetInvalidated() != 0 {
		t.Errorf("got %v, want nothing dropped", done)
	}
	refuse(t, r.tokens.Invalidate, &inv{Credential: "nobody", Target: &tokenbrokerv1.InvalidateRequest_All{All: true}}).want(t, codes.NotFound, "NOT_FOUND")
}

type (
	cred   = tokenbrokerv1.Credential
	create = tokenbrokerv1.CreateCredentialRequest
	update = tokenbrokerv1.UpdateCredentialRequest
)

func TestACredentialIsHeldAgainstItsDefinition(t *testing.T) {
	r := newRig(t, rigOptions{})
	good := map[string]string{"client_secret": "a secret"}
	id := map[string]string{"client_id": "c"}
	with := func(c *cred) *cred {
		c.Name, c.Provider = "main", "officernd"
		if c.Inputs == nil {
			c.Inputs = id
		}
		return c
	}
	for i, c := range []struct {
		req    *create
		fields string
	}{
		{&create{}, "credential"},
		{&create{Credential: &cred{}}, "credential.name"},
		{&create{Credential: &cred{Name: "A b"}}, "credential.name"},
		{&create{Credential: &cred{Name: "main"}}, "credential.provider"},
		{&create{Credential: &cred{Name: "main", Provider: "offcernd"}}, "credential.provider"},
		{&create{Credential: &cred{Name: "main", Provider: "officernd"}}, "credential.inputs.client_id secrets.client_secret"},
		{&create{Credential: with(&cred{})}, "secrets.client_secret"},
		{&create{Credential: with(&cred{}), Secrets: map[string]string{"client_secret": ""}}, "secrets.client_secret"},
		{&create{Credential: with(&cred{}), Secrets: map[string]string{"client_secret": "x", "clientsecret": "y"}}, "secrets.clientsecret"},
		{&create{Credential: with(&cred{Inputs: map[string]string{"client_id": "c", "tenant": "t"}}), Secrets: good}, "credential.inputs.tenant"},
		{&create{Credential: with(&cred{Inputs: map[string]string{"client_id": "c", "client_secret": "s"}})}, "credential.inputs.client_secret"},
		{&create{Credential: with(&cred{Inputs: pairs(129, 1)}), Secrets: good}, "credential.inputs"},
		{&create{Credential: with(&cred{Inputs: pairs(1, 65537)}), Secrets: good}, `credential.inputs["k000"]`},
		{&create{Credential: with(&cred{}), Secrets: pairs(129, 1)}, "secrets"},
		{&create{Credential: with(&cred{}), Secrets: pairs(1, 65537)}, `secrets["k000"]`},
		{&create{Credential: with(&cred{Labels: map[string]string{"Not A Key": "x"}}), Secrets: good}, `credential.labels["Not A Key"]`},
		{&create{Credential: with(&cred{Labels: map[string]string{"a": strings.Repeat("x", 257)}}), Secrets: good}, `credential.labels["a"]`},
		{&create{Credential: with(&cred{Labels: pairs(65, 1)}), Secrets: good}, "credential.labels"},
		{&create{Credential: with(&cred{DefaultScopes: []string{""}}), Secrets: good}, "credential.default_scopes[0]"},
		{&create{Credential: with(&cred{DefaultScopes: many(101)}), Secrets: good}, "credential.default_scopes"},
		{&create{Credential: with(&cred{DefaultScopes: []string{strings.Repeat("s", 257)}}), Secrets: good}, "credential.default_scopes[0]"},
		{&create{Credential: with(&cred{DefaultAudience: strings.Repeat("s", 2049)}), Secrets: good}, "credential.default_audience"},
		{&create{Credential: with(&cred{}), Secrets: good, RequestId: "no uuid"}, "request_id"},
		{&create{Credential: &cred{Name: "main", Provider: "docuware", Inputs: map[string]string{"server": "http://acme.docuware.cloud", "username": "u"}}, Secrets: map[string]string{"password": "p"}}, "credential.inputs.server"},
		{&create{Credential: &cred{Name: "main", Provider: "docuware", Inputs: map[string]string{"server": "acme", "username": "u"}}, Secrets: map[string]string{"password": "p"}}, "credential.inputs.server"},
		{&create{Credential: &cred{Name: "main", Provider: "occtoo-destination", Inputs: map[string]string{"destination_id": "../x", "client_id": "u"}}, Secrets: good}, "credential.inputs.destination_id"},
		{&create{Credential: &cred{Name: "main", Provider: "oauth2-refresh-token", Inputs: map[string]string{"token_url": "https://login.example.com/t", "client_id": "u"}}, Secrets: good}, "secrets.refresh_token"},
	} {
		got := refuse(t, r.credentials.CreateCredential, c.req)
		if got.bad == nil {
			t.Fatalf("row %d: %s", i, got.text)
		}
		got.want(t, codes.InvalidArgument, "REQUEST_INVALID")
		want := []string{c.fields}
		if !strings.Contains(c.fields, "Not A Key") {
			want = strings.Fields(c.fields)
		}
		got.wantFields(t, want...)
	}
	if all := do(t, r.credentials.ListCredentials, &tokenbrokerv1.ListCredentialsRequest{}).GetCredentials(); len(all) != 0 {
		t.Errorf("refused requests left %v", all)
	}
}

func TestEveryOperatorsRequestIsHeldAgainstTheContract(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.create("main", r.account(upstreamsim.OfficeRnD))
	type list = tokenbrokerv1.ListCredentialsRequest
	type rotate = tokenbrokerv1.RotateSecretRequest
	type try = tokenbrokerv1.TestCredentialRequest
	type plist = tokenbrokerv1.ListProvidersRequest
	type explain = tokenbrokerv1.ExplainProviderRequest
	mask := func(path string) *update {
		return &update{Credential: &cred{Name: "main"}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{path}}}
	}
	c, p := r.credentials, r.providers
	for i, row := range []struct {
		got   refusal
		field string
	}{
		{refuse(t, c.GetCredential, &tokenbrokerv1.GetCredentialRequest{}), "name"},
		{refuse(t, c.GetCredential, &tokenbrokerv1.GetCredentialRequest{Name: "No Name"}), "name"},
		{refuse(t, c.DeleteCredential, &tokenbrokerv1.DeleteCredentialRequest{Name: "No Name"}), "name"},
		{refuse(t, c.DeleteCredential, &tokenbrokerv1.DeleteCredentialRequest{Name: "main", Etag: "zz"}), "etag"},
		{refuse(t, c.GetCredentialStatus, &tokenbrokerv1.GetCredentialStatusRequest{Name: "No Name"}), "name"},
		{refuse(t, c.RetireSecret, &tokenbrokerv1.RetireSecretRequest{Name: "No Name"}), "name"},
		{refuse(t, c.RetireSecret, &tokenbrokerv1.RetireSecretRequest{Name: "main", Secrets: []string{"password"}}), "secrets"},
		{refuse(t, c.ListCredentials, &list{PageSize: -1}), "page_size"},
		{refuse(t, c.ListCredentials, &list{PageToken: "forged"}), "page_token"},
		{refuse(t, c.ListCredentials, &list{Filter: "color = red"}), "filter"},
		{refuse(t, c.ListCredentials, &list{Filter: strings.Repeat("x", 1025)}), "filter"},
		{refuse(t, c.UpdateCredential, &update{}), "credential"},
		{refuse(t, c.UpdateCredential, &update{Credential: &cred{Name: "main", Etag: "etag"}}), "credential.etag"},
		{refuse(t, c.UpdateCredential, mask("colour")), "update_mask"},
		{refuse(t, c.UpdateCredential, mask("credential.labels")), "update_mask"},
		{refuse(t, c.UpdateCredential, mask("inputs.client_id")), "credential.inputs.client_id"},
		{refuse(t, c.UpdateCredential, mask("secrets.client_secret")), "secrets.client_secret"},
		{refuse(t, c.UpdateCredential, &update{Credential: &cred{Name: "main"}, Secrets: map[string]string{"password": "x"}}), "secrets.password"},
		{refuse(t, c.RotateSecret, &rotate{Name: "main"}), "secrets"},
		{refuse(t, c.RotateSecret, &rotate{Name: "main", Secrets: map[string]string{"client_secret": ""}}), "secrets.client_secret"},
		{refuse(t, c.RotateSecret, &rotate{Name: "main", Secrets: map[string]string{"client_id": "x"}}), "secrets.client_id"},
		{refuse(t, c.RotateSecret, &rotate{Name: "main", Secrets: map[string]string{"client_secret": "x"}, Etag: "zz"}), "etag"},
		{refuse(t, c.RotateSecret, &rotate{Name: "main", Secrets: map[string]string{"client_secret": "x"}, KeepFormer: durationpb.New(-1)}), "keep_former"},
		{refuse(t, c.RotateSecret, &rotate{Name: "main", Secrets: pairs(1, 65537)}), `secrets["k000"]`},
		{refuse(t, c.TestCredential, &try{Name: "No Name"}), "name"},
		{refuse(t, c.TestCredential, &try{Name: "main", Scopes: many(101)}), "scopes"},
		{refuse(t, c.TestCredential, &try{Name: "main", Scopes: []string{"a\tb"}}), "scopes"},
		{refuse(t, c.TestCredential, &try{Name: "main", Parameters: pairs(33, 1)}), "parameters"},
		{refuse(t, p.GetProvider, &tokenbrokerv1.GetProviderRequest{}), "name"},
		{refuse(t, p.ListProviders, &plist{PageSize: -1}), "page_size"},
		{refuse(t, p.ListProviders, &plist{PageToken: "forged"}), "page_token"},
		{refuse(t, p.ListProviders, &plist{Filter: "state = ready"}), "filter"},
		{refuse(t, p.ExplainProvider, &explain{}), "name"},
		{refuse(t, p.ExplainProvider, &explain{Name: "officernd", Scopes: []string{""}}), "scopes[0]"},
		{refuse(t, p.ExplainProvider, &explain{Name: "officernd", Inputs: pairs(129, 1)}), "inputs"},
	} {
		if row.got.code != codes.InvalidArgument {
			t.Fatalf("row %d: %s", i, row.got.text)
		}
		row.got.want(t, codes.InvalidArgument, "REQUEST_INVALID")
		row.got.wantFields(t, row.field)
	}
}

func TestWhatIsNotThereIsNotFound(t *testing.T) {
	r := newRig(t, rigOptions{})
	const nobody = "nobody"
	c, p := r.credentials, r.providers
	for i, got := range []refusal{
		refuse(t, r.tokens.GetToken, &get{Credential: nobody}),
		refuse(t, c.GetCredential, &tokenbrokerv1.GetCredentialRequest{Name: nobody}),
		refuse(t, c.UpdateCredential, &update{Credential: &cred{Name: nobody, Provider: "officernd"}}),
		refuse(t, c.DeleteCredential, &tokenbrokerv1.DeleteCredentialRequest{Name: nobody}),
		refuse(t, c.RotateSecret, &tokenbrokerv1.RotateSecretRequest{Name: nobody, Secrets: map[string]string{"a": "b"}}),
		refuse(t, c.RetireSecret, &tokenbrokerv1.RetireSecretRequest{Name: nobody}),
		refuse(t, c.TestCredential, &tokenbrokerv1.TestCredentialRequest{Name: nobody}),
		refuse(t, c.GetCredentialStatus, &tokenbrokerv1.GetCredentialStatusRequest{Name: nobody}),
		refuse(t, p.GetProvider, &tokenbrokerv1.GetProviderRequest{Name: nobody}),
		refuse(t, p.ExplainProvider, &tokenbrokerv1.ExplainProviderRequest{Name: nobody}),
	} {
		if got.code != codes.NotFound {
			t.Errorf("call %d: %s", i, got.text)
			continue
		}
		got.want(t, codes.NotFound, "NOT_FOUND")
	}
}

func TestAViolationSaysToProgramsWhatIsWrong(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.create("main", r.account(upstreamsim.OfficeRnD))
	c := r.credentials
	wants := func(provider string, inputs, secrets map[string]string) refusal {
		return refuse(t, c.CreateCredential, &create{Credential: &cred{Name: "other", Provider: provider, Inputs: inputs}, Secrets: secrets})
	}
	for i, row := range []struct {
		got  refusal
		want string
	}{
		{refuse(t, r.tokens.GetToken, &get{Credential: "Main"}), "INVALID"},
		{refuse(t, r.tokens.GetToken, &get{Credential: "main", Scopes: []string{""}}), "REQUIRED"},
		{refuse(t, r.tokens.GetToken, &get{Credential: "main", Audience: strings.Repeat("a", 2049)}), "TOO_LARGE"},
		{refuse(t, r.tokens.GetToken, &get{Credential: "main", Resources: []string{"https://api.example.com"}}), "UNKNOWN"},
		{refuse(t, c.GetCredential, &tokenbrokerv1.GetCredentialRequest{}), "REQUIRED"},
		{refuse(t, c.CreateCredential, &create{}), "REQUIRED"},
		{wants("", nil, nil), "REQUIRED"},
		{wants("nobody", nil, nil), "UNKNOWN"},
		{wants("officernd", map[string]string{"client_id": "x"}, nil), "REQUIRED"},
		{wants("officernd", map[string]string{"client_id": "x"}, map[string]string{"client_secret": ""}), "REQUIRED"},
		{wants("officernd", map[string]string{"client_id": "x", "client_secret": "y"}, nil), "MISPLACED"},
		{wants("officernd", map[string]string{"client_id": "x", "tenant": "y"}, nil), "UNKNOWN"},
		{wants("oauth2-refresh-token", map[string]string{"token_url": "https://login.example.com/t", "client_id": "u"}, map[string]string{"client_secret": "s"}), "REQUIRED"},
		{refuse(t, c.RotateSecret, &tokenbrokerv1.RotateSecretRequest{Name: "main", Secrets: map[string]string{"password": "x"}}), "UNKNOWN"},
		{refuse(t, c.UpdateCredential, &update{Credential: &cred{Name: "main"}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"colour"}}}), "UNKNOWN"},
	} {
		if got := row.got.bad.GetFieldViolations(); len(got) != 1 || got[0].GetReason() != row.want {
			t.Errorf("row %d: got %v, want %s", i, got, row.want)
		}
	}
}
