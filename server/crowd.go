package server

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/metadata"
)

// A call that is open takes some 15 KiB, for its stream and its stack, and as many bytes of its message as gRPC takes before anybody reads them, 64 KiB:
// before a handler runs, and whoever makes it. So what all connections of the process have open is bounded, and what each party has of it, whether or
// not anybody is allowed anything.
const (
	// callBytes is what an open call takes; calls that wait for a token take as much.
	callBytes = 16 << 10
	// connectionBytes is what a connection takes, with its buffers.
	connectionBytes = 96 << 10
	// callsChunk and bytesChunk are how much a connection asks for at a time.
	callsChunk = 32
	bytesChunk = 64 << 10
	// sweepNotFaster bounds how often what is not needed is looked for.
	sweepNotFaster = time.Millisecond
	// headersHeld is how many times their size headers take.
	headersHeld = 2
	// knownMost is how many times as many streams a connection may have as may last on it.
	knownMost = 4
)

// Capacity is how much a Server keeps at a time for those who are connected. A zero value is a default.
type Capacity struct {
	// Connections are of each door; default 2000. One more takes the place of another.
	Connections int
	// Calls are those that are open, on all connections together, streams too; default 32768. One party has three quarters of them at most, and
	// those who have not proven who they are half of them.
	Calls int
	// Unread is how many bytes may have come of calls that are not over; default 128 MiB. One party has half of them at most.
	Unread int
}

// CapacityIn is what fits into so much memory, beside the rest: an eighth is for connections, a third for calls, a tenth for what is unread.
func CapacityIn(bytes int64) Capacity {
	return Capacity{
		Connections: int(min(connectionsMost, max(128, bytes/8/connectionBytes))),
		Calls:       int(min(callsMost, max(256, bytes/3/callBytes))),
		Unread:      int(min(unreadMost, max(2<<20, bytes/10))),
	}
}

const (
	// connectionsMost bounds the connections of a door: one more takes the place of another (room).
	connectionsMost = 2000
	callsMost       = 1 << 15
	unreadMost      = 128 << 20
)

func (c Capacity) orDefault() Capacity {
	return Capacity{orDefault(c.Connections, connectionsMost), orDefault(c.Calls, callsMost), orDefault(c.Unread, unreadMost)}
}

// A load is how much is open of each.
type load [2]int64

const (
	calls  = iota
	unread // bytes of messages and of large headers
)

func (l load) plus(o load) load { return load{l[calls] + o[calls], l[unread] + o[unread]} }

func (l load) minus(o load) load { return load{l[calls] - o[calls], l[unread] - o[unread]} }

// beyond is of which there is more than most; -1: of none.
func (l load) beyond(most load) int {
	for of := range l {
		if l[of] > most[of] {
			return of
		}
	}
	return -1
}

// A crowd is all that is open in the process. Connections take from it in chunks, so that a call seldom asks. Safe for concurrent use.
//
// Where there is no more, somebody else's connection is closed who has more: of those who have proven who they are, one of the party that has most. Strangers
// are not told apart by their machine here, for one may have many addresses, and many may have one: the connection that has most goes. All of them have half
// of what there is at most, give way to everybody else, and have an eighth that nobody takes from them.
type crowd struct {
	most, partyMost, strangersMost, othersMost load

	mu             sync.Mutex
	all, strangers load
	of             map[party]load
	in             map[*connection]struct{}
	// swept is when what is not needed was last taken back.
	swept time.Time
}

func newCrowd(c Capacity) *crowd {
	c = c.orDefault()
	most := load{calls: int64(c.Calls), unread: int64(c.Unread)}
	part := func(of, in int64) load { return load{most[calls] * of / in, most[unread] * of / in} }
	return &crowd{
		most: most, partyMost: load{calls: part(3, 4)[calls], unread: part(1, 2)[unread]}, strangersMost: part(1, 2), othersMost: most.minus(part(1, strangersPart)),
		of: map[party]load{}, in: map[*connection]struct{}{},
	}
}

// enter has a connection be one of those from which is taken back what they do not need.
func (c *crowd) enter(k *connection) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k.crowdParty = k.party()
	c.in[k] = struct{}{}
}

// recount counts a connection as its party's, which has changed. What it needs has to fit there, as if it had not had it before: else it is closed.
func (c *crowd) recount(k *connection) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, in := c.in[k]; !in {
		return
	}
	has := k.has()
	c.give(k, has)
	k.crowdParty = k.party()
	if has = has.minus(k.beside(has)); !c.makeRoom(k, has) {
		delete(c.in, k)
		c.close(k)
		return
	}
	c.give(k, load{}.minus(has))
}

// take gives a connection more. It reports whether there was as much: what others have and do not need is taken back for it, and where that is not enough
// a connection is closed that has more.
func (c *crowd) take(k *connection, more load) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, in := c.in[k]; !in || !c.makeRoom(k, more) {
		return false
	}
	c.give(k, load{}.minus(more))
	return true
}

// makeRoom sees to it that there is room for more of a connection, if that can be; the caller holds mu.
func (c *crowd) makeRoom(k *connection, more load) bool {
	if now := time.Now(); c.beyond(k, more) >= 0 && now.Sub(c.swept) >= sweepNotFaster {
		c.swept = now
		for other := range c.in {
			if spare := other.spare(); other != k && spare != (load{}) {
				c.give(other, spare)
			}
		}
	}
	if c.of[k.crowdParty].plus(more).beyond(c.partyMost) >= 0 {
		return false
	}
	for {
		of := c.beyond(k, more)
		if of < 0 {
			return true
		}
		most := c.largest(k, more, of)
		if most == nil {
			return false
		}
		c.remove(most)
		c.close(most)
	}
}

// close closes a connection: gRPC sees it, and closes the rest.
func (c *crowd) close(k *connection) { go func() { _ = k.Conn.Close() }() }

// beyond is of which there is no room for more of a connection; -1: there is room.
func (c *crowd) beyond(k *connection, more load) int {
	for _, bound := range []struct{ is, most load }{{c.of[k.crowdParty], c.partyMost}, {c.all, c.most}, c.aside(k)} {
		if of := bound.is.plus(more).beyond(bound.most); of >= 0 {
			return of
		}
	}
	return -1
}

// aside is what strangers have, and may have, or the others.
func (c *crowd) aside(k *connection) struct{ is, most load } {
	if k.crowdParty.stranger {
		return struct{ is, most load }{c.strangers, c.strangersMost}
	}
	return struct{ is, most load }{c.all.minus(c.strangers), c.othersMost}
}

// largest is the connection that is to go for more of another one: it has most of what there is too little of. nil: none has more than the other one would have.
func (c *crowd) largest(k *connection, more load, of int) (most *connection) {
	if mine := c.aside(k); k.crowdParty.stranger || mine.is.plus(more).beyond(mine.most) < 0 {
		top := int64(0)
		if k.crowdParty.stranger {
			top = k.has().plus(more)[of]
		}
		for other := range c.in {
			if its := other.has()[of]; other.crowdParty.stranger && other != k && its > top {
				most, top = other, its
			}
		}
		return most
	}
	var with party
	top := c.of[k.crowdParty].plus(more)[of]
	for p, has := range c.of {
		if !p.stranger && p != k.crowdParty && has[of] > top {
			with, top = p, has[of]
		}
	}
	top = 0
	for other := range c.in {
		if its := other.has()[of]; other.crowdParty == with && its > top {
			most, top = other, its
		}
	}
	return most
}

// give takes something back from a connection; the caller holds mu.
func (c *crowd) give(k *connection, back load) {
	k.calls.Add(-back[calls])
	k.unread.Add(-back[unread])
	c.all = c.all.minus(back)
	if k.crowdParty.stranger {
		c.strangers = c.strangers.minus(back)
	}
	if of := c.of[k.crowdParty].minus(back); of == (load{}) {
		delete(c.of, k.crowdParty)
	} else {
		c.of[k.crowdParty] = of
	}
}

// leave takes everything back from a connection that is closed. Once is enough.
func (c *crowd) leave(k *connection) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.remove(k)
}

// remove is leave; the caller holds mu.
func (c *crowd) remove(k *connection) {
	if _, in := c.in[k]; !in {
		return
	}
	delete(c.in, k)
	c.give(k, k.has())
}

// has is what a connection has of the crowd's.
func (k *connection) has() load { return load{calls: k.calls.Load(), unread: k.unread.Load()} }

// open is how many calls of the connection count.
func (k *connection) open() int64 { return k.streams.open() }

// holds is how many bytes it has that somebody brought: of messages and of large headers.
func (k *connection) holds() int64 {
	bytes := k.streams.bytes.Load()
	if k.strange() {
		bytes *= strangersWeight
	}
	return bytes + k.headers.Load()
}

// strangersWeight is how many times their size messages of strangers count: they are decoded before anybody looks at who brought them.
const strangersWeight = 32

// strange reports whether its party is a stranger.
func (k *connection) strange() bool {
	return k.peer.Caller == nil && k.of.door.Tokens != nil && k.introduced.Load() == nil
}

// Write implements net.Conn. It sees which calls are over: one goroutine calls it at a time.
func (k *connection) Write(p []byte) (int, error) {
	n, err := k.Conn.Write(p)
	k.streams.goes(p[:n])
	return n, err
}

// spare is what it has of the crowd's and does not need.
func (k *connection) spare() load { return k.beside(k.has()) }

// beside is what it does not need of so much.
func (k *connection) beside(has load) load {
	return load{calls: max(0, has[calls]-k.open()), unread: max(0, has[unread]-k.holds())}
}

// opens has the crowd make room for one more call. It reports whether there is.
func (k *connection) opens() bool {
	open := k.open()
	if open <= k.calls.Load() {
		return true
	}
	return k.of.crowd.take(k, load{calls: callsChunk}) || k.of.crowd.take(k, load{calls: open - k.calls.Load()})
}

var errCrowded = errors.New("more has come than there is room for")

// Read implements net.Conn. It counts what comes.
func (k *connection) Read(p []byte) (int, error) {
	n, err := k.Conn.Read(p)
	if k.streams.comes(p[:n]); err == nil && !k.fits() {
		k.of.refused.Do(func() {
			k.of.log.Info("connection closed: "+errCrowded.Error(), "listener", k.of.door.Name, "caller", k.party().name, "bytes", k.holds(), "calls", k.streams.n.Load())
		})
		return 0, errCrowded // gRPC closes it
	}
	return n, err
}

// fits reports whether there is room for what has come. Streams of which gRPC knows nothing, because there are too many, or because the connection is to end,
// are known here until it says so.
func (k *connection) fits() bool { return k.streams.n.Load() <= k.of.streams*knownMost && k.housed() }

const (
	// headerKept is what gRPC keeps of a header beside its name and its value.
	headerKept = 160
	// largeHeaders are counted: the others are in callBytes.
	largeHeaders = 4 << 10
)

// A heading is what the large headers of a call take, until its handler has returned. Where it comes to none, gRPC has begun something for it that it may come to
// a little later than it has ended.
type heading struct {
	of   *connection
	size int64
	over atomic.Bool
	stop func() bool
}

type headingKey struct{}

// heads counts the headers of a call: where they are compressed they are no bytes that came. It reports whether there is room for them.
func (k *connection) heads(ctx context.Context, headers metadata.MD) (context.Context, bool) {
	size := 0
	for name, values := range headers {
		for _, v := range values {
			size += headerKept + len(name) + len(v)
		}
	}
	if size < largeHeaders {
		return ctx, true
	}
	h := &heading{of: k, size: int64(size) * headersHeld}
	k.headers.Add(h.size)
	if !k.housed() {
		k.headers.Add(-h.size)
		return ctx, false
	}
	h.stop = context.AfterFunc(ctx, func() { time.AfterFunc(time.Second, h.giveBack) })
	return context.WithValue(ctx, headingKey{}, h), true
}

// giveBack takes it from what its connection holds, once.
func (h *heading) giveBack() {
	if !h.over.Swap(true) {
		h.of.headers.Add(-h.size)
	}
}

// ends notes that the handler of a call has returned.
func (k *connection) ends(ctx context.Context) {
	if k.headers.Load() > 0 {
		if h, ok := ctx.Value(headingKey{}).(*heading); ok {
			h.stop()
			h.giveBack()
		}
	}
}

// housed has the crowd make room for what the connection holds. It reports whether there is.
func (k *connection) housed() bool {
	lacks := k.holds() - k.unread.Load()
	return lacks <= 0 || k.of.crowd.take(k, load{unread: lacks + bytesChunk}) || k.of.crowd.take(k, load{unread: lacks})
}
