package provider_test

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/internal/upstreamsim"
	"github.com/tokenbroker/tokenbroker/internal/upstreamsim/simclient"
	"github.com/tokenbroker/tokenbroker/provider"
	"github.com/tokenbroker/tokenbroker/provider/transport"
)

// TestEveryBuiltinAgainstItsSystem runs the catalog byte for byte: the vendors' names are dialled elsewhere, and nothing else
// is different.
func TestEveryBuiltinAgainstItsSystem(t *testing.T) {
	sim, err := upstreamsim.New(upstreamsim.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := sim.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sim.Close() })
	client, err := simclient.Of(sim)
	if err != nil {
		t.Fatal(err)
	}
	settings := transport.Settings{ConnectTo: map[string]string{}, CAFile: filepath.Join(t.TempDir(), "ca.pem")}
	if err := os.WriteFile(settings.CAFile, sim.CA(), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, h := range sim.Hosts() {
		settings.ConnectTo[h] = sim.Addr()
	}
	tr, err := transport.New(settings)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tr.Close)
	c, err := provider.Load(tr, "")
	if err != nil {
		t.Fatal(err)
	}
	accounts := map[string]upstreamsim.Account{}
	for _, a := range sim.Accounts() {
		accounts[string(a.System)] = a
	}
	entries := c.List()
	if len(entries) == 0 {
		t.Fatal("the catalog is empty")
	}
	for _, e := range entries {
		t.Run(e.Name, func(t *testing.T) {
			a, ok := accounts[e.Name]
			if !ok {
				t.Fatal("there is no system for it")
			}
			d, err := c.Definition(e.Name)
			if err != nil {
				t.Fatal(err)
			}
			x := exchangeFor(t, d, a)
			ans, err := d.Exchange(x.ctx, x.Exchange)
			if err != nil {
				t.Fatal(err)
			}
			if got := works(t, client, d, x, ans, a); got != http.StatusOK {
				t.Errorf("the API answers %d to the token, want 200", got)
			}
			if x.hosts[0] != d.Host(x.Credential, x.Selection) {
				t.Errorf("got first host %q, want %q as was said before", x.hosts[0], d.Host(x.Credential, x.Selection))
			}
			if n := len(ans.Attempts); x.Run == broker.Obtain && n != d.Facts().Requests {
				t.Errorf("got %d requests, want %d as was said before", n, d.Facts().Requests)
			}
			if d.Facts().Refreshes {
				if ans.RefreshToken.IsZero() {
					t.Fatal("it brought no refresh token")
				}
				x.Run, x.RefreshToken = broker.Refresh, ans.RefreshToken
				if ans, err = d.Exchange(x.ctx, x.Exchange); err != nil {
					t.Fatal(err)
				}
				if got := works(t, client, d, x, ans, a); got != http.StatusOK {
					t.Errorf("the API answers %d to the refreshed token, want 200", got)
				}
			}
			if bad := sim.Refusals(a.System); len(bad) > 0 {
				t.Errorf("the vendor would refuse %+v", bad)
			}
		})
	}
}

// An exchange with its context and the hosts that it asked.
type exchange struct {
	broker.Exchange
	ctx   context.Context
	hosts []string
}

func exchangeFor(t *testing.T, d broker.Definition, a upstreamsim.Account) *exchange {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	cred := broker.Credential{
		Name: "c", Provider: d.Facts().Name, Inputs: a.Inputs,
		Secrets: map[string]broker.SecretInput{}, Seeds: map[string]broker.Seed{},
	}
	x := &exchange{ctx: ctx}
	for name, s := range a.Secrets {
		if d.Facts().Inputs[name].Seed {
			cred.Seeds[name] = broker.Seed{Hash: broker.NewID()}
			x.Run, x.RefreshToken = broker.Refresh, broker.NewSecret(s)
			continue
		}
		cred.Secrets[name] = broker.SecretInput{Value: broker.NewSecret(s)}
	}
	if v := d.Check(cred, cred.SecretNames()); len(v) > 0 {
		t.Fatalf("the account's inputs are refused: %v", v)
	}
	scopes, err := broker.ParseSet("scopes", a.Scopes)
	if err != nil {
		t.Fatal(err)
	}
	if x.Selection, err = d.Select(cred, broker.Selection{Scopes: scopes}); err != nil {
		t.Fatal(err)
	}
	x.Credential = cred
	x.BeforeSend = func(host string) error { x.hosts = append(x.hosts, host); return nil }
	return x
}

// works shows the token to the system's API, and returns the status.
func works(t *testing.T, client *simclient.Client, d broker.Definition, x *exchange, ans broker.Answer, a upstreamsim.Account) int {
	t.Helper()
	p, err := d.Present(x.Credential, x.Selection, broker.Issued{Values: ans.Values, Headers: ans.Headers, TokenType: ans.TokenType})
	if err != nil {
		t.Fatal(err)
	}
	tok := &tokenbrokerv1.Token{BaseUrl: p.BaseURL}
	for _, h := range p.Headers {
		tok.Headers = append(tok.Headers, &tokenbrokerv1.Header{Name: h.Name, Value: h.Value.Reveal()})
	}
	for _, k := range p.Cookies {
		tok.Cookies = append(tok.Cookies, &tokenbrokerv1.Cookie{Name: k.Name, Value: k.Value.Reveal()})
	}
	for _, q := range p.Query {
		tok.QueryParameters = append(tok.QueryParameters, &tokenbrokerv1.QueryParameter{Name: q.Name, Value: q.Value.Reveal()})
	}
	status, err := client.Show(x.ctx, a, tok)
	if err != nil {
		t.Fatal(err)
	}
	return status
}
