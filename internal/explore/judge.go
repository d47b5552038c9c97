package explore

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
)

// A Violation is a promise that was not kept.
type Violation struct {
	// Promise is what is not so, in a few words that are the same for all its violations.
	Promise string
	// Detail is what happened this time.
	Detail string
	// Because is what has happened before, so that it could not be kept; empty: nothing has.
	Because string
}

func (v Violation) String() string { return v.Promise + ": " + v.Detail }

const (
	// mostAtOnce and mostInAll bound the steps of one broker in one instant, and of all in a schedule. A loop that waits for
	// nothing never lets time pass. Six things that happen in one instant, with all who wait, take some 130.
	mostAtOnce = 200
	mostInAll  = 5000
	// mostTold bounds what one watch is told in one instant.
	mostTold = 20
	// slack is what a confirmation may take on top of the bound.
	slack = 2 * beat
	// keeping is within which time a broker makes again what a failover has undone.
	keeping = 2 * time.Second
	// patience is how long a caller waits where nothing stands in the way.
	patience = 6 * time.Second
)

type existence int

const (
	unknown existence = iota
	yes
	no
)

// A budget counts steps.
type budget struct {
	instant time.Time
	atOnce  map[int]int
	inAll   int
}

// affords counts a step of a broker; w.mu is held.
func (w *world) affords(b int) bool {
	if now := time.Now(); !now.Equal(w.instant) {
		w.instant, w.atOnce = now, map[int]int{}
	}
	w.atOnce[b]++
	w.inAll++
	return w.atOnce[b] <= mostAtOnce && w.inAll <= mostInAll
}

// A guard lets everybody do everything, and counts: a watch that waits for nothing need not come by the store.
type guard struct {
	w       *world
	b, life int
}

var _ broker.Authorizer = (*guard)(nil)

// Decide implements broker.Authorizer.
func (g *guard) Decide(broker.Access) broker.Decision {
	if !g.affords() {
		return broker.Decision{}
	}
	return broker.Decision{Effect: broker.Allowed}
}

// affords counts a look, and reports whether this life of the broker goes on.
func (g *guard) affords() bool {
	w := g.w
	w.mu.Lock()
	if w.over || w.lives[g.b] != g.life {
		w.mu.Unlock()
		return false
	}
	spins := !w.affords(g.b)
	if spins {
		w.report(hotLoop, fmt.Sprintf("broker %d asks itself for a token more than %d times in one instant", g.b, mostAtOnce))
	}
	w.mu.Unlock()
	if spins {
		<-w.ended
	}
	return true
}

// Generation implements broker.Authorizer.
func (g *guard) Generation() uint64 { return 0 }

// Changes implements broker.Authorizer. A watch asks each time that it looks.
func (g *guard) Changes() <-chan struct{} {
	g.affords()
	return nil
}

// judge is what is known of what callers were promised.
type judge struct {
	// dropped are tokens that were invalidated, since it was acknowledged; refused those that somebody began to.
	dropped map[string]time.Time
	// droppedBy are the brokers that acknowledged it.
	droppedBy map[string]life
	refused   map[string]bool
	// lacked are those of which there was nothing to be dropped.
	lacked map[string]bool
	// exists says whether the credential does, and since when; editing is how many are changing that.
	exists existence
	// mayBeGone: a deletion is under way, or nobody knows what became of it.
	mayBeGone  bool
	since      time.Time
	editing    int
	changed    time.Time
	excused    time.Time
	patience   time.Duration
	held       []handed
	lastID     string
	ids        map[string]string // of tokens that were served
	gave       map[string]life   // who served them last
	finalError map[int]error
}

// handed is the token that one life of a broker last gave to a caller.
type handed struct {
	life  int
	token string
	at    time.Time
	ends  time.Time // as the broker says, which may be too careful
	order int
}

func newJudge(brokers int) judge {
	return judge{patience: patience, ids: map[string]string{}, gave: map[string]life{}, dropped: map[string]time.Time{}, droppedBy: map[string]life{}, lacked: map[string]bool{}, refused: map[string]bool{}, held: make([]handed, brokers), finalError: map[int]error{}}
}

// report notes a violation; w.mu is held.
func (w *world) report(promise, detail string) { w.reportAfter(promise, detail, "") }

// reportAfter is report, where something has happened before.
func (w *world) reportAfter(promise, detail, because string) {
	w.bad = append(w.bad, Violation{promise, detail, because})
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// A life is a broker from one start to its end.
type life struct{ broker, number int }

// A question is a caller's call.
type question struct {
	b, life int
	began   time.Time
	request engine.Request
}

// judgeToken holds what a caller got against what it was promised.
func (w *world) judgeToken(q question, r engine.Result, err error) {
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over || w.lives[q.b] != q.life || now.Before(w.stopped[q.b]) {
		return // nobody hears it
	}
	if waited := now.Sub(later(q.began, w.excused)); waited > w.patience {
		w.report(waitsLong, fmt.Sprintf("a caller of broker %d for %v; in the end %v", q.b, waited, err))
	}
	if err != nil {
		w.judgeFailure(q, err, now)
		return
	}
	token := r.Token.AccessToken.Reveal()
	t := w.vendor.issued[token]
	well := now.Sub(w.troubled[q.b]) > bound+slack
	at, dropped := w.dropped[token]
	h := &w.held[q.b]
	switch {
	case !now.Before(t.ends):
		w.report(servedLate, fmt.Sprintf("%s by broker %d, %v late", token, q.b, now.Sub(t.ends)))
	case r.Token.ID == q.request.RejectedTokenID:
		w.report(gaveRejected, token)
	case dropped && w.droppedBy[token] == life{q.b, q.life} && q.began.After(at):
		w.reportAfter(servedInvalid, fmt.Sprintf("%s by broker %d, which has said that it is gone", token, q.b), w.unkept(q, token, now))
	case dropped && now.Sub(at) > bound+slack && well:
		w.reportAfter(servedInvalid, fmt.Sprintf("%s by broker %d, %v later", token, q.b, now.Sub(at)), w.unkept(q, token, now))
	case w.exists == no && q.began.Sub(w.since) > bound+slack && well:
		w.report(servedDeleted, fmt.Sprintf("%s by broker %d, %v later", token, q.b, now.Sub(w.since)))
	case h.life == q.life && h.at.Before(q.began) && t.order < h.order && !r.Degraded && !w.undone && !w.refused[h.token] && w.changed.Before(h.at):
		w.report(wentBack, fmt.Sprintf("%s instead of %s by broker %d", token, h.token, q.b))
	}
	w.lastID, w.ids[token], w.gave[token] = r.Token.ID, r.Token.ID, life{q.b, q.life}
	if !r.Degraded {
		*h = handed{q.life, token, now, r.Token.ExpireTime.Add(-w.clocks[q.b].ahead), t.order}
	}
}

// unkept is why an invalidation could be forgotten; empty: it could not.
func (w *world) unkept(q question, token string, now time.Time) string {
	keeper := w.droppedBy[token]
	undone, was := w.undropped[keeper]
	switch {
	case w.lacked[token] && w.uncommitted:
		return commitUndone
	case w.undeleted:
		return deletionUndone
	case keeper == life{q.b, q.life}: // it is here
	case was && (w.lives[keeper.broker] != keeper.number || now.Sub(later(undone, w.freeFrom[keeper.broker])) <= keeping+bound+slack):
		return keeperAway
	}
	return ""
}

// judgeFailure: whoever holds a valid token that nobody refused gives it, whatever is wrong with the store or the upstream.
func (w *world) judgeFailure(q question, err error, now time.Time) {
	h := w.held[q.b]
	valid := h.token != "" && h.life == q.life && now.Before(h.ends) && now.Sub(h.at) < outageGrace
	for token := range w.gave { // one that has been replaced for all is no longer owed
		valid = valid && w.vendor.issued[token].order <= h.order
	}
	kind := broker.KindOf(err)
	switch {
	case kind == broker.Canceled || kind == broker.ShuttingDown || kind == broker.NotFound && w.exists != yes:
	case w.mayBeGone: // a deletion that was told to have failed may take effect late
	case slices.ContainsFunc(w.clocks, func(c clock) bool { return c.ahead != 0 }): // what has ended by one's clock may be replaced for all
	case !w.vendor.issued[h.token].sent.After(w.changed): // what was asked for before a change is not owed after it
	case !valid || w.refused[h.token] || q.request.RejectedTokenID == w.lastID || w.undone:
	default:
		w.report(denied, fmt.Sprintf("broker %d: %s, %v before %s ends", q.b, kind.Name(), h.ends.Sub(now), h.token))
	}
}

// judgeReuse says whether somebody should have known that a refresh token is spent; w.mu is held.
func (w *world) judgeReuse(b, life int, f *family, presented, stored string, known bool) {
	latest := fmt.Sprintf("%s.%d", f.name, f.last)
	h := f.holder
	alive := !h.at.IsZero() && w.lives[h.broker] == h.life && w.brokers[h.broker] != nil
	detail := fmt.Sprintf("broker %d presented %s, whose successor is %s", b, presented, latest)
	because := ""
	if slices.Contains(w.unmarked, marking{b, w.acquired[b]}) || slices.Contains(w.unmarked, f.marked) {
		because = markerUndone
	}
	chained := ""
	if presented == fmt.Sprintf("%s.%d", f.name, f.back) && w.chained(b, f) {
		chained = chainUndone
	}
	switch {
	case known && stored == latest && f.storedAt.After(w.acquired[b]):
		// It took over from somebody who did not come back in time, and did before this one sent.
	case known && stored == latest:
		w.reportAfter(spentStored, detail, because)
	case alive && h.broker == b && h.life == life:
		w.reportAfter(spentByHolder, detail, chained)
	case alive && (w.hadTime(f) || time.Now().Before(f.early)):
		w.reportAfter(spentByOther, fmt.Sprintf("%s, held by %d", detail, h.broker), cmp.Or(because, chained))
	}
}

// chained reports whether a failover has undone so many commits that only another broker, which keeps the first, can know of it, and has had no time to
// make that again; w.mu is held.
func (w *world) chained(b int, f *family) bool {
	keeper, ok := f.given[f.back+1]
	if !ok || f.backAt.IsZero() || f.last-f.back <= 2 || keeper.broker == b && keeper.number == w.lives[b] {
		return false
	}
	return w.lives[keeper.broker] != keeper.number || time.Since(later(f.backAt, w.freeFrom[keeper.broker])) <= keeping
}

// judgeGivenUp: once a spent refresh token is on the wire, its answer is waited for as long as nobody may take over.
func (w *world) judgeGivenUp(b, life int, after time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.over && !w.quiet && w.lives[b] == life && !w.stopping[b] && after < exchangeTimeout+takeoverGrace-time.Second {
		w.report(gaveUp, fmt.Sprintf("broker %d after %v", b, after))
	}
}

// hadTime reports whether the holder of the last refresh token could have stored it; w.mu is held.
func (w *world) hadTime(f *family) bool {
	h := f.holder
	if h.at.IsZero() || w.lives[h.broker] != h.life {
		return false
	}
	return h.free || time.Since(later(h.at, w.freeFrom[h.broker])) >= 1500*time.Millisecond
}

// judgeStored: what was stored, or is in the hands of somebody who lives and had the time, is not lost.
func (w *world) judgeStored() {
	token, known := w.stored()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range w.vendor.families {
		latest := fmt.Sprintf("%s.%d", f.name, f.last)
		mine := known && len(token) > len(f.name) && token[:len(f.name)+1] == f.name+"."
		if !mine || f.revoked || token == latest {
			continue
		}
		if f.stored || w.hadTime(f) {
			w.report(lostCommitted, fmt.Sprintf("%s is stored, and the upstream gave %s", token, latest))
		}
	}
}
