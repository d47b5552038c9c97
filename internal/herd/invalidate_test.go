package herd

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/internal/redistest"
	"github.com/tokenbroker/tokenbroker/internal/upstreamsim"
)

// sightings are when each token was last served, by any broker.
type sightings struct {
	mu   sync.Mutex
	last map[string]time.Time
}

func (s *sightings) saw(id string, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at.After(s.last[id]) {
		s.last[id] = at
	}
}

// watchAll has callers ask every broker all the time, and notes when each call that got a token was sent.
func (f *fleet) watchAll(s *sightings, perBroker int, name string) (stop func()) {
	ended := make(chan struct{})
	var wg sync.WaitGroup
	for _, m := range f.all {
		for i := range perBroker {
			client := m.more[i%len(m.more)]
			wg.Go(func() {
				for {
					select {
					case <-ended:
						return
					case <-time.After(time.Millisecond):
					}
					ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
					sent := time.Now()
					if res, err := client.GetToken(ctx, &tokenbrokerv1.GetTokenRequest{Credential: name}); err == nil {
						s.saw(res.GetToken().GetTokenId(), sent)
					}
					cancel()
				}
			})
		}
	}
	return func() {
		close(ended)
		wg.Wait()
	}
}

func (m *member) invalidate(t testing.TB, name, id string) {
	t.Helper()
	m.drop(t, &tokenbrokerv1.InvalidateRequest{Credential: name, Target: &tokenbrokerv1.InvalidateRequest_TokenId{TokenId: id}})
}

func (m *member) drop(t testing.TB, req *tokenbrokerv1.InvalidateRequest) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := m.tokens.Invalidate(ctx, req); err != nil {
		t.Fatal(err)
	}
}

// agreed waits until all brokers serve the same token.
func (f *fleet) agreed(name string) string {
	for {
		answers := f.call(len(f.all), named(name)).wait()
		same := true
		for _, a := range answers {
			same = same && a.err == nil && a.token.GetTokenId() == answers[0].token.GetTokenId()
		}
		if same {
			return answers[0].token.GetTokenId()
		}
	}
}

// TestInvalidationRounds: after Invalidate has returned, how long is the rejected token served by any broker?
func TestInvalidationRounds(t *testing.T) {
	beside(t)
	f := newFleet(t, 4, redistest.Start(t, redistest.Options{}).URL())
	a := f.account(upstreamsim.OfficeRnD, "rounds")
	s := &sightings{last: map[string]time.Time{}}
	stop := f.watchAll(s, 4, "rounds")
	rounds := size(30, 1000)
	returned := map[string]time.Time{}
	for round := range rounds {
		id := f.agreed("rounds")
		// All of them: whoever rejects fresh tokens one after the other is made to wait.
		f.all[round%len(f.all)].drop(t, &tokenbrokerv1.InvalidateRequest{Credential: "rounds", Target: &tokenbrokerv1.InvalidateRequest_All{All: true}})
		returned[id] = time.Now()
	}
	stop()
	var took []time.Duration
	for id, at := range returned {
		took = append(took, max(0, s.last[id].Sub(at)))
	}
	r := f.report("invalidation rounds", nil, f.sim.Stats(a.ID).Total())
	r.Figures["rounds"] = float64(rounds)
	r.Figures["last served after Invalidate, ms, p50"] = ms(percentile(took, 50))
	r.Figures["p99"], r.Figures["max"] = ms(percentile(took, 99)), ms(percentile(took, 100))
	r.print(t)
	if r.Exchanges != rounds && r.Exchanges != rounds+1 { // whether somebody asked after the last
		t.Errorf("%d exchanges for %d rounds, want one each", r.Exchanges, rounds)
	}
	if most := percentile(took, 100); most > 2*time.Second {
		t.Errorf("a rejected token was served %v after Invalidate had returned: longer than the bound", most)
	}
}

// TestBlackHole: one broker's connection to Redis swallows everything. It serves a token that was rejected elsewhere no longer
// than the bound and the grace.
func TestBlackHole(t *testing.T) {
	beside(t)
	for name, grace := range map[string]time.Duration{"no grace": 0, "a grace of two seconds": 2 * time.Second} {
		t.Run(name, func(t *testing.T) {
			redis := redistest.Start(t, redistest.Options{})
			proxy := redistest.NewProxy(t, redis.Addr())
			f := newFleet(t, 1, redis.URL(), "--outage-grace", grace.String())
			f.add("--store", "redis://"+proxy.Addr())
			f.account(upstreamsim.OfficeRnD, "hole")
			s := &sightings{last: map[string]time.Time{}}
			stop := f.watchAll(s, 4, "hole")
			defer stop()
			var all []time.Duration
			for range size(2, 10) {
				for {
					c := f.call(2, named("hole"))
					if answers := c.wait(); answers[0].err == nil && answers[1].err == nil && !answers[1].degraded {
						break
					}
					<-time.After(50 * time.Millisecond)
				}
				id := f.call(2, named("hole")).oneToken(t).GetTokenId()
				proxy.BlackHole()
				f.all[0].invalidate(t, "hole", id)
				returned := time.Now()
				<-time.After(2*time.Second + grace + 500*time.Millisecond)
				s.mu.Lock()
				took := s.last[id].Sub(returned)
				s.mu.Unlock()
				all = append(all, took)
				// The promise itself is a time. What is measured is when a call was sent.
				if took > 2*time.Second+grace {
					t.Errorf("the rejected token was served %v after Invalidate had returned, want at most %v", took, 2*time.Second+grace)
				}
				proxy.Forward()
			}
			r := f.report("black hole, "+name, nil, f.sim.SystemStats(upstreamsim.OfficeRnD).Total())
			r.Figures["rounds"] = float64(len(all))
			r.Figures["last served after Invalidate, ms, p50"], r.Figures["max"] = ms(percentile(all, 50)), ms(percentile(all, 100))
			r.print(t)
		})
	}
}

// TestBlackHoleWithGrace: who has chosen a longer grace goes on with what it has, marked degraded, and has what is new as soon as
// Redis can be reached.
func TestBlackHoleWithGrace(t *testing.T) {
	beside(t)
	redis := redistest.Start(t, redistest.Options{})
	proxy := redistest.NewProxy(t, redis.Addr())
	f := newFleet(t, 1, redis.URL(), "--outage-grace", "1m")
	cut := f.add("--store", "redis://"+proxy.Addr())
	f.account(upstreamsim.OfficeRnD, "grace")
	f.warm()
	id := f.call(2, named("grace")).oneToken(t).GetTokenId()
	alone := &fleet{t: t, sim: f.sim, all: []*member{cut}}
	stop := alone.load(size(20, 200), 10*time.Millisecond, func() *tokenbrokerv1.GetTokenRequest { return named("grace")(0) })
	<-time.After(time.Second)
	proxy.BlackHole()
	f.all[0].invalidate(t, "grace", id)
	invalidated := time.Now()
	<-time.After(time.Duration(size(6, 30)) * time.Second)
	healed := time.Now()
	proxy.Forward()
	<-time.After(5 * time.Second)
	answers := stop()
	r := f.report("black hole, a grace of a minute", answers, f.sim.SystemStats(upstreamsim.OfficeRnD).Total())
	for _, a := range answers {
		switch old := a.token.GetTokenId() == id; {
		case a.err != nil:
		case a.degraded:
			r.Figures["degraded"]++
			r.Figures["last degraded after healing, ms"] = max(r.Figures["last degraded after healing, ms"], ms(a.sent.Sub(healed)))
		case old && a.sent.After(invalidated):
			r.Figures["last served unmarked after Invalidate, ms"] = max(r.Figures["last served unmarked after Invalidate, ms"], ms(a.sent.Sub(invalidated)))
		}
		if a.token.GetTokenId() == id {
			r.Figures["last served after healing, ms"] = max(r.Figures["last served after healing, ms"], ms(a.sent.Sub(healed)))
		}
	}
	r.print(t)
	// One is allowed for the broker itself: it may hear of what was invalidated before it knows that Redis is back.
	if len(r.Errors) > 0 || r.Exchanges < 2 || r.Exchanges > 3 || r.Figures["degraded"] == 0 {
		t.Errorf("errors %v, %d exchanges, %v degraded; want none, 2 or 3, and some", r.Errors, r.Exchanges, r.Figures["degraded"])
	}
	if late := r.Figures["last served unmarked after Invalidate, ms"]; late > 2000 {
		t.Errorf("the rejected token was served %v ms after Invalidate had returned, and not marked degraded", late)
	}
	if last := answers[len(answers)-1]; last.token.GetTokenId() == id || last.degraded {
		t.Errorf("five seconds after Redis can be reached it still has the rejected token, or says that it is degraded")
	}
}

// TestClusterMasterIsKilled: the one that has the credential. Hits go on meanwhile, and it goes on with the newest refresh token.
func TestClusterMasterIsKilled(t *testing.T) {
	beside(t)
	cluster := redistest.StartCluster(t)
	f := newFleet(t, 4, "redis+cluster://"+strings.Join(cluster.Addrs(), ","), "--redis-wait-replicas", "1")
	hits := f.account(upstreamsim.OfficeRnD, "hits")
	rotates := f.account(upstreamsim.RefreshToken, "rotates")
	f.warm()
	id := f.call(4, named("rotates")).oneToken(t).GetTokenId()
	stop := f.load(size(40, 200), 20*time.Millisecond, func() *tokenbrokerv1.GetTokenRequest { return named("hits")(0) })
	<-time.After(2 * time.Second)
	grant := grantKey(t, cluster)
	master := cluster.MasterFor(grant)
	master.Kill()
	killed := time.Now()
	cluster.AwaitFailover(grant, master)
	master.Restart() // as a replica: nothing is presented that no replica would know of
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		res, err := f.all[0].tokens.GetToken(ctx, &tokenbrokerv1.GetTokenRequest{Credential: "rotates", RejectedTokenId: id})
		cancel()
		if err == nil && res.GetToken().GetTokenId() != id {
			break
		}
		if time.Since(killed) > time.Minute {
			t.Fatalf("it does not go on: %v", err)
		}
		<-time.After(100 * time.Millisecond)
	}
	recovered := time.Since(killed)
	<-time.After(2 * time.Second)
	r := f.report("Cluster master killed", stop(), f.sim.Stats(hits.ID).Total())
	r.Figures["goes on after, ms"] = ms(recovered)
	r.print(t)
	if len(r.Errors) > 0 || r.Exchanges != 1 {
		t.Errorf("errors %v, %d exchanges; want none and 1", r.Errors, r.Exchanges)
	}
	for _, e := range f.sim.Ledger(rotates.ID) {
		if e.Kind == upstreamsim.KindReused || e.Kind == upstreamsim.KindRevoked {
			t.Errorf("%v", e)
		}
	}
}

// grantKey is the key of the only refresh token.
func grantKey(t testing.TB, cluster *redistest.Cluster) string {
	t.Helper()
	for _, n := range cluster.Nodes()[:3] {
		all, err := n.Do("KEYS", "*:grant")
		if err != nil {
			t.Fatal(err)
		}
		if found, ok := all.([]any); ok && len(found) > 0 {
			return fmt.Sprint(found[0])
		}
	}
	t.Fatal("no refresh token is stored")
	return ""
}
