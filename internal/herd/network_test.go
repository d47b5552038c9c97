package herd

import (
	"context"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"
	"time"

	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/internal/redistest"
	"github.com/tokenbroker/tokenbroker/internal/upstreamsim"
)

// mostAway is how long Redis is away at a time: shorter than what brokers wait before they take over a refresh token.
const mostAway = 4 * time.Second

// TestRotationWhileRedisSuffers: refresh tokens rotate at an upstream that revokes a family when a spent one comes again. Brokers
// lose their way to Redis, each its own, and Redis is killed and stopped, but no broker is: no family is lost, and none is
// presented twice.
func TestRotationWhileRedisSuffers(t *testing.T) {
	beside(t)
	redis := redistest.Start(t, redistest.Options{})
	f := &suffering{
		fleet:   noFleet(t, redis.URL(), "--exchange-timeout", "1s", "--upstream-concurrency", "64"),
		figures: map[string]float64{}, reasons: map[string]int{},
	}
	var accounts []upstreamsim.Account
	var ways []*redistest.Proxy
	for range size(3, 4) {
		p := redistest.NewProxy(t, redis.Addr())
		ways = append(ways, p)
		f.add("--store", "redis://"+p.Addr())
	}
	for i := range size(10, 50) {
		accounts = append(accounts, f.account(upstreamsim.RefreshToken, fireName(i)))
	}
	lasts := time.Duration(size(15, 180)) * time.Second
	f.until = time.Now().Add(lasts)
	var wg sync.WaitGroup
	for i := range accounts {
		wg.Go(func() { f.rotate(i) })
	}
	for time.Now().Before(f.until) {
		f.count(suffer(redis, ways[rand.N(len(ways))]))
		<-time.After(rand.N(time.Second))
	}
	for _, p := range ways {
		p.Forward()
	}
	wg.Wait()
	r := f.report("rotation while Redis suffers", nil, f.sim.SystemStats(upstreamsim.RefreshToken).Total())
	r.Errors, r.Figures = f.reasons, f.figures
	r.print(t)
	if f.figures["new tokens"] == 0 {
		t.Error("nothing was rotated")
	}
	f.judge(accounts)
}

// TestRotationWhileBrokersAreStopped for up to one and a half times the lease, and go on: no family is lost, none is presented
// twice. That a caller is told of a failing upstream, because a broker was stopped in the middle of asking it, is rare and is shown.
func TestRotationWhileBrokersAreStopped(t *testing.T) {
	beside(t)
	const exchange = time.Second
	f := &suffering{
		fleet:   newFleet(t, size(3, 4), redistest.Start(t, redistest.Options{}).URL(), "--exchange-timeout", exchange.String(), "--upstream-concurrency", "64"),
		figures: map[string]float64{}, reasons: map[string]int{},
	}
	var accounts []upstreamsim.Account
	for i := range size(10, 50) {
		accounts = append(accounts, f.account(upstreamsim.RefreshToken, fireName(i)))
	}
	f.until = time.Now().Add(time.Duration(size(20, 120)) * time.Second)
	var wg sync.WaitGroup
	for i := range accounts {
		wg.Go(func() { f.rotate(i) })
	}
	lease := exchange + 2*time.Second
	for time.Now().Before(f.until) {
		m := f.all[rand.N(len(f.all))]
		m.stop()
		<-time.After(lease/2 + rand.N(lease))
		m.signal(syscall.SIGCONT)
		f.count("stops")
		<-time.After(rand.N(500 * time.Millisecond))
	}
	wg.Wait()
	r := f.report("rotation while brokers are stopped", nil, f.sim.SystemStats(upstreamsim.RefreshToken).Total())
	r.Errors, r.Figures = f.reasons, f.figures
	r.print(t)
	if f.figures["new tokens"] == 0 || f.figures["stops"] == 0 {
		t.Error("nothing was rotated, or nobody stopped")
	}
	f.judge(accounts)
}

// suffering is what TestRotationWhileRedisSuffers is made of.
type suffering struct {
	*fleet
	until time.Time

	mu      sync.Mutex
	figures map[string]float64
	reasons map[string]int
}

func (f *suffering) count(what string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.figures[what]++
}

// judge holds what happened against the upstream's ledger.
func (f *suffering) judge(accounts []upstreamsim.Account) {
	f.t.Helper()
	for i, a := range accounts {
		presented := map[[2]int]int{}
		for _, e := range f.sim.Ledger(a.ID) {
			switch e.Kind {
			case upstreamsim.KindPresented:
				presented[[2]int{e.Family, e.Token}]++
			case upstreamsim.KindReused, upstreamsim.KindRevoked:
				f.t.Errorf("%s: %s %s", fireName(i), e.Time.Format(time.StampMilli), e)
			default:
			}
		}
		for token, n := range presented {
			if n > 1 {
				f.t.Errorf("%s: token %v was presented %d times", fireName(i), token, n)
			}
		}
	}
}

// rotate asks for one token after the other, each time saying that the API rejects the last, and has all of them dropped where another is not asked for
// yet. A token that was rejected may come again from a broker that has not heard of it: for as long as the cache is relied on, or marked degraded.
func (f *suffering) rotate(i int) {
	rejected := ""
	seen := map[string]time.Time{} // tokens, and when it was known that there is a newer one
	for time.Now().Before(f.until) {
		m := f.all[rand.N(len(f.all))]
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		sent := time.Now()
		res, err := m.tokens.GetToken(ctx, &tokenbrokerv1.GetTokenRequest{Credential: fireName(i), RejectedTokenId: rejected})
		cancel()
		if err != nil {
			f.mu.Lock()
			f.reasons[reasonOf(err)]++
			f.mu.Unlock()
			if reasonOf(err) == "FRESH_TOKENS_REJECTED" {
				rejected = f.dropAll(m, i, rejected)
			}
			<-time.After(50 * time.Millisecond)
			continue
		}
		id := res.GetToken().GetTokenId()
		switch was, known := seen[id]; {
		case id == rejected:
			f.t.Errorf("%s: broker %d served the token that the call itself rejects", fireName(i), m.number)
		case !known:
			f.count("new tokens")
			for old, at := range seen {
				if at.IsZero() {
					seen[old] = time.Now()
				}
			}
			seen[id] = time.Time{}
		case res.GetDegraded():
			f.count("old ones, degraded")
		case was.IsZero():
			f.count("the newest again")
		default:
			f.count("old ones")
			if late := sent.Sub(was); late > 2*time.Second {
				f.t.Errorf("%s: broker %d served a token that was replaced %v before, not marked degraded", fireName(i), m.number, late)
			}
		}
		rejected = id
		<-time.After(50*time.Millisecond + rand.N(150*time.Millisecond))
	}
}

// dropAll has a broker drop all tokens of an account, and returns the token that is to be rejected next: none, or the same where that failed.
func (f *suffering) dropAll(m *member, i int, rejected string) string {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	_, err := m.tokens.Invalidate(ctx, &tokenbrokerv1.InvalidateRequest{
		Credential: fireName(i), Target: &tokenbrokerv1.InvalidateRequest_All{All: true},
	})
	if err != nil {
		return rejected
	}
	return ""
}

// suffer lets something go wrong between one broker and Redis, or with Redis itself, for a while, and says what it was.
func suffer(redis *redistest.Server, way *redistest.Proxy) string {
	away := 50*time.Millisecond + rand.N(mostAway-time.Second)
	switch rand.N(7) {
	case 0:
		way.BlackHole()
		<-time.After(away)
		way.Forward()
		return "black holes"
	case 1:
		way.DropAnswers()
		<-time.After(away)
		way.Forward()
		return "answers dropped"
	case 2:
		way.Refuse()
		<-time.After(away)
		way.Forward()
		return "refused"
	case 3:
		d := rand.N(600 * time.Millisecond)
		way.Delay(d)
		<-time.After(away)
		way.Forward()
		return "delays"
	case 4: // connections are cut and at once made anew
		for range 5 {
			way.Refuse()
			way.Forward()
			<-time.After(100 * time.Millisecond)
		}
		return "cuts"
	case 5:
		redis.Kill()
		<-time.After(away)
		redis.Restart()
		return "Redis killed"
	default:
		redis.Stop()
		<-time.After(away)
		redis.Continue()
		return "Redis stopped"
	}
}
