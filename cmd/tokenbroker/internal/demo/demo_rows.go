package demo

import (
	"context"
	"fmt"
	"strings"
	"time"

	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/internal/upstreamsim"
)

// asksPerExchange is how many requests an exchange of a system declares.
var asksPerExchange = map[upstreamsim.System]int{upstreamsim.DocuWare: 3, upstreamsim.ClientBasic: 2}

// herd stores a credential and lets all callers ask at once.
func (d *demo) herd(ctx context.Context, a upstreamsim.Account) ([]string, error) {
	name := string(a.System)
	if _, err := d.admin.CreateCredential(ctx, &tokenbrokerv1.CreateCredentialRequest{
		Credential: &tokenbrokerv1.Credential{Name: name, Provider: string(a.System), Inputs: a.Inputs}, Secrets: a.Secrets,
	}); err != nil {
		return nil, fmt.Errorf("create %s: %w", name, err)
	}
	started := time.Now()
	got := d.together(ctx, func(ctx context.Context, c tokenbrokerv1.TokenBrokerServiceClient) (*tokenbrokerv1.Token, error) {
		res, err := c.GetToken(ctx, &tokenbrokerv1.GetTokenRequest{Credential: name, Scopes: a.Scopes})
		return res.GetToken(), err
	})
	first, last, same := got[0].at, got[0].at, true
	for _, g := range got {
		if g.err != nil {
			return nil, fmt.Errorf("get a token of %s: %w", name, g.err)
		}
		first, last = minTime(first, g.at), maxTime(last, g.at)
		same = same && g.token.GetTokenId() == got[0].token.GetTokenId()
	}
	tok := got[0].token
	want := max(asksPerExchange[a.System], 1)
	requests := d.sim.SystemStats(a.System).Total()
	exchanges, err := d.exchanges(name)
	if err != nil {
		return nil, err
	}
	api, err := d.client.Show(ctx, a, tok)
	if err != nil {
		return nil, err
	}
	answered := fmt.Sprint(api)
	if !same || requests != want || exchanges != 1 || api != 200 || len(d.sim.Refusals(a.System)) > 0 {
		d.broken = true
		answered += " FAIL"
	}
	row := []string{name, fmt.Sprint(exchanges), fmt.Sprint(requests), ms(last.Sub(started)), d.format.When(tok.GetExpireTime().AsTime()), answered}
	if d.format.Wide() {
		row = append(row, fmt.Sprint(len(got)), ms(first.Sub(started)), presentedAs(tok))
	}
	return row, nil
}

// header is that of herd's rows.
func (d *demo) header() string {
	h := "SYSTEM\tEXCHANGES\tREQUESTS\tLAST\tEXPIRES\tAPI"
	if d.format.Wide() {
		h += "\tCALLERS\tFIRST\tPRESENTED AS"
	}
	return h
}

func ms(d time.Duration) string { return fmt.Sprintf("%d ms", d.Milliseconds()) }

func minTime(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func maxTime(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// presentedAs shows where the token goes, and of the token itself a few letters.
func presentedAs(t *tokenbrokerv1.Token) string {
	var out []string
	for _, h := range t.GetHeaders() {
		v := h.GetValue()
		if h.GetName() != "User-Agent" {
			scheme, rest, two := strings.Cut(v, " ")
			if v = mask(v); two {
				v = scheme + " " + mask(rest)
			}
		}
		out = append(out, h.GetName()+": "+v)
	}
	for _, c := range t.GetCookies() {
		out = append(out, "cookie "+c.GetName()+"="+mask(c.GetValue()))
	}
	for _, q := range t.GetQueryParameters() {
		out = append(out, "?"+q.GetName()+"="+mask(q.GetValue()))
	}
	return strings.Join(out, ", ")
}

func mask(s string) string {
	if len(s) < 12 {
		return "…"
	}
	return s[:3] + "…"
}

// exchanges counts the broker's exchanges for a provider, by its own metrics.
func (d *demo) exchanges(provider string) (int, error) {
	families, err := d.broker.Registry.Gather()
	if err != nil {
		return 0, err
	}
	n := 0
	for _, f := range families {
		if f.GetName() != "tokenbroker_exchanges_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == "provider" && l.GetValue() == provider {
					n += int(m.GetCounter().GetValue())
				}
			}
		}
	}
	return n, nil
}
