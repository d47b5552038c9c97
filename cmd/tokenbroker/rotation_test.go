package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/settings"
	"github.com/tokenbroker/tokenbroker/internal/upstreamsim"
)

// mains are what everybody asks for: one token that obtaining brings, and one for which a refresh token rotates.
var mains = []string{"main-0", "main-1"}

const (
	// callsEvery is the pace of each of those who stay, loserEvery of those who are refused in the end.
	callsEvery = 20 * time.Millisecond
	loserEvery = 200 * time.Millisecond
)

// TestEverythingRotates: three brokers on one Redis, with everything on, are asked at all listeners by certificates and tokens, while certificates, authorities, rights,
// issuers' keys and the store's keys are replaced. No call fails of those who may call, and nobody passes who may not any more. make rotation has it do so for
// TOKENBROKER_ROTATION, and not once.
func TestEverythingRotates(t *testing.T) {
	lasts, err := time.ParseDuration(os.Getenv("TOKENBROKER_ROTATION"))
	if long := os.Getenv("TOKENBROKER_ROTATION"); long != "" && err != nil {
		t.Fatal(err)
	}
	r := newRotation(t)
	ctx, end := context.WithCancel(t.Context())
	var all sync.WaitGroup
	defer all.Wait()
	defer end()
	began := time.Now()
	pair, _ := r.issue("stays", time.Hour)
	stays := []*persona{
		r.persona("by certificate", pair, ""),
		r.persona("by token, keys by discovery", nil, r.web.token(t, "stays")),
		r.persona("by token, keys in a file", nil, r.file.token(t, "stays")),
		r.persona("by certificate, connecting each time", pair, ""),
	}
	stays[3].cache = tls.NewLRUClientSessionCache(64)
	for i, system := range []upstreamsim.System{upstreamsim.OcctooDestination, upstreamsim.OchnoOperated} {
		r.create(stays[0], mains[i], system)
	}
	for _, p := range stays[:3] {
		r.sends(ctx, &all, p, callsEvery, false, true)
	}
	r.sends(ctx, &all, stays[3], loserEvery, true, false)
	for i := range r.brokers {
		r.drops(ctx, &all, stays[0], r.places[2*i+1])
	}
	keys := make(chan error, 1)
	go func() { keys <- r.rotateKeys(ctx, lasts > 0) }()
	rounds := 0
	for fetched := (time.Time{}); rounds == 0 || time.Since(began) < lasts; rounds++ {
		discovery := fetched.IsZero() || time.Since(fetched) > 70*time.Second // an unknown key is asked for twice, and once more in 30 s
		if discovery {
			fetched = time.Now()
		}
		r.round(ctx, rounds, stays, discovery)
		if t.Failed() {
			break
		}
	}
	if err := <-keys; err != nil {
		t.Error(err)
	}
	took := time.Since(began)
	end()
	all.Wait()
	r.report(rounds, took)
	events := map[string]int{}
	for i, p := range r.brokers {
		p.signal(syscall.SIGTERM)
		if code := p.code(); code != 0 || strings.Contains(p.output(), `"level":"ERROR"`) {
			t.Errorf("broker %d: got exit code %d, or an error in its log", i, code)
		}
		r.audited(r.dirs[i], events)
	}
	for _, e := range []string{"token.issued", "access.denied", "keys.promoted", "keys.rewrapped"} {
		if events[e] == 0 {
			t.Errorf("the audit logs have no %s, of %v", e, events)
		}
	}
}

// persona makes one who may call from the beginning.
func (r *rotation) persona(kind string, pair *tls.Certificate, bearer string) *persona {
	return &persona{kind: kind, pair: pair, bearer: bearer, seen: map[int]int{}, turns: []turn{{what: "the beginning", at: time.Now(), may: true}}}
}

// sends has somebody call at all places, and watch.
func (r *rotation) sends(ctx context.Context, all *sync.WaitGroup, p *persona, every time.Duration, fresh, watch bool) {
	for _, at := range r.places {
		w := worker{p: p, at: at, every: every, fresh: fresh}
		p.mu.Lock()
		number := p.callers
		p.callers++
		if watch {
			p.callers++
		}
		p.mu.Unlock()
		all.Go(func() { r.asks(ctx, number, w) })
		if watch {
			all.Go(func() { r.watches(ctx, number+1, w) })
		}
	}
}

// round replaces everything once. stays are those who notice nothing.
func (r *rotation) round(ctx context.Context, n int, stays []*persona, discovery bool) {
	t := r.t
	ctx, end := context.WithCancel(ctx)
	var all sync.WaitGroup
	defer all.Wait()
	defer end()
	named := func(what string) string { return fmt.Sprintf("%s-%d", what, n) }
	certified := map[string]*persona{} // who is to have a certificate of the next authority
	// loser is somebody who is refused in the end: by a certificate and by a token.
	loser := func(what string) []*persona {
		pair, _ := r.issue(named(what), time.Hour)
		both := []*persona{r.persona(what+", by certificate", pair, ""), r.persona(what+", by token", nil, r.web.token(t, named(what)))}
		certified[named(what)] = both[0]
		for _, p := range both {
			r.sends(ctx, &all, p, loserEvery, false, true)
		}
		return both
	}
	for _, name := range []string{"taken", "blocked", "former", "ends"} {
		r.allowed = append(r.allowed, named(name))
	}
	r.policy()
	r.until("those who may call do", stays[0], named("taken"))

	// The broker's certificate, by another authority than before.
	r.newServing()
	stays[0].gives(stays[0].pair, "") // the new roots
	stays[3].gives(stays[3].pair, "")
	r.move(stays...)
	r.shows()
	r.pass()

	// The callers' certificates.
	pair, _ := r.issue("stays", time.Hour)
	stays[0].gives(pair, "")
	stays[3].gives(pair, "")
	r.move(stays...)

	// A right that is given.
	given := r.stranger(ctx, &all, named("given"))
	certified[named("given")] = given
	r.move(given)
	r.allowed = append(r.allowed, named("given"))
	given.becomes(turn{what: "a right was given", at: time.Now(), may: true})
	r.policy()
	r.pass()

	// A right that is taken, and a caller who is blocked.
	denied := []codes.Code{codes.PermissionDenied}
	taken, blocked := loser("taken"), loser("blocked")
	r.change("a right was taken", named("slow-taken"), stays, taken, denied, func() {
		r.allowed = without(r.allowed, named("taken"))
		r.policy()
	})
	r.change("a caller was blocked", named("slow-blocked"), stays, blocked, denied, func() {
		r.blocked = append(r.blocked, named("blocked"))
		r.policy()
	})

	// A certificate that ends.
	unproven := []codes.Code{codes.Unauthenticated}
	pair, until := r.issue(named("ends"), 4*time.Second)
	ends := r.persona("a certificate that ends", pair, "")
	r.sends(ctx, &all, ends, loserEvery, false, true)
	r.changeAt("a certificate ended", named("slow-ends"), stays, []*persona{ends}, unproven, until, func() {})

	// The authority: the new one beside the former one, everybody moves, the former one is taken away.
	pair, _ = r.issue(named("former"), time.Hour)
	former := []*persona{r.persona("former authority, one connection", pair, ""), r.persona("former authority, connecting each time", pair, "")}
	former[1].cache = tls.NewLRUClientSessionCache(64)
	r.sends(ctx, &all, former[0], loserEvery, false, true)
	r.sends(ctx, &all, former[1], loserEvery, true, false)
	old := r.ca
	r.ca = r.authority("corp.example")
	r.put("ca.pem", slices.Concat(old.PEM(), r.ca.PEM()))
	r.until("the new authority counts", stays[0], "stays")
	pair, _ = r.issue("stays", time.Hour)
	stays[0].gives(pair, "")
	stays[3].gives(pair, "")
	r.move(stays...)
	for name, p := range certified {
		pair, _ := r.issue(name, time.Hour)
		p.gives(pair, "")
		r.move(p)
	}
	r.change("the former authority was taken away", named("slow-former"), stays, former, unproven, func() { r.put("ca.pem", r.ca.PEM()) })

	// The keys of an issuer in a file: as the authority.
	byFormer := r.persona("former key, in a file", nil, r.file.token(t, "stays"))
	r.sends(ctx, &all, byFormer, loserEvery, false, true)
	r.file.add(t)
	r.put("jwks.json", r.file.jwks(t))
	r.until("the new key counts", r.persona("", nil, r.file.token(t, "stays")), "")
	stays[2].gives(nil, r.file.token(t, "stays"))
	r.move(stays...)
	r.change("a former key was taken out of the file", named("slow-file"), stays, []*persona{byFormer}, unproven, func() {
		r.file.keep(1)
		r.put("jwks.json", r.file.jwks(t))
	})

	// The keys of the other issuer are fetched for a key that is not known: what it has taken away until then counts no more.
	if !discovery {
		return
	}
	byWeb := r.persona("former key, by discovery", nil, r.web.token(t, "stays"))
	r.sends(ctx, &all, byWeb, loserEvery, false, true)
	r.web.add(t)
	stays[1].gives(nil, r.web.token(t, "stays"))
	r.move(stays...)
	for _, p := range []*persona{taken[1], blocked[1]} {
		p.gives(nil, r.web.token(t, named(strings.Split(p.kind, ",")[0])))
		r.move(p)
	}
	r.web.add(t)
	r.web.keep(2)
	r.change("a former key was gone at a fetch", named("slow-web"), stays, []*persona{byWeb}, unproven, func() {
		stays[1].gives(nil, r.web.token(t, "stays"))
		r.move(stays[1])
	})
}

// stranger is somebody who may not call yet.
func (r *rotation) stranger(ctx context.Context, all *sync.WaitGroup, name string) *persona {
	pair, _ := r.issue(name, time.Hour)
	p := r.persona("a right that is given", pair, "")
	p.turns[0] = turn{what: "before", at: time.Now().Add(-time.Hour), codes: []codes.Code{codes.PermissionDenied}}
	r.sends(ctx, all, p, loserEvery, false, false)
	return p
}

// change is changeAt now.
func (r *rotation) change(what, slow string, stays, losers []*persona, want []codes.Code, apply func()) {
	r.changeAt(what, slow, stays, losers, want, time.Time{}, apply)
}

// changeAt makes a change by which some lose what they have, while they and others wait for a token that comes only then. Those others get it.
func (r *rotation) changeAt(what, slow string, stays, losers []*persona, want []codes.Code, at time.Time, apply func()) {
	r.t.Helper()
	r.create(stays[0], slow, upstreamsim.OfficeRnD)
	gate := r.sim.Hold(upstreamsim.OfficeRnD)
	defer gate.Release()
	var lose, stay []*waiter
	for _, place := range r.places {
		for _, p := range losers {
			lose = append(lose, r.wait(p, place, slow))
		}
		for _, p := range stays[:3] {
			stay = append(stay, r.wait(p, place, slow))
		}
	}
	r.await("all wait for the flight", func() bool { return r.waiters() >= len(lose)+len(stay) })
	if at.IsZero() {
		at = time.Now()
	}
	for _, p := range losers {
		p.becomes(turn{what: what, at: at, codes: want})
	}
	<-time.After(time.Until(at))
	apply()
	// Who lost what proves who they are is told at once, and who lost a right when there is something to decide on.
	told := true
	select {
	case <-lose[0].done:
	case <-time.After(bound):
		told = false
		gate.Release()
	}
	for _, w := range lose {
		select {
		case <-w.done:
		case <-time.After(patience):
			r.t.Errorf("%s: who waits at %s, %s, is not told", what, w.at, w.p.kind)
			continue
		}
		if !(&turn{codes: want}).refuses(w.err) {
			r.t.Errorf("%s: who waits at %s, %s: got %v, want %v", what, w.at, w.p.kind, w.err, want)
		}
		if told {
			r.mu.Lock()
			r.latest[what+", who waits"] = max(r.latest[what+", who waits"], w.got.Sub(at))
			r.mu.Unlock()
		}
	}
	gate.Release()
	for _, w := range stay {
		if <-w.done; w.err != nil {
			r.t.Errorf("%s: who waits and may, at %s, %s: %v", what, w.at, w.p.kind, w.err)
		}
	}
	r.pass()
}

// pass lets as much time pass as a change may take, and some calls more.
func (*rotation) pass() { <-time.After(bound + 200*time.Millisecond) }

// move waits until all callers show what they were given.
func (r *rotation) move(all ...*persona) {
	r.t.Helper()
	for _, p := range all {
		r.await("the callers show what is new", p.moved)
	}
}

func (r *rotation) await(what string, is func() bool) {
	r.t.Helper()
	for began := time.Now(); !is(); <-time.After(20 * time.Millisecond) {
		if time.Since(began) > patience {
			r.t.Fatalf("waited for this: %s", what)
		}
	}
}

// until waits until somebody may call everywhere: a persona as it is, or a workload with a certificate of the authority as it is now.
func (r *rotation) until(what string, p *persona, workload string) {
	r.t.Helper()
	if workload != "" {
		pair, _ := r.issue(workload, time.Hour)
		p = r.persona("", pair, "")
	}
	began := time.Now()
	for _, at := range r.places {
		r.await(what, func() bool {
			w := r.wait(p, at, mains[0])
			<-w.done
			return w.err == nil
		})
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.latest[what] = max(r.latest[what], time.Since(began))
}

// rotateKeys has the brokers go from one key to the next: retire what is of hours ago, promote what all have, rewrap, and add another one. A long one goes on with that, as
// somebody would who begins now.
func (r *rotation) rotateKeys(ctx context.Context, long bool) error {
	do := func(broker int, args ...string) error {
		path, err := binary()
		if err != nil {
			return err
		}
		for began := time.Now(); ; {
			cmd := exec.CommandContext(ctx, path, append(append([]string{"keys"}, args...), "--data-dir", r.dirs[broker])...)
			cmd.Env = cleanEnvironment()
			out, err := cmd.CombinedOutput()
			if err == nil {
				r.mu.Lock()
				r.latest["keys "+args[0]] = time.Since(began)
				r.mu.Unlock()
				return nil
			}
			if cmd.ProcessState.ExitCode() != console.ExitPrecondition || time.Since(began) > 2*time.Minute {
				return fmt.Errorf("keys %v: %w\n%s", args, err, out)
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(500 * time.Millisecond):
			}
		}
	}
	steps := []func() error{
		func() error { return do(0, "retire", r.former) }, func() error { return do(1, "promote") }, func() error { return do(2, "rewrap") }, func() error { return do(0, "rotate") },
	}
	if long {
		steps = append(steps, func() error { return do(1, "promote") }, func() error { return do(2, "rewrap") }, func() error { return do(0, "retire", r.pending) })
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	var list settings.Keys
	path, err := binary()
	if err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, path, "keys", "list", "--data-dir", r.dirs[1], "-o", "json").Output()
	if err == nil {
		err = json.Unmarshal(out, &list)
	}
	if err == nil && (list.Rewrap == nil || !list.Rewrap.Done) {
		err = fmt.Errorf("the keys are as they were: %s", out)
	}
	return err
}

// report logs what there was.
func (r *rotation) report(rounds int, took time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	calls := 0
	for _, kind := range slices.Sorted(maps.Keys(r.counts)) {
		c := r.counts[kind]
		calls += c.calls
		r.t.Logf("%-45s %6d calls, %5d refused, %2d watches ended", kind, c.calls, c.refused, c.watches)
	}
	for _, what := range slices.Sorted(maps.Keys(r.latest)) {
		r.t.Logf("%-55s %6.0f ms", what, float64(r.latest[what].Microseconds())/1000)
	}
	r.t.Logf("%d calls in %v, %.0f a second; %d rounds", calls, took.Round(time.Millisecond), float64(calls)/took.Seconds(), rounds)
	if n := r.resumed.Load(); n > 0 {
		r.t.Errorf("%d sessions were resumed", n)
	}
}
