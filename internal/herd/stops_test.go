package herd

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/internal/redistest"
	"github.com/tokenbroker/tokenbroker/internal/upstreamsim"
)

// A scene is a fleet whose first broker, the leader, reaches Redis and the upstream through proxies, and a credential of each
// kind that it is about to make an exchange for.
type scene struct {
	*fleet
	t               *testing.T
	redis           *redistest.Server
	store, upstream *redistest.Proxy
	leader          *member
	others          *fleet
	parts           []*part
	// without is when Redis was last asked that had no lease.
	without time.Time

	leading sync.WaitGroup
}

// A part is one credential of a scene.
type part struct {
	name     string
	account  upstreamsim.Account
	rejected string
	before   int
	crowd    *crowd
}

func (p *part) request(int) *tokenbrokerv1.GetTokenRequest {
	return &tokenbrokerv1.GetTokenRequest{Credential: p.name, Scopes: p.account.Scopes, RejectedTokenId: p.rejected}
}

// stopExchange is the time of an exchange in a scene; its lease is two seconds more.
const (
	stopExchange = 2 * time.Second
	stopLease    = stopExchange + 2*time.Second
)

func newScene(t *testing.T) *scene {
	t.Helper()
	s := &scene{t: t, redis: redistest.Start(t, redistest.Options{})}
	s.store = redistest.NewProxy(t, s.redis.Addr())
	s.fleet = noFleet(t, s.redis.URL(), "--exchange-timeout", stopExchange.String())
	s.upstream = redistest.NewProxy(t, s.sim.Addr())
	own := []string{"--store", "redis://" + s.store.Addr()}
	for _, h := range s.sim.Hosts() {
		own = append(own, "--upstream-connect-to", h+"="+s.upstream.Addr())
	}
	s.leader = s.add(own...)
	for range 3 {
		s.add()
	}
	s.others = &fleet{t: t, sim: s.sim, all: s.all[1:]}
	former := s.add()
	for _, system := range []upstreamsim.System{upstreamsim.OfficeRnD, upstreamsim.RefreshToken, upstreamsim.OchnoOperated} {
		p := &part{name: string(system)}
		p.account = s.account(system, p.name)
		if system == upstreamsim.OchnoOperated { // the first exchange brings the refresh token, the second presents it
			// By a broker that is gone then: one that has the token in use gets the next by itself, once it hears that it was rejected.
			p.rejected = (&fleet{t: t, sim: s.sim, all: []*member{former}}).call(1, p.request).oneToken(t).GetTokenId()
		}
		p.before = s.sim.Stats(p.account.ID).Total()
		s.parts = append(s.parts, p)
	}
	former.kill()
	s.all = s.all[:former.number]
	s.warm()
	return s
}

// lead has the leader begin an exchange for each credential.
func (s *scene) lead() {
	for _, p := range s.parts {
		s.leading.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			_, _ = s.leader.tokens.GetToken(ctx, p.request(0))
		})
	}
}

// await waits until something is so.
func (s *scene) await(what string, so func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(time.Minute); !so(); <-time.After(time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Errorf("waited in vain until %s", what)
			s.tell()
			s.t.FailNow()
		}
	}
}

// awaitLeases waits until Redis has at least so many leases, or at most.
func (s *scene) awaitLeases(least, most int) {
	s.t.Helper()
	s.await(fmt.Sprintf("there are %d to %d leases", least, most), func() bool {
		asked := time.Now()
		reply, err := s.redis.Do("KEYS", "*lease*")
		all, ok := reply.([]any)
		if err == nil && len(all) == 0 {
			s.without = asked
		}
		return err == nil && ok && len(all) >= least && len(all) <= most
	})
}

func (s *scene) awaitRequests() {
	s.t.Helper()
	s.await("the upstream has the leader's requests", func() bool {
		return !slices.ContainsFunc(s.parts, func(p *part) bool { return s.sim.Stats(p.account.ID).Total() == p.before })
	})
}

// stops are where the leader is stopped: each brings it there, and returns what lets it go on, but for the signal.
var stops = map[string]func(s *scene) (proceed func()){
	"before it knows of its lease": func(s *scene) func() {
		s.store.Delay(leaseDelay)
		s.lead()
		s.awaitLeases(1, len(s.parts)) // the others' may be on their way
		s.leader.stop()
		s.store.Forward()
		return func() {}
	},
	"before it sends": func(s *scene) func() {
		s.upstream.BlackHole()
		s.lead()
		s.awaitLeases(len(s.parts), len(s.parts))
		<-time.After(200 * time.Millisecond) // it dials
		s.leader.stop()
		s.upstream.Forward()
		return func() {}
	},
	"before its request has an effect": func(s *scene) func() {
		gate := s.sim.Hold("")
		s.lead()
		s.awaitRequests()
		s.leader.stop()
		gate.Release()
		return func() {}
	},
	"before it has the answer": func(s *scene) func() {
		gate := s.sim.HoldAnswers("")
		s.lead()
		s.awaitRequests()
		s.leader.stop()
		gate.Release()
		return func() {}
	},
	"before it has committed": func(s *scene) func() {
		gate := s.sim.HoldAnswers("")
		s.lead()
		s.awaitRequests()
		s.store.BlackHole()
		gate.Release()
		<-time.After(300 * time.Millisecond) // it has the answer and tells the store
		s.leader.stop()
		return func() {
			<-time.After(500 * time.Millisecond)
			s.store.Forward()
		}
	},
	"before it knows that it has committed": func(s *scene) func() {
		gate := s.sim.HoldAnswers("")
		s.lead()
		s.awaitRequests()
		s.store.Delay(100 * time.Millisecond)
		gate.Release()
		s.awaitLeases(0, len(s.parts)-1) // a commit ends the lease; the others' may be on their way
		s.leader.stop()
		s.store.Refuse() // what Redis has answered is lost
		return s.store.Forward
	},
}

// leaseDelay is how long Redis's answers to the leader take where it is stopped before it knows of its lease.
const leaseDelay = 100 * time.Millisecond

// stopped is a scene with its leader stopped there. The machine may be too slow: where it is stopped by what Redis says, and more than the delay has passed
// since there was no lease, the leader may know of it; where it is stopped before it sends, it may have sent. Then there is another scene.
func stopped(t *testing.T, where string) (*scene, func()) {
	t.Helper()
	for range 10 {
		s := newScene(t)
		proceed := stops[where](s)
		late := false
		switch where {
		case "before it knows of its lease":
			if late = time.Since(s.without) >= leaseDelay; !late && s.sent() {
				t.Error("it sent before it could know of its lease")
			}
		case "before it sends":
			late = s.sent()
		}
		if !late {
			return s, proceed
		}
		t.Log("it was stopped too late: again")
		s.leader.signal(syscall.SIGCONT)
		proceed()
		s.leading.Wait()
	}
	t.Fatalf("the machine is too slow to stop the leader %s", where)
	return nil, nil
}

// sent reports whether the upstream has heard of the leader.
func (s *scene) sent() bool {
	return slices.ContainsFunc(s.parts, func(p *part) bool { return s.sim.Stats(p.account.ID).Total() != p.before })
}

// TestLeaderIsStopped beyond its leases, wherever it is, and goes on: what costs nothing to ask for again costs at most two
// exchanges, and every refresh token is presented at most once.
func TestLeaderIsStopped(t *testing.T) {
	beside(t)
	for where := range stops {
		t.Run(where, func(t *testing.T) {
			beside(t)
			s, proceed := stopped(t, where)
			for _, p := range s.parts {
				p.crowd = s.others.call(size(12, 300), p.request)
			}
			<-time.After(stopLease + 1500*time.Millisecond)
			s.leader.signal(syscall.SIGCONT)
			proceed()
			s.judge("stopped "+where, 1)
		})
	}
}

// TestLeaderIsStoppedForVeryLong: until the others have gone on with the refresh token that it did not get to send. When it
// goes on, it does not send it.
func TestLeaderIsStoppedForVeryLong(t *testing.T) {
	beside(t)
	for where := range stops {
		if where != "before it knows of its lease" && where != "before it sends" {
			continue
		}
		t.Run(where, func(t *testing.T) {
			beside(t)
			s, proceed := stopped(t, where)
			for _, p := range s.parts {
				p.crowd = s.others.call(size(12, 300), p.request)
				p.crowd.wait()
			}
			s.leader.signal(syscall.SIGCONT)
			proceed()
			s.judge("long stopped "+where, 1)
		})
	}
}

// judge holds what happened against the upstream's ledger.
func (s *scene) judge(mode string, refreshes int) {
	s.t.Helper()
	s.leading.Wait()
	defer s.tell()
	for _, p := range s.parts {
		p.crowd.oneToken(s.t)
		r := s.report(fmt.Sprintf("%s, %s", mode, p.name), p.crowd.wait(), s.sim.Stats(p.account.ID).Total()-p.before)
		presented := map[[2]int]int{}
		r.Presented = 0
		for _, e := range s.sim.Ledger(p.account.ID) {
			switch e.Kind {
			case upstreamsim.KindPresented:
				presented[[2]int{e.Family, e.Token}]++
				r.Presented++
			case upstreamsim.KindReused, upstreamsim.KindRevoked:
				s.t.Errorf("%s: %v", p.name, e)
			default:
			}
		}
		r.print(s.t)
		if r.Exchanges > 2 {
			s.t.Errorf("%s: %d exchanges, want at most 2", p.name, r.Exchanges)
		}
		for token, n := range presented {
			if n != 1 {
				s.t.Errorf("%s: token %v was presented %d times", p.name, token, n)
			}
		}
		if p.account.System == upstreamsim.RefreshToken && r.Presented != refreshes {
			s.t.Errorf("%s: %d presentations, want %d", p.name, r.Presented, refreshes)
		}
	}
}

// tell says what the upstream saw, if something is wrong.
func (s *scene) tell() {
	if !s.t.Failed() {
		return
	}
	for _, p := range s.parts {
		for _, e := range s.sim.Ledger(p.account.ID) {
			s.t.Logf("%s %s", e.Time.Format(time.StampMilli), e)
		}
	}
	for _, r := range s.sim.Refusals("") {
		s.t.Logf("refused: %+v", r)
	}
	m := s.others.all[0] // not the leader, which may be stopped
	for _, p := range s.parts {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		status, err := tokenbrokerv1.NewCredentialServiceClient(m.conn).GetCredentialStatus(ctx, &tokenbrokerv1.GetCredentialStatusRequest{Name: p.name})
		cancel()
		s.t.Logf("broker %d: %v %v", m.number, status, err)
	}
}
