package demo

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/internal/upstreamsim"
)

// got is what one caller got, and when.
type got struct {
	token *tokenbrokerv1.Token
	err   error
	at    time.Time
}

// together lets all callers ask at once.
func (d *demo) together(ctx context.Context, ask func(context.Context, tokenbrokerv1.TokenBrokerServiceClient) (*tokenbrokerv1.Token, error)) []got {
	out := make([]got, d.callers)
	var wg sync.WaitGroup
	for i := range out {
		wg.Go(func() {
			t, err := ask(ctx, d.clients[i%len(d.clients)])
			out[i] = got{t, err, time.Now()}
		})
	}
	wg.Wait()
	return out
}

const shownSystem = upstreamsim.OfficeRnD

// rejection: a token is rejected, and all callers say so: one more exchange.
func (d *demo) rejection(ctx context.Context) error {
	name := string(shownSystem)
	res, err := d.clients[0].GetToken(ctx, &tokenbrokerv1.GetTokenRequest{Credential: name, Scopes: d.scopes()})
	if err != nil {
		return err
	}
	bad := res.GetToken().GetTokenId()
	before := d.sim.SystemStats(shownSystem).Total()
	all := d.together(ctx, func(ctx context.Context, c tokenbrokerv1.TokenBrokerServiceClient) (*tokenbrokerv1.Token, error) {
		res, err := c.GetToken(ctx, &tokenbrokerv1.GetTokenRequest{Credential: name, Scopes: d.scopes(), RejectedTokenId: bad})
		return res.GetToken(), err
	})
	kept := true
	for _, g := range all {
		if g.err != nil {
			return g.err
		}
		kept = kept && g.token.GetTokenId() != bad && g.token.GetTokenId() == all[0].token.GetTokenId()
	}
	more := d.sim.SystemStats(shownSystem).Total() - before
	d.promise(kept && more == 1, "The API refuses the token of %s at once: %d more exchange, one new token for all.", console.Counted(len(all), "caller"), more)
	return nil
}

func (d *demo) scopes() []string {
	a, err := d.sim.Default(shownSystem)
	if err != nil {
		return nil
	}
	return a.Scopes
}

// demoLifetime is how long the tokens of the next steps live: refreshed in the last fifth of it.
const demoLifetime = 6 * time.Second

// shortLived makes an account whose tokens end soon, and a credential for it.
func (d *demo) shortLived(ctx context.Context, name string) (upstreamsim.Account, error) {
	a, err := d.sim.AddAccount(shownSystem)
	if err != nil {
		return a, err
	}
	if err := d.sim.SetLifetime(a.ID, demoLifetime); err != nil {
		return a, err
	}
	_, err = d.admin.CreateCredential(ctx, &tokenbrokerv1.CreateCredentialRequest{
		Credential: &tokenbrokerv1.Credential{Name: name, Provider: string(a.System), Inputs: a.Inputs}, Secrets: a.Secrets,
	})
	return a, err
}

const readEvery = 50 * time.Millisecond

// reader asks again and again until it has seen enough.
func (d *demo) reader(ctx context.Context, name string, see func(*tokenbrokerv1.GetTokenResponse) (enough bool)) error {
	ctx, cancel := context.WithTimeout(ctx, 4*demoLifetime)
	defer cancel()
	tick := time.NewTicker(readEvery)
	defer tick.Stop()
	for {
		res, err := d.clients[0].GetToken(ctx, &tokenbrokerv1.GetTokenRequest{Credential: name})
		if err != nil {
			return err
		}
		if see(res) {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.New("it did not happen in time")
		}
	}
}

// earlyRefresh: a token nears its expiry while a slow reader goes on. The upstream holds its answer until the reader has read
// ten times more: so nobody waits for the refresh.
func (d *demo) earlyRefresh(ctx context.Context) error {
	const name = "officernd-short-lived"
	a, err := d.shortLived(ctx, name)
	if err != nil {
		return err
	}
	first := ""
	if err := d.reader(ctx, name, func(res *tokenbrokerv1.GetTokenResponse) bool {
		first = res.GetToken().GetTokenId()
		return true
	}); err != nil {
		return err
	}
	gate := d.sim.Hold(shownSystem)
	defer gate.Release()
	meanwhile, second := 0, ""
	err = d.reader(ctx, name, func(res *tokenbrokerv1.GetTokenResponse) bool {
		if id := res.GetToken().GetTokenId(); id != first {
			second = id
			return true
		}
		if gate.Arrived() > 0 {
			if meanwhile++; meanwhile == 10 {
				gate.Release()
			}
		}
		return false
	})
	d.promise(err == nil && second != "" && meanwhile >= 10 && d.sim.Stats(a.ID).Total() == 2,
		"A token nears its expiry while a reader goes on: refreshed before it ends; %s during the refresh, nobody waited.", console.Counted(meanwhile, "read"))
	return nil
}

// outage: the upstream goes down, and the valid token is served, degraded.
func (d *demo) outage(ctx context.Context) error {
	const name = "officernd-outage"
	if _, err := d.shortLived(ctx, name); err != nil {
		return err
	}
	if err := d.reader(ctx, name, func(*tokenbrokerv1.GetTokenResponse) bool { return true }); err != nil {
		return err
	}
	d.sim.Down(shownSystem)
	defer d.sim.Up(shownSystem)
	reads := 0
	err := d.reader(ctx, name, func(res *tokenbrokerv1.GetTokenResponse) bool {
		reads++
		return res.GetDegraded() && time.Now().Before(res.GetToken().GetExpireTime().AsTime())
	})
	d.promise(err == nil, "The upstream goes down: after %s the valid token is still served, now marked degraded.", console.Counted(reads, "read"))
	return nil
}
