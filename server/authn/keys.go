package authn

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/tokenbroker/tokenbroker/internal/filewatch"
)

const (
	// Keys are fetched again after what their answer says, within these, or after freshDefault.
	freshLeast, freshDefault, freshMost = 5 * time.Minute, 15 * time.Minute, time.Hour
	// After a failure they are fetched again after so long, twice as long each time.
	againFirst, againMost = time.Second, 5 * time.Minute
	// believedFor is how long keys count after they were fetched last: whoever keeps us from the issuer does not keep a key alive that it has taken away.
	believedFor = 24 * time.Hour
	// A token whose key is not there asks for a fetch, once in askedEvery for each issuer, and askedBurst at once.
	askedEvery, askedBurst = 30 * time.Second, 2
)

// keys are an issuer's, as they change. Safe for concurrent use.
type keys struct {
	of      Issuer
	log     *slog.Logger
	now     func() time.Time
	dial    dialer
	changed func() // tells that other keys are believed; called without mu

	is atomic.Pointer[known]
	// moved says that next is another moment.
	moved chan struct{}

	mu      sync.Mutex
	flight  *flight
	asked   *rate.Limiter
	failed  int       // fetches, since the last that was good
	next    time.Time // when keys are to be fetched again; zero: they were never
	problem string    // of the last fetch
	skipped string    // keys that were passed over, as it was told last
}

// known are the keys that are believed. Immutable.
type known struct {
	set     *keySet // nil: they were believed too long
	fetched time.Time
}

// A flight is a fetch that is under way. It belongs to none of those who wait for it.
type flight struct {
	done   chan struct{}
	cancel context.CancelFunc
}

func newKeys(of Issuer, t *Tokens) *keys {
	return &keys{of: of, log: t.log.With("listener", t.settings.Listener, "issuer", of.Name), now: t.now, dial: t.dial, changed: t.change,
		moved: make(chan struct{}, 1), asked: rate.NewLimiter(rate.Every(askedEvery), askedBurst)}
}

// believed are the keys that count now. Nil: none.
func (k *keys) believed() *keySet {
	is := k.is.Load()
	if is == nil || !k.now().Before(is.fetched.Add(believedFor)) {
		return nil
	}
	return is.set
}

// has reports whether a key counts now.
func (k *keys) has(id fingerprint) bool {
	set := k.believed()
	return set != nil && set.has[id]
}

// fetch begins one, or joins the one that is under way. Where a caller's token asks for it, it may be too early for one: nil.
func (k *keys) fetch(planned bool) (f *flight, joined bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.flight != nil {
		return k.flight, true
	}
	now := k.now()
	due := k.failed > 0 && !now.Before(k.next)
	if !planned && !due && !k.asked.AllowN(now, 1) {
		return nil, false
	}
	ctx, cancel := context.WithTimeout(context.Background(), fetchWithin)
	k.flight = &flight{done: make(chan struct{}), cancel: cancel}
	go k.fly(ctx, k.flight)
	return k.flight, false
}

func (k *keys) fly(ctx context.Context, f *flight) {
	defer f.cancel()
	set, life, err := k.load(ctx)
	k.land(set, life, err)
	close(f.done)
}

// load fetches keys and reads them.
func (k *keys) load(ctx context.Context) (*keySet, time.Duration, error) {
	data, life, err := k.of.load(ctx, k.dial)
	if err != nil {
		return nil, 0, err
	}
	set, skipped, err := parseKeys(data, k.of.Kind)
	k.mu.Lock()
	defer k.mu.Unlock()
	if all := strings.Join(skipped, "; "); all != k.skipped {
		if k.skipped = all; all != "" {
			k.log.Warn("keys of an issuer are passed over: tokens that they sign are refused", "keys", brief(all))
		}
	}
	return set, life, err
}

// land takes what a fetch has brought. What is broken leaves what was there.
func (k *keys) land(set *keySet, life time.Duration, err error) {
	k.mu.Lock()
	now := k.now().Round(0) // by the wall clock: the other does not go on while the machine sleeps
	k.flight = nil
	news := false
	if err != nil {
		problem := brief(err.Error())
		if k.problem != problem && !errors.Is(err, context.Canceled) {
			if until := k.until(); until.IsZero() {
				k.log.Error("keys of an issuer not fetched: none of its tokens counts until they are", "error", problem)
			} else {
				k.log.Error("keys of an issuer not fetched: those that are there count on", "error", problem, "until", until)
			}
		}
		k.problem = problem
		k.next = now.Add(jitter(min(againMost, againFirst<<min(k.failed, 20))))
		k.failed++
	} else {
		former := k.is.Load()
		news = former == nil || former.set == nil || former.set.digest != set.digest
		k.is.Store(&known{set: set, fetched: now})
		switch {
		case news && len(set.keys) == 0:
			k.log.Error("an issuer has no key any more that can be used: its tokens count no more")
		case news || k.problem != "":
			k.log.Info("keys of an issuer fetched", "keys", len(set.keys), "changed", news)
		}
		if life == 0 {
			life = freshDefault
		}
		k.problem, k.failed, k.next = "", 0, now.Add(jitter(min(freshMost, max(freshLeast, life))))
	}
	k.mu.Unlock()
	select {
	case k.moved <- struct{}{}:
	default:
	}
	if news {
		k.changed()
	}
}

// until is when the keys that are there cease to be believed; zero: there are none.
func (k *keys) until() time.Time {
	if is := k.is.Load(); is != nil && is.set != nil {
		return is.fetched.Add(believedFor)
	}
	return time.Time{}
}

// end lets go of keys that are believed no more, and tells so.
func (k *keys) end() {
	is := k.is.Load()
	if is == nil || is.set == nil || k.believed() != nil || !k.is.CompareAndSwap(is, &known{fetched: is.fetched}) {
		return
	}
	k.log.Error("keys of an issuer were not fetched for too long: its tokens count no more", "fetched", is.fetched)
	k.changed()
}

// follow fetches keys now and then, until ctx ends.
func (k *keys) follow(ctx context.Context) {
	defer func() { // nobody fetches on
		k.mu.Lock()
		f := k.flight
		k.mu.Unlock()
		if f != nil {
			f.cancel()
			<-f.done
		}
	}()
	if k.of.JWKSFile != "" {
		filewatch.Watch(ctx, []string{k.of.JWKSFile}, filewatch.Every, func() { k.refresh(ctx) })
		return
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.moved:
		case <-timer.C:
		}
		k.mu.Lock()
		next := k.next
		k.mu.Unlock()
		if !k.now().Before(next) {
			k.refresh(ctx)
			k.mu.Lock()
			next = k.next
			k.mu.Unlock()
		}
		k.end()
		if until := k.until(); !until.IsZero() && until.Before(next) {
			next = until
		}
		timer.Reset(next.Sub(k.now().Round(0)))
	}
}

// refresh fetches, and waits for it.
func (k *keys) refresh(ctx context.Context) {
	f, _ := k.fetch(true)
	select {
	case <-f.done:
	case <-ctx.Done():
	}
	k.end()
}

// retry is when asking again may help whoever was told that there are no keys.
func (k *keys) retry() time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	if at := k.next; at.After(now) {
		return at
	}
	return now.Add(againFirst)
}

// failing reports whether the last fetch has brought nothing.
func (k *keys) failing() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.failed > 0
}

// jitter is a duration give or take a tenth: brokers that began together do not ask together for ever.
func jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.9 + 0.2*rand.Float64())) //nolint:gosec // nobody gains by knowing it
}

// brief is a text that a log has room for.
func brief(s string) string {
	const most = 1000
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + " …"
	}
	return s
}
