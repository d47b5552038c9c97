package herd

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/internal/redistest"
	"github.com/tokenbroker/tokenbroker/internal/upstreamsim"
)

// TestCold: nobody has a token, everybody asks, and the upstream holds its answer until all calls wait in the brokers.
func TestCold(t *testing.T) {
	beside(t)
	f := newFleet(t, 4, redistest.Start(t, redistest.Options{}).URL())
	for _, credentials := range []int{1, 20} {
		system := upstreamsim.OfficeRnD
		var accounts []upstreamsim.Account
		for i := range credentials {
			accounts = append(accounts, f.account(system, fmt.Sprintf("cold-%d-%d", credentials, i)))
		}
		f.warm()
		gate := f.sim.HoldAnswers(system)
		c := f.call(size(400, 10_000), func(i int) *tokenbrokerv1.GetTokenRequest {
			return &tokenbrokerv1.GetTokenRequest{Credential: fmt.Sprintf("cold-%d-%d", credentials, i/len(f.all)%credentials)}
		})
		c.allWait()
		released := time.Now()
		gate.Release()
		answers := c.wait()
		exchanges := 0
		for _, a := range accounts {
			exchanges += f.sim.Stats(a.ID).Total()
		}
		r := f.report(fmt.Sprintf("cold, %d credentials", credentials), answers, exchanges)
		for _, a := range answers {
			r.Last = max(r.Last, ms(a.got.Sub(released)))
		}
		r.print(t)
		if exchanges != credentials || len(r.Errors) > 0 {
			t.Errorf("%d exchanges for %d credentials, errors %v", exchanges, credentials, r.Errors)
		}
	}
}

// TestInvalidationStorm: the API rejects a token that all callers hold, and all of them say so at once.
func TestInvalidationStorm(t *testing.T) {
	beside(t)
	f := newFleet(t, 4, redistest.Start(t, redistest.Options{}).URL())
	a := f.account(upstreamsim.OfficeRnD, "storm")
	f.warm()
	old := f.call(100, named("storm")).oneToken(t)
	if _, err := f.sim.RejectTokens(a.ID); err != nil {
		t.Fatal(err)
	}
	var invalidating sync.WaitGroup
	for i := range size(50, 1000) {
		invalidating.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			m := f.all[i%len(f.all)]
			_, err := m.more[i%len(m.more)].Invalidate(ctx, &tokenbrokerv1.InvalidateRequest{
				Credential: "storm", Target: &tokenbrokerv1.InvalidateRequest_TokenId{TokenId: old.GetTokenId()},
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	c := f.call(size(400, 10_000), func(int) *tokenbrokerv1.GetTokenRequest {
		return &tokenbrokerv1.GetTokenRequest{Credential: "storm", RejectedTokenId: old.GetTokenId()}
	})
	invalidating.Wait()
	if got := c.oneToken(t); got.GetTokenId() == old.GetTokenId() {
		t.Error("the rejected token was handed out")
	}
	r := f.report("invalidation storm", c.wait(), f.sim.Stats(a.ID).Total()-1)
	r.print(t)
	if r.Exchanges != 1 {
		t.Errorf("%d more exchanges, want 1", r.Exchanges)
	}
}

// load keeps callers calling one after the other until stop is called, which returns all answers.
func (f *fleet) load(callers int, pause time.Duration, request func() *tokenbrokerv1.GetTokenRequest) (stop func() []answer) {
	ended := make(chan struct{})
	var wg sync.WaitGroup
	all := make([][]answer, callers)
	for i := range callers {
		m := f.all[i%len(f.all)]
		client := m.more[i/len(f.all)%len(m.more)]
		wg.Go(func() {
			for {
				select {
				case <-ended:
					return
				case <-time.After(pause):
				}
				ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
				a := answer{sent: time.Now()}
				res, err := client.GetToken(ctx, request())
				cancel()
				a.got, a.token, a.degraded, a.err = time.Now(), res.GetToken(), res.GetDegraded(), err
				all[i] = append(all[i], a)
			}
		})
	}
	return func() []answer {
		close(ended)
		wg.Wait()
		var out []answer
		for _, a := range all {
			out = append(out, a...)
		}
		return out
	}
}

// TestExpiryUnderLoad: short-lived tokens, and callers that go on. Nobody gets one that has ended, and each lifetime costs one
// exchange.
func TestExpiryUnderLoad(t *testing.T) {
	beside(t)
	f := newFleet(t, 4, redistest.Start(t, redistest.Options{}).URL())
	a := f.account(upstreamsim.OfficeRnD, "short")
	const life = 3 * time.Second
	if err := f.sim.SetLifetime(a.ID, life); err != nil {
		t.Fatal(err)
	}
	f.warm()
	lasts := time.Duration(size(8, 60)) * time.Second
	began := time.Now()
	stop := f.load(size(40, 400), 20*time.Millisecond, func() *tokenbrokerv1.GetTokenRequest { return named("short")(0) })
	<-time.After(lasts)
	answers := stop()
	took := time.Since(began)
	r := f.report("expiry under load", answers, f.sim.Stats(a.ID).Total())
	tokens := map[string]bool{}
	for _, x := range answers {
		if x.err != nil {
			t.Fatal(x.err)
		}
		tokens[x.token.GetTokenId()] = true
		if x.got.After(x.token.GetExpireTime().AsTime()) && x.sent.After(x.token.GetExpireTime().AsTime()) {
			t.Fatalf("a token that ended at %v was handed out at %v", x.token.GetExpireTime().AsTime(), x.got)
		}
	}
	r.Figures["tokens"] = float64(len(tokens))
	r.print(t)
	// The margin is a fifth of a lifetime, which is stated in whole seconds, and a quarter of that earlier at most.
	if most := int(took/((life-time.Second)*3/4)) + 2; r.Exchanges > most || r.Exchanges < 2 {
		t.Errorf("%d exchanges in %v, want at most %d", r.Exchanges, took, most)
	}
}

// TestUpstreamDown: everybody is told, with when to ask again; the upstream is asked a handful of times; and when it is well
// again, that costs one exchange.
func TestUpstreamDown(t *testing.T) {
	beside(t)
	for how, down := range map[string]func(*upstreamsim.Sim) (up func(), err error){
		"answers 500": func(s *upstreamsim.Sim) (func(), error) {
			return s.AddFault(upstreamsim.Fault{Kind: upstreamsim.FaultServerError, System: upstreamsim.OfficeRnD})
		},
		"takes no connection": func(s *upstreamsim.Sim) (func(), error) {
			s.Down(upstreamsim.OfficeRnD)
			return func() { s.Up(upstreamsim.OfficeRnD) }, nil
		},
	} {
		t.Run(how, func(t *testing.T) {
			beside(t)
			f := newFleet(t, 4, redistest.Start(t, redistest.Options{}).URL())
			a := f.account(upstreamsim.OfficeRnD, "down")
			f.warm()
			up, err := down(f.sim)
			if err != nil {
				t.Fatal(err)
			}
			lasts := time.Duration(size(4, 30)) * time.Second
			stop := f.load(size(100, 2000), 50*time.Millisecond, func() *tokenbrokerv1.GetTokenRequest { return named("down")(0) })
			<-time.After(lasts)
			answers := stop()
			shakes := f.sim.Connections().Handshakes["identity.officernd.com"]
			r := f.report("upstream "+how, answers, f.sim.Stats(a.ID).Total())
			r.Figures["connections"] = float64(shakes)
			r.print(t)
			if r.Errors["UPSTREAM_UNAVAILABLE"] != len(answers) {
				t.Errorf("errors %v, want all %d UPSTREAM_UNAVAILABLE", r.Errors, len(answers))
			}
			for _, x := range answers {
				if code, wait := status.Code(x.err), retryIn(x.err); code != codes.Unavailable || wait < 0 || wait > time.Minute {
					t.Fatalf("told %v, and to ask again in %v: %v", code, wait, x.err)
				}
			}
			if most := size(8, 12); max(r.Exchanges, shakes) > most {
				t.Errorf("%d exchanges on %d connections, want at most %d", r.Exchanges, shakes, most)
			}
			up()
			before := f.sim.Stats(a.ID).Total()
			for {
				c := f.call(100, named("down"))
				if c.wait()[0].err == nil {
					break
				}
				<-time.After(200 * time.Millisecond)
			}
			if n := f.sim.Stats(a.ID).Total() - before; n != 1 {
				t.Errorf("%d exchanges to recover, want 1", n)
			}
		})
	}
}

// retryIn is what an error says of when to ask again; less than nothing: it does not say.
func retryIn(err error) time.Duration {
	for _, d := range status.Convert(err).Details() {
		if again, ok := d.(*errdetails.RetryInfo); ok {
			return again.GetRetryDelay().AsDuration()
		}
	}
	return -1
}

// TestLeaderIsKilled: it holds the lease, and the upstream its answer. The others go on when the lease is over.
func TestLeaderIsKilled(t *testing.T) {
	beside(t)
	f := newFleet(t, 4, redistest.Start(t, redistest.Options{}).URL(), "--exchange-timeout", "1s")
	a := f.account(upstreamsim.OfficeRnD, "killed")
	gate := f.sim.HoldAnswers(upstreamsim.OfficeRnD)
	leader := f.all[0]
	go func() { _, _ = leader.tokens.GetToken(context.Background(), named("killed")(0)) }()
	for f.sim.Stats(a.ID).Total() == 0 {
		<-time.After(time.Millisecond)
	}
	leader.kill()
	gate.Release()
	f.all = f.all[1:]
	f.warm()
	c := f.call(size(100, 2000), named("killed"))
	c.oneToken(t)
	r := f.report("leader killed", c.wait(), f.sim.Stats(a.ID).Total())
	r.print(t)
	if r.Exchanges > 2 {
		t.Errorf("%d exchanges, want at most 2", r.Exchanges)
	}
	f.all = append(f.all, leader)
}

// TestRedisIsKilled, and started again: what it acknowledged is there, hits go on meanwhile, and there is no stampede after.
func TestRedisIsKilled(t *testing.T) {
	beside(t)
	redis := redistest.Start(t, redistest.Options{})
	f := newFleet(t, 4, redis.URL())
	a := f.account(upstreamsim.OfficeRnD, "hits")
	const others = 20
	for i := range others {
		f.account(upstreamsim.OfficeRnD, fmt.Sprintf("other-%d", i))
	}
	rotates := f.account(upstreamsim.RefreshToken, "rotates")
	f.warm()
	id := f.call(4, named("rotates")).oneToken(t).GetTokenId()
	for i := range others { // who has never heard of a credential cannot go on with it
		f.call(len(f.all), named(fmt.Sprintf("other-%d", i))).oneToken(t)
	}
	f.call(len(f.all), named("hits")).oneToken(t)
	var next atomic.Int64
	request := func() *tokenbrokerv1.GetTokenRequest {
		if n := next.Add(1); n%2 == 0 {
			return named(fmt.Sprintf("other-%d", n/2%others))(0)
		}
		return named("hits")(0)
	}
	stop := f.load(size(40, 400), 20*time.Millisecond, request)
	<-time.After(2 * time.Second)
	before := f.sim.SystemStats(upstreamsim.OfficeRnD).Total()
	redis.Kill()
	<-time.After(time.Duration(size(4, 15)) * time.Second)
	redis.Restart()
	<-time.After(4 * time.Second)
	answers := stop()
	r := f.report("Redis killed", answers, f.sim.SystemStats(upstreamsim.OfficeRnD).Total()-before)
	for _, x := range answers {
		if x.degraded {
			r.Figures["degraded"]++
		}
	}
	r.print(t)
	if len(r.Errors) > 0 || r.Exchanges > 0 || r.Figures["degraded"] == 0 {
		t.Errorf("errors %v, %d exchanges, %v degraded; want none, none, and some", r.Errors, r.Exchanges, r.Figures["degraded"])
	}
	c := f.call(size(100, 2000), func(int) *tokenbrokerv1.GetTokenRequest {
		return &tokenbrokerv1.GetTokenRequest{Credential: "rotates", RejectedTokenId: id}
	})
	if c.oneToken(t).GetTokenId() == id || f.sim.Stats(rotates.ID).Total() != 2 {
		t.Errorf("%d exchanges for the refresh token, want 2: one more than before", f.sim.Stats(rotates.ID).Total())
	}
	if n := f.sim.Stats(a.ID).Total(); n != 1 {
		t.Errorf("%d exchanges for one credential, want 1", n)
	}
}
