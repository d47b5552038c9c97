package product

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/internal/leaktest"
	"github.com/tokenbroker/tokenbroker/internal/upstreamsim"
)

// newSpiedRig is a rig whose secrets are all known: what accounts have, what callers give, and what upstreams issue.
func newSpiedRig(t *testing.T, o rigOptions) (*rig, *spy) {
	s := &spy{secrets: map[string]bool{}}
	o.overheard = true
	o.around = func(u broker.Upstream) broker.Upstream {
		s.Upstream = u
		return s
	}
	r := newRig(t, o)
	for _, a := range r.sim.Accounts() {
		for _, v := range a.Secrets {
			s.plant(v)
		}
	}
	return r, s
}

// wantNoLeak looks for every secret in everything that leaves the broker but token answers.
func (r *rig) wantNoLeak(s *spy) {
	t := r.t
	t.Helper()
	s.mu.Lock()
	secrets, seen := slices.Sorted(maps.Keys(s.secrets)), slices.Clone(s.seen)
	s.mu.Unlock()
	if len(secrets) == 0 {
		t.Fatal("there are no secrets to look for")
	}
	places := map[string][]byte{"the log": r.log.Bytes(), "what clients heard": r.heard.Bytes(), "the metrics": r.scrape()}
	places["the data file"], _ = os.ReadFile(filepath.Join(r.dir, "data", "tokenbroker.db"))
	places["printed values"] = r.printed(seen)
	for where, data := range places {
		if len(data) < 1000 {
			t.Errorf("%s: %d bytes prove nothing", where, len(data))
		}
		for _, f := range leaktest.Find(data, secrets) {
			t.Errorf("%s: %v", where, f)
		}
	}
}

// scrape reads the metrics as Prometheus does.
func (r *rig) scrape() []byte {
	r.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(testContext(r.t))
	done := make(chan error, 1)
	go func() { done <- r.server.ServeMetrics(ctx, l) }()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Get("http://" + l.Addr().String() + "/metrics")
	if err != nil {
		r.t.Fatal(err)
	}
	text, err := io.ReadAll(res.Body)
	_ = res.Body.Close()
	cancel()
	if served := <-done; err != nil || served != nil || res.StatusCode != http.StatusOK {
		r.t.Fatalf("got %v %v %s, want metrics", err, served, res.Status)
	}
	return text
}

// printed is what a careless line of code would print of the broker's values.
func (r *rig) printed(values []any) []byte {
	ctx, local := testContext(r.t), broker.NewCaller(broker.Local, "", "", broker.ProofNone, "")
	page, err := r.broker.Credentials(ctx, local, "", 100)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, c := range page.Credentials {
		values = append(values, c)
		if rep, err := r.broker.CredentialStatus(ctx, local, c.Name); err == nil {
			values = append(values, rep, rep.Failure, rep.Tokens)
		}
		res, err := r.broker.Token(ctx, local, engine.Request{Credential: c.Name})
		values = append(values, res, res.Token, err)
	}
	for _, e := range r.catalog.List() {
		d, err := r.catalog.Definition(e.Name)
		values = append(values, e, d, err)
	}
	var out []byte
	for _, v := range values {
		out = fmt.Appendf(out, "%v\n%+v\n%#v\n%s\n%q\n%x\n", v, v, v, v, v, v)
		if text, err := json.Marshal(v); err == nil {
			out = append(out, text...)
		}
	}
	return out
}

func TestTheSearchFindsEachSecretInEachEncoding(t *testing.T) {
	r, s := newSpiedRig(t, rigOptions{})
	for _, a := range r.sim.Accounts() {
		r.create(string(a.System), a)
		r.mustGet(string(a.System), a.Scopes...)
	}
	secrets := slices.Sorted(maps.Keys(s.secrets))
	if len(secrets) < 2*len(r.sim.Accounts()) {
		t.Fatalf("got %d secrets, want one given and one issued for each account", len(secrets))
	}
	for i, secret := range secrets {
		quoted, err := json.Marshal(secret)
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{
			secret, string(quoted), hex.EncodeToString([]byte(secret)), url.QueryEscape(secret), url.PathEscape(secret),
			base64.StdEncoding.EncodeToString([]byte(secret)), base64.RawURLEncoding.EncodeToString([]byte("x" + secret)),
			base64.StdEncoding.EncodeToString([]byte("xx" + secret + "y")),
		} {
			if found := leaktest.Find([]byte("... "+text+" ..."), secrets[i:i+1]); len(found) == 0 {
				t.Errorf("secret %d is not found", i)
			}
		}
	}
	if found := leaktest.Find([]byte(strings.Join(secrets, "\n")), secrets); len(found) < len(secrets) {
		t.Errorf("found %d of %d secrets", len(found), len(secrets))
	}
}

func TestNoSecretLeaksWhateverIsCalled(t *testing.T) {
	r, s := newSpiedRig(t, rigOptions{})
	for _, a := range r.sim.Accounts() {
		r.callEverything(s, a)
	}
	for _, d := range []grpc.ServiceDesc{
		tokenbrokerv1.TokenBrokerService_ServiceDesc, tokenbrokerv1.CredentialService_ServiceDesc, tokenbrokerv1.ProviderService_ServiceDesc,
	} {
		for _, m := range d.Methods {
			if _, ok := r.called.Load("/" + d.ServiceName + "/" + m.MethodName); !ok {
				t.Errorf("%s was not called", m.MethodName)
			}
		}
		for _, m := range d.Streams {
			if _, ok := r.called.Load("/" + d.ServiceName + "/" + m.StreamName); !ok {
				t.Errorf("%s was not called", m.StreamName)
			}
		}
	}
	r.wantNoLeak(s)
	for _, name := range []string{"tokenbroker_exchanges_total", "tokenbroker_token_misses_total", "tokenbroker_failures_total"} {
		if !strings.Contains(string(r.scrape()), name) {
			t.Errorf("the metrics have no %s", name)
		}
	}
}

// callEverything drives every RPC for an account, and the ways to call it wrongly that bring secrets to wrong places.
func (r *rig) callEverything(s *spy, a upstreamsim.Account) {
	t := r.t
	t.Helper()
	ctx, name := testContext(t), string(a.System)
	stray := func(what string) string {
		v := "stray+secret/" + what + "=" + name + "&é\"%"
		s.mu.Lock()
		defer s.mu.Unlock()
		s.plant(v)
		return v
	}
	given := map[string]string{}
	for k := range a.Secrets {
		given[k] = stray(k)
	}
	inputs := maps.Clone(a.Inputs)
	for k := range a.Secrets {
		inputs[k] = stray("as an input")
	}
	// None of these need succeed: what they are told is heard.
	_, _ = r.credentials.CreateCredential(ctx, &create{Credential: &cred{Name: name, Provider: name, Inputs: inputs}})
	_, _ = r.credentials.CreateCredential(ctx, &create{Credential: &cred{Name: name, Provider: name, Inputs: a.Inputs}, Secrets: map[string]string{"unknown": stray("unknown")}})
	_, _ = r.credentials.CreateCredential(ctx, &create{Credential: &cred{Name: name, Provider: "none", Inputs: a.Inputs}, Secrets: given})
	_, _ = r.credentials.CreateCredential(ctx, &create{Credential: &cred{Name: name, Provider: name, Inputs: a.Inputs}, Secrets: given, ValidateOnly: true})
	r.create(name, a)
	_, _ = r.credentials.CreateCredential(ctx, &create{Credential: &cred{Name: name, Provider: name, Inputs: a.Inputs}, Secrets: given})
	tok := r.mustGet(name, a.Scopes...)
	_, _ = r.tokens.GetToken(ctx, &get{Credential: name, Parameters: map[string]string{"password": stray("parameter")}})
	_, _ = r.tokens.GetToken(ctx, &get{Credential: name, Scopes: a.Scopes, RejectedTokenId: tok.GetTokenId()})
	_, _ = r.tokens.Invalidate(ctx, &tokenbrokerv1.InvalidateRequest{Credential: name, Target: &tokenbrokerv1.InvalidateRequest_AccessToken{AccessToken: stray("token")}})
	tok = r.mustGet(name, a.Scopes...)
	watching, stop := context.WithCancel(ctx)
	stream := r.watch(watching, &tokenbrokerv1.WatchTokenRequest{Credential: name, Scopes: a.Scopes})
	r.event(stream)
	_, _ = r.tokens.Invalidate(ctx, &tokenbrokerv1.InvalidateRequest{Credential: name, Target: &tokenbrokerv1.InvalidateRequest_AccessToken{AccessToken: tok.GetAccessToken()}})
	r.event(stream)
	stop()
	r.ended(stream)
	_, _ = r.credentials.TestCredential(ctx, &tokenbrokerv1.TestCredentialRequest{Name: name, Scopes: a.Scopes, Keep: true})
	_, _ = r.credentials.TestCredential(ctx, &tokenbrokerv1.TestCredentialRequest{Name: name, Parameters: map[string]string{"password": stray("parameter")}})
	rotated := map[string]string{}
	for k := range a.Secrets {
		if k != "refresh_token" {
			rotated[k] = stray("rotated")
		}
	}
	do(t, r.credentials.RotateSecret, &tokenbrokerv1.RotateSecretRequest{Name: name, Secrets: rotated})
	_, _ = r.credentials.RotateSecret(ctx, &tokenbrokerv1.RotateSecretRequest{Name: name, Secrets: map[string]string{"unknown": stray("unknown")}})
	_, _ = r.credentials.UpdateCredential(ctx, &update{Credential: &cred{Name: name, Inputs: inputs}})
	_, _ = r.credentials.UpdateCredential(ctx, &update{Credential: &cred{Name: name, Provider: "officernd"}, Secrets: map[string]string{"unknown": stray("unknown")}})
	_, _ = r.tokens.GetToken(ctx, &get{Credential: name, Scopes: a.Scopes}) // the new secret, refused, and perhaps the former one
	r.read(name)
	r.status(name)
	do(t, r.credentials.ListCredentials, &tokenbrokerv1.ListCredentialsRequest{})
	do(t, r.credentials.RetireSecret, &tokenbrokerv1.RetireSecretRequest{Name: name})
	do(t, r.credentials.AcceptCredential, &tokenbrokerv1.AcceptCredentialRequest{Name: name})
	_, _ = r.tokens.GetToken(ctx, &get{Credential: name, Scopes: a.Scopes, RejectedTokenId: tok.GetTokenId()})
	do(t, r.providers.ListProviders, &tokenbrokerv1.ListProvidersRequest{})
	do(t, r.providers.GetProvider, &tokenbrokerv1.GetProviderRequest{Name: name})
	_, _ = r.providers.ExplainProvider(ctx, &tokenbrokerv1.ExplainProviderRequest{Name: name, Inputs: a.Inputs, Scopes: a.Scopes})
	if name == string(upstreamsim.Snov) {
		do(t, r.credentials.DeleteCredential, &tokenbrokerv1.DeleteCredentialRequest{Name: name})
	}
}

func TestNoSecretLeaksWhateverFails(t *testing.T) {
	for i, c := range faultCases {
		t.Run(fmt.Sprintf("%d %s %s", i, c.fault.Kind, c.fault.Code), func(t *testing.T) {
			t.Parallel()
			r, s := newSpiedRig(t, rigOptions{timeout: c.timeout()})
			fault := c.fault
			fault.After, fault.Endpoint, fault.Size = fault.After || i%2 == 1, upstreamsim.EndpointAny, 2<<20
			for j, a := range r.sim.Accounts() {
				r.create(string(a.System), a)
				if j%2 == 0 { // half of them were used before the fault comes, and may hold a refresh token
					res := r.eventually(&get{Credential: string(a.System), Scopes: a.Scopes})
					r.invalidate(string(a.System), res.GetToken().GetTokenId())
				}
			}
			if _, err := r.sim.AddFault(fault); err != nil {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			for _, a := range r.sim.Accounts() {
				wg.Go(func() {
					if _, err := r.get(string(a.System), a.Scopes...); err == nil {
						t.Errorf("%s: got a token", a.System)
					}
					r.status(string(a.System))
				})
			}
			wg.Wait()
			r.wantNoLeak(s)
		})
	}
}

func TestNoSecretLeaksWhenSomethingPanics(t *testing.T) {
	r, s := newSpiedRig(t, rigOptions{})
	a := r.account(upstreamsim.OfficeRnD)
	r.create("main", a)
	s.setPanics(func(where string) {
		if where == "exchange" {
			panic(fmt.Sprintf("with %v", a.Secrets))
		}
	})
	r.refused(testContext(t), &get{Credential: "main", Scopes: []string{"officernd.api.write"}}).want(t, codes.Internal, "INTERNAL")
	s.setPanics(func(string) { panic(fmt.Errorf("with %v", a.Secrets)) })
	refuse(t, r.credentials.CreateCredential, &create{Credential: &cred{Name: "other", Provider: "officernd", Inputs: a.Inputs}, Secrets: a.Secrets}).
		want(t, codes.Internal, "INTERNAL")
	s.setPanics(nil)
	if log := string(r.log.Bytes()); !strings.Contains(log, "flight panicked") || !strings.Contains(log, "handler panicked") {
		t.Error("the log does not say that something panicked")
	}
	r.mustGet("main") // and it goes on
	r.wantNoLeak(s)
}
