package server

import (
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// A visitor is a connection from an address.
type visitor struct {
	net.Conn
	from   string
	closed bool
	gone   chan struct{} // closed with it; nil: nobody waits
}

func (v *visitor) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.ParseIP(v.from)} }
func (v *visitor) Close() error {
	if v.closed = true; v.gone != nil {
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
			if !v.closed {
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
		if v.closed {
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
	if far.closed {
		t.Error("and both were counted")
	}
}

func TestWhoHasLeftTheLobbyMakesRoom(t *testing.T) {
	l := lobby{most: 1}
	first, second := &visitor{from: "10.0.0.1"}, &visitor{from: "10.0.0.1"}
	l.enter(first)()
	leave := l.enter(second)
	if first.closed {
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
		if !over.closed || lasts.closed || endless.closed {
			t.Errorf("closed: over %t, lasting %t, endless %t", over.closed, lasts.closed, endless.closed)
		}
	})
}

// TestWhoHasMostMakesRoom: a party has a part of all there is at most, what is not needed is taken back, and where there is no more a connection goes of the
// party that has most.
func TestWhoHasMostMakesRoom(t *testing.T) {
	c := newConnections(10)
	c.crowd = newCrowd(Capacity{Calls: 400, Unread: 4 << 20}) // 300 calls of one party, 2 MiB
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
	take := func(k *connection, calls int64, want bool) {
		t.Helper()
		if got := c.crowd.take(k, load{calls: calls}); got != want {
			t.Errorf("%d calls of %s: got %t", calls, k.party(), got)
		}
	}
	take(a1, 200, true)
	take(a2, 100, true)
	take(a2, 1, false) // a party's part
	take(b, 100, true)
	take(b, 32, true) // in the place of a1
	<-gone.gone
	take(d, 32, true)
	take(a2, 136, true)
	take(a2, 1, false) // nobody else has more
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
