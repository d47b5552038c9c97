package server

import (
	"context"
	"errors"
	"sync"
	"time"

	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
)

// A call that is open takes some 15 KiB, for its stream and its stack, and as many bytes of its message as gRPC takes before anybody reads them, 64 KiB:
// before a handler runs, and whoever makes it. So what all connections of the process have open is bounded, and what each party has of it, whether or
// not anybody is allowed anything.
const (
	// callBytes is what an open call takes; calls that wait for a token take as much.
	callBytes = 16 << 10
	// connectionBytes is what a connection takes, with its buffers.
	connectionBytes = 96 << 10
	// frameSpare is what a call brings beside its headers and its message.
	frameSpare = 1 << 10
	// callsChunk and bytesChunk are how much a connection asks for at a time.
	callsChunk = 32
	bytesChunk = 64 << 10
	// sweepNotFaster bounds how often what is not needed is looked for.
	sweepNotFaster = time.Millisecond
)

// Capacity is how much a Server keeps at a time for those who are connected. A zero value is a default.
type Capacity struct {
	// Connections are of each door; default 2000. One more takes the place of another.
	Connections int
	// Calls are those that are open, on all connections together, streams too; default 32768. One party has three quarters of them at most, and
	// those who have not proven who they are half of them.
	Calls int
	// Unread is how many bytes may have come that nobody has read yet; default 128 MiB. One party has half of them at most.
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

// A load is what is open: calls, and bytes that nobody has read.
type load struct{ calls, unread int64 }

func (l load) plus(o load) load { return load{l.calls + o.calls, l.unread + o.unread} }

func (l load) minus(o load) load { return load{l.calls - o.calls, l.unread - o.unread} }

func (l load) within(most load) bool { return l.calls <= most.calls && l.unread <= most.unread }

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
	part := func(of, in int) load {
		return load{int64(c.Calls) * int64(of) / int64(in), int64(c.Unread) * int64(of) / int64(in)}
	}
	most := part(1, 1)
	return &crowd{
		most: most, partyMost: load{part(3, 4).calls, part(1, 2).unread}, strangersMost: part(1, 2), othersMost: most.minus(part(1, strangersPart)),
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

// recount counts a connection as its party's, which has changed.
func (c *crowd) recount(k *connection) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, in := c.in[k]; !in {
		return
	}
	has := k.has()
	c.give(k, has)
	k.crowdParty = k.party()
	c.give(k, load{}.minus(has))
}

// take gives a connection more. It reports whether there was as much: what others have and do not need is taken back for it, and where that is not enough
// a connection is closed that has more.
func (c *crowd) take(k *connection, more load) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); !c.fits(k, more) && now.Sub(c.swept) >= sweepNotFaster {
		c.swept = now
		for other := range c.in {
			if spare := other.spare(); other != k && spare != (load{}) {
				c.give(other, spare)
			}
		}
	}
	if _, in := c.in[k]; !in || !c.of[k.crowdParty].plus(more).within(c.partyMost) {
		return false
	}
	for !c.fits(k, more) {
		most := c.largest(k, more)
		if most == nil {
			return false
		}
		c.remove(most)
		go func() { _ = most.Conn.Close() }() // gRPC sees it, and closes the rest
	}
	c.give(k, load{}.minus(more))
	return true
}

// fits reports whether there is room for more of a connection.
func (c *crowd) fits(k *connection, more load) bool {
	return c.all.plus(more).within(c.most) && c.of[k.crowdParty].plus(more).within(c.partyMost) && c.fitsAside(k, more)
}

// fitsAside reports whether more of a connection is within what strangers have, or what the others have.
func (c *crowd) fitsAside(k *connection, more load) bool {
	if k.crowdParty.stranger {
		return c.strangers.plus(more).within(c.strangersMost)
	}
	return c.all.minus(c.strangers).plus(more).within(c.othersMost)
}

// largest is the connection that is to go for more of another one; nil: none has more than that would have.
func (c *crowd) largest(k *connection, more load) (most *connection) {
	has := func(l load) int64 {
		if more.calls > 0 {
			return l.calls
		}
		return l.unread
	}
	if k.crowdParty.stranger || c.fitsAside(k, more) {
		top := int64(0)
		if k.crowdParty.stranger {
			top = has(k.has().plus(more))
		}
		for other := range c.in {
			if its := has(other.has()); other.crowdParty.stranger && other != k && its > top {
				most, top = other, its
			}
		}
		return most
	}
	var with party
	top := has(c.of[k.crowdParty].plus(more))
	for p, of := range c.of {
		if !p.stranger && has(of) > top {
			with, top = p, has(of)
		}
	}
	top = 0
	for other := range c.in {
		if its := has(other.has()); other.crowdParty == with && its > top {
			most, top = other, its
		}
	}
	return most
}

// give takes something back from a connection; the caller holds mu.
func (c *crowd) give(k *connection, back load) {
	k.calls.Add(-back.calls)
	k.unread.Add(-back.unread)
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
func (k *connection) has() load { return load{k.calls.Load(), k.unread.Load()} }

// open is how many calls of the connection are open.
func (k *connection) open() int64 { return k.streams.n.Load() }

// Write implements net.Conn. It sees which calls are over: one goroutine calls it at a time.
func (k *connection) Write(p []byte) (int, error) {
	n, err := k.Conn.Write(p)
	k.streams.goes(p[:n])
	return n, err
}

// spare is what it has of the crowd's and does not need.
func (k *connection) spare() (s load) {
	open := k.open()
	if s.calls = max(0, k.calls.Load()-open); open == 0 {
		s.unread = k.unread.Load()
	}
	return s
}

// opens has the crowd make room for one more call. It reports whether there is.
func (k *connection) opens(open int64) bool {
	k.opened++
	if open <= k.calls.Load() {
		return true
	}
	return k.of.crowd.take(k, load{calls: callsChunk}) || k.of.crowd.take(k, load{calls: 1})
}

var errCrowded = errors.New("more has come than anybody has read, and there is no room for it")

// Read implements net.Conn. It counts what comes: it is called by one goroutine, which opens the calls as well.
func (k *connection) Read(p []byte) (int, error) {
	n, err := k.Conn.Read(p)
	k.streams.comes(p[:n])
	if k.came += int64(n); k.came < k.looksAt || err != nil {
		return n, err
	}
	if k.open() == 0 {
		k.came, k.opened, k.looksAt = 0, 0, bytesChunk
		k.consumed.Store(0)
		k.counted.Store(false)
		return n, nil
	}
	k.counted.Store(true)
	k.looksAt = k.came + bytesChunk/4
	unread := k.came - k.opened*frameSpare - k.consumed.Load()
	if lacks := unread - k.unread.Load(); lacks > 0 && !k.of.crowd.take(k, load{unread: lacks + bytesChunk}) {
		k.of.refused.Do(func() {
			k.of.log.Info("connection closed: "+errCrowded.Error(), "listener", k.of.door.Name, "caller", k.party(), "bytes", unread)
		})
		return 0, errCrowded // gRPC closes it
	}
	return n, nil
}

// consumes notes that a message was read, where that is counted: a connection on which little comes is not worth it.
func (k *connection) consumes(message any) {
	if m, ok := message.(proto.Message); ok && k.counted.Load() {
		k.consumed.Add(int64(proto.Size(m)))
	}
}

// ends notes that the headers of a call are needed no more.
func (k *connection) ends(ctx context.Context) {
	if !k.counted.Load() {
		return
	}
	headers, _ := metadata.FromIncomingContext(ctx)
	for name, values := range headers {
		for _, v := range values {
			k.consumed.Add(int64(len(name) + len(v)))
		}
	}
}
