package herd

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"

	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/internal/redistest"
	"github.com/tokenbroker/tokenbroker/internal/upstreamsim"
)

// fire is what TestRotationUnderFire is made of.
type fire struct {
	*fleet
	lease    time.Duration
	until    time.Time
	accounts []upstreamsim.Account

	commits, reseeded atomic.Int64

	mu sync.Mutex
	// outages are when a broker was killed, and from when it had been stopped before that.
	outages []outage
	reasons map[string]int
}

type outage struct{ from, killed time.Time }

func fireName(i int) string { return fmt.Sprintf("fire-%02d", i) }

// TestRotationUnderFire: credentials whose refresh tokens rotate at an upstream that revokes a family when a spent one comes
// again; brokers that are killed with -9 and stopped for up to one and a half times the lease, at random. By the upstream's
// ledger every family that is lost had a request under way when a broker was killed.
func TestRotationUnderFire(t *testing.T) {
	beside(t)
	credentials, brokers, lasts := 10, 3, 20*time.Second
	if full() {
		credentials, brokers, lasts = 50, 4, 5*time.Minute
	}
	const exchange = time.Second
	r := redistest.Start(t, redistest.Options{})
	f := &fire{
		fleet: newFleet(t, brokers, r.URL(), "--exchange-timeout", exchange.String(), "--upstream-concurrency", "64"),
		lease: exchange + 2*time.Second, reasons: map[string]int{},
	}
	for i := range credentials {
		a, err := f.sim.AddAccount(upstreamsim.RefreshToken)
		if err != nil {
			t.Fatal(err)
		}
		f.accounts = append(f.accounts, a)
		f.create(fireName(i), a)
	}
	f.until = time.Now().Add(lasts)
	var wg sync.WaitGroup
	for i := range credentials {
		wg.Go(func() { f.rotate(i) })
	}
	wg.Go(func() { f.rage(lasts) })
	wg.Wait()
	f.judge()
}

// rotate asks for one token after the other, each time dropping the last first: whoever rejects fresh ones is made to wait.
func (f *fire) rotate(i int) {
	last := ""
	for time.Now().Before(f.until) {
		m := f.all[rand.N(len(f.all))]
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		if last != "" { // where it fails, the token is there still, and asked for again
			_, _ = m.tokens.Invalidate(ctx, &tokenbrokerv1.InvalidateRequest{Credential: fireName(i), Target: &tokenbrokerv1.InvalidateRequest_All{All: true}})
		}
		res, err := m.tokens.GetToken(ctx, &tokenbrokerv1.GetTokenRequest{Credential: fireName(i)})
		cancel()
		if err == nil {
			if id := res.GetToken().GetTokenId(); id != last {
				f.commits.Add(1)
				last = id
			}
			<-time.After(50*time.Millisecond + rand.N(150*time.Millisecond))
			continue
		}
		reason := reasonOf(err)
		f.mu.Lock()
		f.reasons[reason]++
		f.mu.Unlock()
		if reason == "REAUTHORIZATION_REQUIRED" {
			f.authorizeAgain(i)
		}
		<-time.After(50 * time.Millisecond)
	}
}

func reasonOf(err error) string {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return status.Code(err).String()
}

// authorizeAgain does what a human does: it is only right where the family is really lost.
func (f *fire) authorizeAgain(i int) {
	ledger := f.sim.Ledger(f.accounts[i].ID)
	family := 0
	for _, e := range ledger {
		family = max(family, e.Family)
	}
	if !slices.ContainsFunc(ledger, func(e upstreamsim.Event) bool { return e.Family == family && e.Kind == upstreamsim.KindReused }) {
		f.t.Errorf("%s: REAUTHORIZATION_REQUIRED, and family %d is alive", fireName(i), family)
	}
	a, err := f.sim.Reseed(f.accounts[i].ID)
	if err != nil {
		f.t.Error(err)
		return
	}
	f.reseeded.Add(1)
	for time.Now().Before(f.until.Add(time.Minute)) {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		_, err := tokenbrokerv1.NewCredentialServiceClient(f.all[rand.N(len(f.all))].conn).UpdateCredential(ctx, &tokenbrokerv1.UpdateCredentialRequest{
			Credential: &tokenbrokerv1.Credential{Name: fireName(i), Provider: string(a.System), Inputs: a.Inputs}, Secrets: a.Secrets,
		})
		cancel()
		if err == nil {
			return
		}
		<-time.After(100 * time.Millisecond)
	}
	f.t.Errorf("%s: not authorized again", fireName(i))
}

// rage kills and stops brokers, one at a time.
func (f *fire) rage(lasts time.Duration) {
	every := min(lasts/8, 4*time.Second)
	for time.Now().Before(f.until) {
		m := f.all[rand.N(len(f.all))]
		from := time.Now()
		if rand.N(3) == 0 {
			m.stop()
			<-time.After(f.lease/2 + rand.N(f.lease))
			if rand.N(2) == 0 {
				m.signal(syscall.SIGCONT)
				<-time.After(time.Second)
				continue
			}
		}
		m.kill()
		f.mu.Lock()
		f.outages = append(f.outages, outage{from, time.Now()})
		f.mu.Unlock()
		<-time.After(200 * time.Millisecond)
		m.start()
		<-time.After(max(0, every-time.Since(from)))
	}
}

// judge holds what happened against the upstream's ledger.
func (f *fire) judge() {
	lost, presented, spent := 0, 0, 0
	for i, a := range f.accounts {
		first := map[[2]int]time.Time{}
		for _, e := range f.sim.Ledger(a.ID) {
			key := [2]int{e.Family, e.Token}
			switch e.Kind {
			case upstreamsim.KindPresented:
				presented++
				if _, again := first[key]; !again {
					first[key] = e.Time
				}
			case upstreamsim.KindSpent:
				spent++
			case upstreamsim.KindReused:
				lost++
				if !f.underWay(first[key], e.Time) {
					f.t.Errorf("%s: refresh token %d of family %d was presented at %v and again at %v, and no broker was killed in between",
						fireName(i), e.Token, e.Family, first[key].Format(time.StampMilli), e.Time.Format(time.StampMilli))
				}
			default:
			}
		}
	}
	kills := len(f.outages)
	fmt.Printf("rotation under fire: %d credentials, %d brokers, %d commits, %d kills, %d presentations (%d spent), %d families lost, %d authorized again\n",
		len(f.accounts), len(f.all), f.commits.Load(), kills, presented, spent, lost, f.reseeded.Load())
	fmt.Printf("  errors that callers saw, by reason: %v\n", f.reasons)
	if lost > kills {
		f.t.Errorf("%d families were lost by %d kills", lost, kills)
	}
	if f.commits.Load() == 0 || kills == 0 {
		f.t.Errorf("%d commits and %d kills say nothing", f.commits.Load(), kills)
	}
	// Besides those that were committed: what was under way at a kill, and one more look at each of those.
	if most := spent + 2*kills*len(f.accounts)/4 + 20; presented > most {
		f.t.Errorf("%d presentations for %d that were spent: the upstream was hammered", presented, spent)
	}
	if path := os.Getenv("HERD_JSON"); path != "" {
		out, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			f.t.Fatal(err)
		}
		defer out.Close()
		fmt.Fprintf(out, `{"mode":"fire","credentials":%d,"brokers":%d,"commits":%d,"kills":%d,"presented":%d,"spent":%d,"lost":%d}`+"\n",
			len(f.accounts), len(f.all), f.commits.Load(), kills, presented, spent, lost)
	}
}

// mostUnderWay is how long an exchange and its commit take at most; they usually take a hundredth of it.
const mostUnderWay = 1200 * time.Millisecond

// underWay reports whether the first presentation can have been uncommitted when a broker was killed, or stopped and then killed,
// before the second. The upstream may have read it, and counted it, a little after whoever sent it was killed.
func (f *fire) underWay(first, second time.Time) bool {
	for _, o := range f.outages {
		if o.killed.After(first.Add(-mostUnderWay)) && o.killed.Before(second) && o.from.Sub(first) < mostUnderWay {
			return true
		}
	}
	return false
}
