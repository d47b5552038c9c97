package server

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/tokenbroker/tokenbroker/broker"
)

// A visitor is a connection from an address.
type visitor struct {
	net.Conn
	from   string
	closed atomic.Bool
	gone   chan struct{} // closed with it; nil: nobody waits
}

func (v *visitor) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.ParseIP(v.from)} }
func (v *visitor) Close() error {
	if !v.closed.Swap(true) && v.gone != nil {
		close(v.gone)
	}
	return nil
}

func TestALobbyIsBounded(t *testing.T) {
	l := lobby{most: 4}
	come := func(from string) *visitor {
		v := &visitor{from: from}
		l.enter(v)
		return v
	}
	gone := func(what string, who ...*visitor) {
		t.Helper()
		for i, v := range who {
			if !v.closed.Load() {
				t.Errorf("%s: %d, of %s, is still there", what, i, v.from)
			}
		}
	}
	a, b1, b2, b3 := come("10.0.0.1"), come("10.0.0.2"), come("10.0.0.2"), come("10.0.0.2")
	c := come("10.0.0.3")
	gone("the oldest of the crowd", b1)
	d := come("10.0.0.4") // 2 are left of the crowd: it still is one
	gone("the next of the crowd", b2)
	e := come("10.0.0.5") // a, b3, c and d are alone
	gone("where all are alike, the one that is there the longest", a)
	for _, v := range []*visitor{b3, c, d, e} {
		if v.closed.Load() {
			t.Errorf("one of %s had to go", v.from)
		}
	}
	// IPv6: one has all addresses of a network.
	six := lobby{most: 2}
	near, far := &visitor{from: "2001:db8::1"}, &visitor{from: "2001:db8::ffff:2"}
	six.enter(near)
	six.enter(far)
	six.enter(&visitor{from: "2001:db8:0:1::1"})
	gone("the older one of a network", near)
	if far.closed.Load() {
		t.Error("and both were counted")
	}
}

func TestWhoHasLeftTheLobbyMakesRoom(t *testing.T) {
	l := lobby{most: 1}
	first, second := &visitor{from: "10.0.0.1"}, &visitor{from: "10.0.0.1"}
	l.enter(first)()
	leave := l.enter(second)
	if first.closed.Load() {
		t.Error("who had left was closed")
	}
	leave()
	leave() // it was displaced meanwhile, or not
	if l.all != 0 || len(l.in) != 0 {
		t.Errorf("%d are in, of %d machines", l.all, len(l.in))
	}
}

// A timer that ends a connection stands while the machine sleeps.
func TestWhatHasEndedIsClosedWithoutItsTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newConnections(10)
		now := time.Now()
		in := func(until time.Time) *visitor {
			v := &visitor{from: "10.0.0.1"}
			k := &connection{Conn: v, of: c}
			k.peer.Authenticated = Authenticated{Caller: broker.NewCaller(broker.DNS, "company", "a", broker.ProofX509, "services"), Until: until}
			if err := c.room.enter(k); err != nil {
				t.Fatal(err)
			}
			return v
		}
		over, lasts, endless := in(now.Add(-time.Second)), in(now.Add(time.Hour)), in(time.Time{})
		c.look(now)
		<-time.After(endsAfter + time.Millisecond)
		synctest.Wait()
		if !over.closed.Load() || lasts.closed.Load() || endless.closed.Load() {
			t.Errorf("closed: over %t, lasting %t, endless %t", over.closed.Load(), lasts.closed.Load(), endless.closed.Load())
		}
	})
}

// TestWhoHasMostMakesRoom: a party has a part of all there is at most, what is not needed is taken back, and where there is no more a connection goes of the
// party that has most.
func TestWhoHasMostMakesRoom(t *testing.T) {
	synctest.Test(t, whoHasMostMakesRoom) // what is not needed is taken back now and then
}

func whoHasMostMakesRoom(t *testing.T) {
	c := newConnections(10)
	c.crowd = newCrowd(Capacity{Calls: 458, Unread: 4 << 20}) // 401 calls of those who are known, 343 of one party
	come := func(from string, open int64) (*connection, *visitor) {
		v := &visitor{from: from, gone: make(chan struct{})}
		k := &connection{Conn: v, of: c}
		k.peer.Authenticated = Authenticated{Caller: broker.NewCaller(broker.DNS, "company", from, broker.ProofX509, "services")}
		c.crowd.enter(k)
		k.streams.n.Store(open)
		return k, v
	}
	a1, gone := come("10.0.0.1", 200)
	a2, _ := come("10.0.0.1", 100)
	b, _ := come("10.0.0.2", 100)
	d, _ := come("10.0.0.3", 32)
	take := func(k *connection, n int64, want bool) {
		t.Helper()
		if got := c.crowd.take(k, load{calls: n}); got != want {
			t.Errorf("%d calls of %s: got %t", n, k.party().name, got)
		}
	}
	take(a1, 200, true)
	take(a2, 100, true)
	take(a2, 44, false) // a party's part
	take(b, 100, true)
	take(b, 32, true) // in the place of a1
	<-gone.gone
	take(d, 32, true)
	take(a2, 136, true)
	take(a2, 2, false) // nobody else has more
	b.streams.n.Store(0)
	c.crowd.swept = time.Time{}
	take(d, 100, true) // of what b does not need
	for _, k := range []*connection{a1, a2, b, d} {
		c.crowd.leave(k)
		c.crowd.leave(k)
	}
	if c.crowd.all != (load{}) || len(c.crowd.of) != 0 || len(c.crowd.in) != 0 {
		t.Errorf("there is something left: %+v", c.crowd)
	}
}

// nobody's door takes tokens, and this is what comes there.
func stranger(c *connections, from string) (*connection, *visitor) {
	v := &visitor{from: from, gone: make(chan struct{})}
	return &connection{Conn: v, of: c}, v
}

func someCaller(name string) *broker.Caller {
	return broker.NewCaller(broker.DNS, "company", name, broker.ProofX509, "services")
}

// TestStrangersGiveWay: of those who are connected, and with what they have open; each other, too, and never all of what is theirs.
func TestStrangersGiveWay(t *testing.T) { synctest.Test(t, strangersGiveWay) }

func strangersGiveWay(t *testing.T) {
	c := newConnections(10)
	c.door.Tokens = noTokens{}
	c.room.most, c.crowd = 16, newCrowd(Capacity{Calls: 160})
	var known []*visitor
	enter := func(from, caller string, n int64) (*connection, *visitor) {
		t.Helper()
		k, v := stranger(c, from)
		if err := c.room.enter(k); err != nil {
			t.Fatal(err)
		}
		c.crowd.enter(k)
		k.streams.n.Store(n)
		if !c.crowd.take(k, load{calls: n}) && caller != "" {
			t.Fatalf("no room for %d calls at %s", n, from)
		}
		if caller != "" {
			k.introduce(&Authenticated{Caller: someCaller(caller)})
			known = append(known, v)
		}
		return k, v
	}
	stand := func(when string, want int) {
		t.Helper()
		synctest.Wait()
		n := 0
		for _, v := range known {
			if !v.closed.Load() {
				n++
			}
		}
		if n != want {
			t.Errorf("%s: %d of those who are known are there, want %d", when, n, want)
		}
	}
	for i := range 12 { // the same machine as strangers come from, which does not matter
		enter("10.0.0.1", fmt.Sprint("caller", i), 5)
	}
	for i := range 100 {
		enter(fmt.Sprint("10.0.1.", i), "", 1)
		enter("10.0.0.1", "", 20)
	}
	stand("strangers came", 12)
	if n := c.crowd.strangers[calls]; n > 80 {
		t.Errorf("strangers have %d calls open", n)
	}
	for i := range 2 { // 14 of 16
		enter("10.0.0.1", fmt.Sprint("new", i), 5)
		enter("10.0.0.1", "", 1)
	}
	stand("others are known meanwhile", 14)
	enter("10.0.0.1", "another", 1)
	enter("10.0.0.1", "one more", 1)
	stand("who came is known", 15)
	for range 5 {
		enter("10.0.0.1", "", 1)
	}
	stand("an eighth is for strangers", 14)
	for _, k := range c.room.all() {
		c.room.leave(k)
		c.crowd.leave(k)
	}
	if c.room.open != 0 || c.room.strangers != 0 || len(c.room.of) != 0 || c.crowd.all != (load{}) || c.crowd.strangers != (load{}) || len(c.crowd.of) != 0 {
		t.Errorf("there is something left: %+v %+v", c.room.of, c.crowd.of)
	}
}

// TestAStrangerWhoAsksNothingGoes, after a minute or two; whoever asks, and whoever is known, stays.
func TestAStrangerWhoAsksNothingGoes(t *testing.T) {
	c := newConnections(10)
	c.door.Tokens = noTokens{}
	in := func(caller string) (*connection, *visitor) {
		k, v := stranger(c, "10.0.0.1")
		if err := c.room.enter(k); err != nil {
			t.Fatal(err)
		}
		c.crowd.enter(k)
		if caller != "" {
			k.introduce(&Authenticated{Caller: someCaller(caller)})
		}
		return k, v
	}
	_, idle := in("")
	asks, asking := in("")
	watches, watching := in("")
	_, known := in("a")
	watches.lasting.Add(1)
	for i := range 4 {
		asks.used.Store(true)
		c.tidy(time.Now().Add(time.Duration(i) * lookEvery / 2))
		if want := i >= 2; idle.closed.Load() != want {
			t.Errorf("after %d looks: closed %t", i+1, idle.closed.Load())
		}
	}
	if asking.closed.Load() || watching.closed.Load() || known.closed.Load() {
		t.Errorf("closed: asking %t, watching %t, known %t", asking.closed.Load(), watching.closed.Load(), known.closed.Load())
	}
}

// noTokens takes none.
type noTokens struct{}

func (noTokens) AuthenticateToken(context.Context, string) (*Authenticated, error) {
	return nil, broker.NotFound
}
func (noTokens) Remembers(string) bool    { return false }
func (noTokens) Changes() <-chan struct{} { return nil }

// TestACrowdKeepsItsBounds, whatever connections take, give back, and turn out to be: the sums are those of the connections, and nobody has more than they may.
func TestACrowdKeepsItsBounds(t *testing.T) { synctest.Test(t, crowdKeepsItsBounds) }

func crowdKeepsItsBounds(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		c := newConnections(100)
		c.door.Tokens, c.crowd = noTokens{}, newCrowd(Capacity{Calls: 1024, Unread: 8 << 20})
		var there []*connection
		for step := range 200 {
			any := func() *connection { return there[r.IntN(len(there))] }
			switch act := r.IntN(8); {
			case act < 2 || len(there) == 0:
				k, _ := stranger(c, fmt.Sprint("10.0.0.", r.IntN(9)))
				if r.IntN(3) == 0 {
					k.peer.Caller = someCaller(fmt.Sprint(r.IntN(4)))
				}
				c.crowd.enter(k)
				k.streams.n.Store(r.Int64N(50))
				k.streams.bytes.Store(r.Int64N(2 << 20))
				there = append(there, k)
			case act == 2:
				i := r.IntN(len(there))
				c.crowd.leave(there[i])
				there = slices.Delete(there, i, i+1)
			case act == 3:
				any().introduce(&Authenticated{Caller: someCaller(fmt.Sprint(r.IntN(4)))})
			case act < 6:
				c.crowd.take(any(), load{calls: r.Int64N(200)})
			default:
				c.crowd.take(any(), load{unread: r.Int64N(3 << 20)})
			}
			var all, strangers load
			of := map[party]load{}
			for k := range c.crowd.in {
				has := k.has()
				all, of[k.crowdParty] = all.plus(has), of[k.crowdParty].plus(has)
				if k.crowdParty.stranger {
					strangers = strangers.plus(has)
				}
			}
			w := c.crowd
			if all != w.all || strangers != w.strangers || all.beyond(w.most) >= 0 || strangers.beyond(w.strangersMost) >= 0 || all.minus(strangers).beyond(w.othersMost) >= 0 {
				t.Fatalf("seed %d, step %d: all %v are counted as %v, strangers %v as %v", seed, step, all, w.all, strangers, w.strangers)
			}
			for p, has := range of {
				if has != w.of[p] || has.beyond(w.partyMost) >= 0 {
					t.Fatalf("seed %d, step %d: %v of %+v are counted as %v", seed, step, has, p, w.of[p])
				}
			}
		}
	}
}

// TestNobodyGoesWhereThatDoesNotHelp: what there is too little of is bytes, and those who have many calls have none.
func TestNobodyGoesWhereThatDoesNotHelp(t *testing.T) {
	c := newConnections(10)
	c.door.Tokens, c.crowd = noTokens{}, newCrowd(Capacity{Calls: 1000, Unread: 8 << 20})
	in := func(caller string, open, bytes int64) (*connection, *visitor) {
		k, v := stranger(c, "10.0.0.1")
		if caller != "" {
			k.peer.Caller = someCaller(caller)
		}
		c.crowd.enter(k)
		k.streams.n.Store(open)
		k.streams.bytes.Store(bytes)
		if !c.crowd.take(k, load{calls: open, unread: bytes}) {
			t.Fatalf("no room for %d calls and %d bytes", open, bytes)
		}
		return k, v
	}
	honest, stays := in("honest", 100, 0)
	_, _ = in("a", 1, 4<<20-1000)
	crosses, goes := in("", 1, 4<<20)
	crosses.introduce(&Authenticated{Caller: someCaller("b")}) // 8 MiB of the 7 that all have who are known
	<-goes.gone
	if !c.crowd.take(honest, load{calls: 1}) || stays.closed.Load() {
		t.Error("one who has calls open is kept out by those who have bytes")
	}
}

// TestHeadersCountByTheirNumber, and not by their bytes alone; until the handler has returned, or a second after the call is over that came to none.
func TestHeadersCountByTheirNumber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newConnections(10)
		c.crowd = newCrowd(Capacity{Calls: 100, Unread: 1 << 20}) // 512 KiB of one party
		k, _ := stranger(c, "10.0.0.1")
		k.peer.Caller = someCaller("a")
		c.crowd.enter(k)
		many := metadata.MD{}
		for i := range 470 {
			many[fmt.Sprintf("%02x", i)] = []string{""}
		}
		usual := metadata.Pairs(":authority", "broker.example:443", "content-type", "application/grpc", "user-agent", "grpc-go/1.85.0", "authorization", "Bearer "+strings.Repeat("x", 2000))
		if _, ok := k.heads(t.Context(), usual); !ok || k.holds() != 0 {
			t.Errorf("usual headers count as %d", k.holds())
		}
		var all []context.Context
		end := func() {}
		for {
			ctx, cancel := context.WithCancel(t.Context())
			ctx, ok := k.heads(ctx, many)
			if !ok {
				cancel()
				break
			}
			all, end = append(all, ctx), cancel
		}
		if n := len(all); n < 2 || n > 5 {
			t.Errorf("%d calls have room", n)
		}
		each := k.holds() / int64(len(all))
		k.ends(all[0])
		if end(); k.holds() != each*int64(len(all)-1) {
			t.Errorf("%d bytes are held, of %d each", k.holds(), each)
		}
		<-time.After(time.Second + time.Millisecond)
		synctest.Wait()
		if k.holds() != each*int64(len(all)-2) {
			t.Errorf("%d bytes are held, of %d each", k.holds(), each)
		}
		k.ends(all[0])
		if k.holds() != each*int64(len(all)-2) {
			t.Error("it is given back twice")
		}
	})
}

// TestWhatStrangersBringWeighsMore, until one of them is known.
func TestWhatStrangersBringWeighsMore(t *testing.T) {
	c := newConnections(10)
	c.door.Tokens = noTokens{}
	k, _ := stranger(c, "10.0.0.1")
	if err := c.room.enter(k); err != nil {
		t.Fatal(err)
	}
	c.crowd.enter(k)
	k.streams.bytes.Store(1000)
	if !k.housed() || k.holds() != 1000*strangersWeight {
		t.Errorf("%d bytes count", k.holds())
	}
	if k.introduce(&Authenticated{Caller: someCaller("a")}); k.holds() != 1000 || k.unread.Load() != 1000 {
		t.Errorf("%d bytes count, and %d are the crowd's", k.holds(), k.unread.Load())
	}
}

// untilTokens takes the tokens that it has, each until its time.
type untilTokens map[string]time.Time

func (u untilTokens) AuthenticateToken(_ context.Context, token string) (*Authenticated, error) {
	if until, ok := u[token]; ok {
		return &Authenticated{Caller: someCaller(token), Until: until}, nil
	}
	return nil, &broker.Failure{Kind: broker.CallerUnauthenticated}
}
func (untilTokens) Remembers(string) bool    { return false }
func (untilTokens) Changes() <-chan struct{} { return nil }

func (k *connection) brings(token string) error {
	_, err := k.whose(metadata.NewIncomingContext(context.Background(), metadata.Pairs("authorization", "Bearer "+token)), time.Now())
	return err
}

// TestAConnectionIsWhoseTokenCounts: it is a stranger's again once none does that has come, and whose came last once the first does not.
func TestAConnectionIsWhoseTokenCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newConnections(100)
		c.door.Tokens = untilTokens{"a": time.Now().Add(time.Hour), "b": time.Now().Add(2 * time.Hour)}
		one, _ := stranger(c, "10.0.0.1")
		both, _ := stranger(c, "10.0.0.1")
		for _, k := range []*connection{one, both} {
			if err := c.room.enter(k); err != nil {
				t.Fatal(err)
			}
			c.crowd.enter(k)
			if err := k.brings("a"); err != nil {
				t.Fatal(err)
			}
		}
		if err := both.brings("b"); err != nil {
			t.Fatal(err)
		}
		for _, want := range []struct {
			after     time.Duration
			one, both party
		}{
			{time.Hour - time.Second, party{name: "dns:company/a"}, party{name: "dns:company/a"}},
			{time.Second, party{"at 10.0.0.1", true}, party{name: "dns:company/b"}},
			{time.Hour, party{"at 10.0.0.1", true}, party{"at 10.0.0.1", true}},
		} {
			<-time.After(want.after)
			c.look(time.Now())
			if one.party() != want.one || both.party() != want.both || one.roomParty != want.one || both.crowdParty != want.both {
				t.Errorf("got %+v and %+v, want %+v", one.party(), both.party(), want)
			}
		}
	})
}

// TestAWatchKeepsItsConnectionKnown: as long as a stream runs by a token that counts, its connection is nobody's to displace.
func TestAWatchKeepsItsConnectionKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newConnections(100)
		c.door.Tokens = untilTokens{"a": time.Now().Add(time.Minute)}
		k, _ := stranger(c, "10.0.0.1")
		if err := c.room.enter(k); err != nil {
			t.Fatal(err)
		}
		c.crowd.enter(k)
		if err := k.brings("a"); err != nil {
			t.Fatal(err)
		}
		k.vouched.Add(1)
		<-time.After(time.Hour)
		if c.look(time.Now()); k.party().stranger {
			t.Error("it is a stranger's while a watch runs")
		}
		k.vouched.Add(-1)
		if c.look(time.Now()); !k.party().stranger {
			t.Error("it is not, once none does")
		}
	})
}

// TestOthersTokensOnOnesConnectionAreNotCountedElsewhere: a proxy's connection is of who called by it first.
func TestOthersTokensOnOnesConnectionAreNotCountedElsewhere(t *testing.T) {
	c := newConnections(100)
	c.door.Tokens = untilTokens{"a": time.Now().Add(time.Hour)}
	proxy, _ := stranger(c, "10.0.0.1")
	own, _ := stranger(c, "10.0.0.2")
	for _, k := range []*connection{proxy, own} {
		if err := k.brings("a"); err != nil {
			t.Fatal(err)
		}
	}
	limited := false
	for i := range 3 * newTokensBurst {
		limited = limited || broker.KindOf(proxy.brings(fmt.Sprint("made up ", i))) == broker.CallerLimited
	}
	if err := own.brings("another"); !limited || broker.KindOf(err) != broker.CallerUnauthenticated {
		t.Errorf("limited %t; elsewhere got %v", limited, err)
	}
}
