package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// bubble is a log that runs, in virtual time.
func bubble(t *testing.T, s Settings, test func(t *testing.T, l *Log, out *page)) {
	synctest.Test(t, func(t *testing.T) {
		out := &page{}
		if s.Stdout = out; s.Issuance == "" {
			s.Issuance = Counted
		}
		l, err := New(s)
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		var ran sync.WaitGroup
		ran.Go(func() { l.Run(ctx) })
		test(t, l, out)
		stop()
		ran.Wait()
		l.Close()
		inOrder(t, out.lines(t))
		if s := l.Status(); s.Lost != 0 || s.Away || s.Problem != "" {
			t.Errorf("got %+v", s)
		}
	})
}

// passes lets so much time pass, and the queues become empty.
func passes(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// TestTheFirstUseIsALineAndTheOthersAreOneAMinute, until there is none for two minutes.
func TestTheFirstUseIsALineAndTheOthersAreOneAMinute(t *testing.T) {
	bubble(t, Settings{}, func(t *testing.T, l *Log, out *page) {
		began := time.Now()
		u, err := l.Use(t.Context(), issue(shop, "t0"))
		again, _ := l.Use(t.Context(), issue(shop, "t0")) // is counted
		if err != nil || u != again || u == nil {
			t.Fatalf("got %v %v %v", u, again, err)
		}
		if x, _ := l.Use(t.Context(), issue(other, "t0")); x == u {
			t.Error("another caller")
		}
		if x, _ := l.Use(t.Context(), issue(shop, "t1")); x == u {
			t.Error("another token")
		}
		for range 41 {
			u.Count()
		}
		passes(61 * time.Second)
		all := out.lines(t)
		if len(all) != 4 || all[3].Event != broker.AuditUsed || all[3].Count != 42 || !all[3].First.Equal(began) || !all[3].Last.Equal(began.Add(time.Minute)) ||
			all[3].Caller.ID != shop.Identity || all[3].TokenID != "t0" || all[3].Rule != "shop" || all[3].Operation != broker.GetToken {
			t.Fatalf("got %+v", all)
		}
		passes(time.Minute)
		if !u.Count() {
			t.Error("it is ended before two minutes are over")
		}
		passes(3 * time.Minute)
		if all := out.lines(t); len(all) != 5 || all[4].Count != 1 || !all[4].First.Equal(began.Add(2*time.Minute)) {
			t.Errorf("got %+v", all)
		}
		if u.Count() || len(l.uses.by) != 0 {
			t.Error("it counts for ever")
		}
		if next, err := l.Use(t.Context(), issue(shop, "t0")); err != nil || next == u || !next.Count() {
			t.Error("what begins anew counts")
		}
		passes(0)
		if all := out.lines(t); len(all) != 6 || all[5].Event != broker.AuditIssued {
			t.Errorf("got %+v", all)
		}
	})
}

// TestEachRuleCountsApart: whoever comes by one and by another in turn fills no disk.
func TestEachRuleCountsApart(t *testing.T) {
	bubble(t, Settings{}, func(t *testing.T, l *Log, out *page) {
		byRule := func(rule string) broker.AuditRecord {
			r := issue(shop, "t0")
			r.Rule = rule
			return r
		}
		for range 50 {
			for _, rule := range []string{"shop", "people"} {
				if u, err := l.Use(t.Context(), byRule(rule)); err != nil || !u.Count() {
					t.Errorf("got %v", err)
				}
			}
		}
		passes(61 * time.Second)
		got := map[string]int64{}
		for _, is := range out.lines(t) {
			got[string(is.Event)+" "+is.Rule] += max(is.Count, 1)
		}
		if len(out.lines(t)) != 4 || got["token.issued shop"] != 1 || got["token.issued people"] != 1 || got["token.used shop"] != 99 || got["token.used people"] != 99 {
			t.Errorf("got %v", got)
		}
	})
}

// TestThereAreNoMorePairsThanFit: beyond, all are written, and begin anew.
func TestThereAreNoMorePairsThanFit(t *testing.T) {
	bubble(t, Settings{}, func(t *testing.T, l *Log, out *page) {
		var all []*broker.Uses
		for i := range usesMost + 1 {
			u, err := l.Use(t.Context(), issue(shop, fmt.Sprint("t", i)))
			if err != nil {
				t.Fatal(err)
			}
			u.Count()
			all = append(all, u)
			if i%1000 == 0 {
				passes(0)
			}
		}
		passes(0)
		if len(l.uses.by) != 1 || all[0].Count() || !all[usesMost].Count() {
			t.Errorf("%d are counted", len(l.uses.by))
		}
		counted := int64(0)
		for _, is := range out.lines(t) {
			counted += is.Count
		}
		if counted != usesMost {
			t.Errorf("%d are written", counted)
		}
	})
}

// TestClosingWritesWhatIsCounted.
func TestClosingWritesWhatIsCounted(t *testing.T) {
	out := &page{}
	l := an(t, Settings{Stdout: out})
	u, _ := l.Use(t.Context(), issue(shop, "t0"))
	u.Count()
	l.Note(t.Context(), denial(shop, "a"))
	l.Note(t.Context(), denial(shop, "a"))
	l.Close()
	l.Close()
	if all := out.lines(t); len(all) != 4 || all[2].Count != 1 || all[3].Count != 1 || u.Count() {
		t.Errorf("got %+v", all)
	}
	refuses(t, l)
	if _, err := l.Use(t.Context(), issue(other, "t0")); err != nil {
		t.Error(err)
	}
	if s := l.Status(); s.Lost != 2 {
		t.Errorf("got %+v", s)
	}
}

// TestDenialsAreCountedAndBounded: the first of each is a line, the others one a minute; whoever makes up names has a hundred of them, and there are a
// thousand of those.
func TestDenialsAreCountedAndBounded(t *testing.T) {
	bubble(t, Settings{}, func(t *testing.T, l *Log, out *page) {
		for range 1000 {
			l.Note(t.Context(), denial(shop, "main"))
		}
		for i := range 500 {
			l.Note(t.Context(), denial(other, fmt.Sprint("made-up-", i)))
		}
		passes(0)
		if n := len(out.lines(t)); n != 1+100 {
			t.Errorf("%d lines at once", n)
		}
		passes(61 * time.Second)
		all := out.lines(t)[101:]
		counts := map[string]int64{}
		for _, is := range all {
			counts[is.Caller.ID+" "+is.Credential] = is.Count
			if is.Event != broker.AuditDenied || is.Outcome != denied || is.Count > 1 && is.Credential != "" && is.Reason != "caller_not_allowed" {
				t.Errorf("got %+v", is)
			}
		}
		if len(all) != 2 || counts[shop.Identity+" main"] != 999 || counts[other.Identity+" "] != 400 {
			t.Errorf("got %v", counts)
		}
		passes(2 * time.Minute)
		if len(l.denials.by) != 0 {
			t.Error("they are remembered for ever")
		}

		for i := range 1500 {
			r := broker.AuditRecord{Event: broker.AuditUnauthenticated, Outcome: broker.CallerUnauthenticated, Listener: "services"}
			for port := range 3 {
				r.Peer = fmt.Sprintf("10.1.%d.%d:%d", i/256, i%256, 1024+port)
				l.Note(t.Context(), r)
			}
		}
		passes(0)
		lines := len(out.lines(t))
		l.Note(t.Context(), denial(other, "while strangers knock"))
		passes(0)
		if len(out.lines(t)) != lines+1 {
			t.Error("strangers take the places of callers")
		}
		before := len(out.lines(t))
		passes(61 * time.Second)
		all = out.lines(t)
		sum := int64(0)
		for _, is := range all[103:] {
			if is.Event == broker.AuditDenied {
				continue
			}
			sum += max(is.Count, 1)
			if is.Caller.Listener != "services" && is.Count != 1500 {
				t.Errorf("got %+v", is)
			}
		}
		if sum != 4500 || len(all) > before+1001+1000 {
			t.Errorf("%d are counted in %d lines", sum, len(all)-103)
		}
	})
}

// TestATextOfAMegabyteIsNotKept by what counts.
func TestATextOfAMegabyteIsNotKept(t *testing.T) {
	bubble(t, Settings{}, func(t *testing.T, l *Log, _ *page) {
		long := strings.Repeat("x", 1<<20)
		l.Note(t.Context(), denial(broker.NewCaller(broker.JWT, "ci", long, broker.ProofJWT, "services"), long))
		_, _ = l.Use(t.Context(), issue(broker.NewCaller(broker.JWT, "ci", long, broker.ProofJWT, "services"), long))
		for w, d := range l.denials.by {
			if len(w.identity) > 256 || len(d.line.Caller.ID) > idMost {
				t.Error("an identity")
			}
			for x := range d.what {
				if len(x.credential) > 256 {
					t.Error("a name")
				}
			}
		}
		for p, u := range l.uses.by {
			if len(p.identity) > 256 || len(p.token) > 256 || len(u.line.TokenID) > wordMost {
				t.Error("a pair")
			}
		}
	})
}

// TestARequiredUseIsWrittenBeforeItIsCounted, of all who ask for it at once, and undone where nobody was given it.
func TestARequiredUseIsWrittenBeforeItIsCounted(t *testing.T) {
	l, path, m := inMoody(t, Settings{Issuance: Required})
	u, err := l.Use(t.Context(), issue(shop, "t0"))
	m.set(func() {
		if err != nil || m.unready || !u.Count() {
			t.Errorf("got %v, or it is not synced", err)
		}
	})
	m.set(func() { m.room = 0 })
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if x, err := l.Use(t.Context(), issue(other, "t0")); broker.KindOf(err) != broker.AuditUnavailable || x != nil {
				t.Errorf("got %v %v", x, err)
			}
		})
	}
	all.Wait()
	if x, err := l.Use(t.Context(), issue(shop, "t0")); x != u || err != nil {
		t.Errorf("what was written goes on: %v", err)
	}
	m.set(func() { m.room = -1 })
	heals(t, l)
	var mu sync.Mutex
	had := map[*broker.Uses]int{}
	for range 8 {
		all.Go(func() {
			x, err := l.Use(t.Context(), issue(other, "t0"))
			mu.Lock()
			defer mu.Unlock()
			if had[x]++; err != nil || x == nil {
				t.Errorf("got %v", err)
			}
		})
	}
	all.Wait()
	if len(had) != 1 {
		t.Errorf("got %v", had)
	}
	l.Close()
	var issued, undone, used int64
	for _, is := range readFile(t, path) {
		if is.Caller.ID != other.Identity {
			continue
		}
		switch {
		case is.Event == broker.AuditUsed:
			used += is.Count
		case is.Outcome == failed && is.Reason == "audit_unavailable" && is.Of != 0:
			undone++
		default:
			issued++
		}
	}
	if issued-undone != 1 || undone == 0 || used != 7 {
		t.Errorf("issued %d, undone %d, used %d", issued, undone, used)
	}
}

// A hung writer takes nothing until it is let go.
type hung struct {
	page
	hold chan struct{}
}

func (h *hung) Write(b []byte) (int, error) {
	<-h.hold
	return h.page.Write(b)
}

// TestAnIntentWaitsTwoSecondsAndNoLonger, and nothing looks as if it had been done.
func TestAnIntentWaitsTwoSecondsAndNoLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &hung{hold: make(chan struct{})}
		l, err := New(Settings{Stdout: out})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		var ran sync.WaitGroup
		ran.Go(func() { l.Run(ctx) })
		began := time.Now()
		refuses(t, l)
		if d := time.Since(began); d != patience {
			t.Errorf("it took %v", d)
		}
		passes(2 * time.Second)
		began = time.Now()
		refuses(t, l) // by now it is known
		if d := time.Since(began); d != 0 {
			t.Errorf("it took %v", d)
		}
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		if _, err := l.Intend(short, change()); broker.KindOf(err) != broker.AuditUnavailable {
			t.Errorf("got %v", err)
		}
		cancel()
		gone, leave := context.WithCancel(t.Context())
		leave() // who asked waits no more: that is no outage
		if _, err := l.Intend(gone, change()); broker.KindOf(err) != broker.Canceled {
			t.Errorf("got %v", err)
		}
		if s := l.Status(); !s.Away || s.Problem == "" {
			t.Errorf("got %+v", s)
		}
		close(out.hold)
		passes(2 * time.Second)
		if s := l.Status(); s.Away || s.Lost != 0 {
			t.Errorf("got %+v", s)
		}
		intends(t, l)
		stop()
		ran.Wait()
		l.Close()
		all := out.lines(t)
		inOrder(t, all)
		of := map[uint64]string{}
		for _, is := range all {
			if is.Outcome != intent {
				of[is.Of] = is.Outcome
			}
		}
		for _, is := range all[:len(all)-2] {
			if is.Outcome == intent && of[is.Seq] != failed {
				t.Errorf("%d looks as if it had been done", is.Seq)
			}
		}
	})
}

// TestAPipeThatNobodyReadsHoldsUpNobody: the file goes on, and what does not fit is told when somebody reads.
func TestAPipeThatNobodyReadsHoldsUpNobody(t *testing.T) {
	r, w := io.Pipe()
	_, path := inFile(t)
	l := an(t, Settings{File: path, Stdout: w})
	long := strings.Repeat("x", 1000)
	const many = 60_000
	for i := range many {
		l.Note(t.Context(), issueOf(long))
		if i%1000 == 0 {
			intends(t, l)
		}
	}
	if s := l.Status(); s.Away || s.Lost != 0 {
		t.Errorf("got %+v", s)
	}
	var out page
	var reader sync.WaitGroup
	reader.Go(func() { _, _ = io.Copy(&out, r) })
	for { // until there is room for more
		intends(t, l)
		if l.queues[0].roomy() {
			break
		}
	}
	l.Note(t.Context(), issueOf("after"))
	l.Close()
	_ = w.Close()
	reader.Wait()
	all := out.lines(t)
	inOrder(t, all)
	missing := int64(0)
	for _, is := range all {
		if is.Event == gap {
			missing += is.Count
		}
	}
	if missing == 0 || int(missing)+len(all) < many {
		t.Errorf("%d lines, %d missing", len(all), missing)
	}
	whole := readFile(t, path)
	inOrder(t, whole)
	for _, is := range whole {
		if is.Event == gap {
			t.Error("the file has all of them")
			break
		}
	}
}

// TestWhatFailsToWriteToStdoutIsTriedAgain, also after half of a line.
func TestWhatFailsToWriteToStdoutIsTriedAgain(t *testing.T) {
	out := &flaky{}
	l := an(t, Settings{Stdout: out})
	for range 20 {
		l.Note(t.Context(), issueOf("x"))
	}
	heals(t, l)
	l.Close()
	var whole []told
	for raw := range strings.Lines(out.text.String()) {
		if strings.HasSuffix(raw, "}\n") {
			whole = append(whole, readLine(t, raw))
		}
	}
	inOrder(t, whole)
}

// flaky fails each third time after 30 bytes, and each seventh before the last.
type flaky struct {
	page
	n int
}

func (f *flaky) Write(b []byte) (int, error) {
	f.n++
	switch {
	case f.n%7 == 0:
		_, _ = f.page.Write(b[:len(b)-1])
		return len(b) - 1, errors.New("no")
	case f.n%3 == 0 && len(b) > 30:
		_, _ = f.page.Write(b[:30])
		return 30, errors.New("no")
	}
	return f.page.Write(b)
}
