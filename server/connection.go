package server

import (
	"cmp"
	"container/list"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc/codes"
	wirecred "google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/tame"
)

const (
	// messageWithin is how long the message of a call may take after its headers.
	messageWithin = 30 * time.Second
	// silentMost is how many calls of a connection may be without their message before each one more has a timer. Usual calls bring it at
	// once, and make none.
	silentMost = 128
)

// connections are the side of the transport of one door: who is there, and how many. It implements credentials.TransportCredentials.
type connections struct {
	door    Door
	audit   broker.Auditor
	log     *slog.Logger
	lobby   lobby
	room    room
	crowd   *crowd // of the whole process
	streams int64
	within  time.Duration
	// generation changes when what the door trusts may have: who was believed before is looked at again.
	generation atomic.Uint64
	// proven are the streams, and the calls that wait, whose callers' proofs may end.
	proven lasting
	// newTokens bounds the tokens that are looked at.
	newTokens rates
	// refused bounds how often it is said who was not let in.
	refused rate.Sometimes
}

// newConnections bounds what lasts on one connection to three quarters of the calls that may run on it at a time: one more call always
// gets through.
func newConnections(streams uint32) *connections {
	return &connections{
		audit: broker.Unaudited{}, log: slog.New(slog.DiscardHandler), lobby: lobby{most: handshakesMost}, room: room{most: connectionsMost}, crowd: newCrowd(Capacity{}),
		streams: max(int64(streams)*3/4, 1), within: messageWithin, refused: rate.Sometimes{First: 10, Interval: time.Second},
	}
}

// A connection is one of a client. It implements credentials.AuthInfo.
type connection struct {
	net.Conn
	wirecred.CommonAuthInfo
	of *connections
	// peer is who is there; without a caller it is nobody, or calls bring tokens. end closes the connection when that is over; nil: it never is.
	peer Peer
	end  *time.Timer
	// ending: it is about to be closed.
	ending atomic.Bool
	// seen is a generation as of which the peer is believed, and last the token that was brought last.
	seen atomic.Uint64
	last atomic.Pointer[bearing]
	// unproven is why the token that a stranger brought last counts for nothing, until its call has come.
	unproven atomic.Pointer[refusal]
	// introduced is who brought a token first, of those that count. Nil: nobody has.
	introduced atomic.Pointer[Authenticated]
	// since is when it entered its room, place where it is there, and roomParty as whose: the room guards them. place is nil: it has none.
	since     time.Time
	place     *list.Element
	roomParty party
	// crowdParty is as whose the crowd counts it, which guards it.
	crowdParty party
	// used: a call has come since the room last looked. running are the calls that do, but for streams.
	used    atomic.Bool
	running atomic.Int64
	// streams are its calls that are open.
	streams opened
	// calls and unread are what it may have open, of the crowd's. headers is what its large ones take.
	calls, unread, headers atomic.Int64
	// vouched are the streams that run whose tokens count: they end when those do not.
	vouched atomic.Int64
	// lasting are the streams that run; silent the calls whose message has not come, and timed those of them that have a timer.
	lasting, silent, timed atomic.Int64
}

// AuthType implements credentials.AuthInfo.
func (k *connection) AuthType() string {
	if k.SecurityLevel == wirecred.NoSecurity {
		return "local"
	}
	return "tls"
}

// Close implements net.Conn.
func (k *connection) Close() error {
	if k.end != nil {
		k.end.Stop()
	}
	k.of.room.leave(k)
	k.of.crowd.leave(k)
	return k.Conn.Close()
}

// A party is what connections are counted by: a caller, or a machine where nobody has proven yet who they are.
type party struct {
	name string
	// stranger: calls are to say who makes them, and none has brought a token that counts. Strangers give way first, and not to each other alone.
	stranger bool
}

func (k *connection) party() party {
	switch by := k.introduced.Load(); {
	case k.peer.Caller != nil || k.of.door.Tokens == nil:
		return party{name: k.peer.Caller.String()}
	case by == nil:
		return party{"at " + hostOf(k.RemoteAddr()), true}
	default:
		return party{name: by.Caller.String()}
	}
}

// introduce has the connection be of who brought a token first: a proxy that calls for many is one party, too.
func (k *connection) introduce(who *Authenticated) {
	if k.peer.Caller == nil {
		k.reintroduce(nil, who)
	}
}

func (k *connection) reintroduce(was, who *Authenticated) {
	if k.introduced.CompareAndSwap(was, who) {
		k.of.room.recount(k)
		k.of.crowd.recount(k)
	}
}

// expire has the connection be of who brought a token last, once the one that it was introduced by counts no more; where neither does, of a stranger.
func (k *connection) expire(now time.Time) {
	was := k.introduced.Load()
	if was == nil || !was.over(now) && was.still() == nil || k.vouched.Load() > 0 {
		return
	}
	var who *Authenticated
	if last := k.last.Load(); last != nil && last.holds(now) == nil {
		who = last.who
	}
	k.reintroduce(was, who)
}

// busy reports whether a call runs.
func (k *connection) busy() bool { return k.running.Load() > 0 || k.lasting.Load() > 0 }

// ServerHandshake implements credentials.TransportCredentials.
func (c *connections) ServerHandshake(raw net.Conn) (net.Conn, wirecred.AuthInfo, error) {
	k := &connection{Conn: raw, CommonAuthInfo: wirecred.CommonAuthInfo{SecurityLevel: wirecred.NoSecurity}, of: c}
	if c.door.Authenticate == nil {
		k.peer.Caller = callerAt(raw, cmp.Or(c.door.Name, broker.Machine))
	} else if err := c.authenticate(k, raw); err != nil {
		c.audit.Note(context.Background(), broker.AuditRecord{
			Event: broker.AuditUnauthenticated, Outcome: broker.CallerUnauthenticated, Listener: c.door.Name, Peer: hostOf(raw.RemoteAddr()), Detail: "no connection was made",
		})
		c.refused.Do(func() {
			c.log.Info("connection refused", "listener", c.door.Name, "peer", raw.RemoteAddr().String(), "cause", causeOf(err))
		})
		return nil, nil, err // gRPC closes it
	}
	if !k.peer.Until.IsZero() {
		k.end = time.AfterFunc(time.Until(k.peer.Until)+endsAfter, func() { _ = k.Conn.Close() }) // gRPC sees it, and closes the rest
	}
	k.peer.Still = c.once(k.peer.Still)
	k.seen.Store(c.generation.Load())
	if err := c.room.enter(k); err != nil { // it is looked at from then on
		_ = k.Close()
		return nil, nil, err
	}
	c.crowd.enter(k)
	k.streams.in.skip = clientPreface
	if err := k.peer.still(); err != nil { // what is trusted may have changed since, and those that were in have been looked at
		_ = k.Close()
		return nil, nil, err
	}
	return k, k, nil
}

// causeOf is why somebody was not let in, for the log: what they have sent may be quoted in it.
func causeOf(err error) string { return fmt.Sprintf("%.300s", tame.Line(err.Error())) }

// handshakeWithin bounds how long somebody may take to say who they are.
const handshakeWithin = 10 * time.Second

// authenticate has the door's authenticator say who is there.
func (c *connections) authenticate(k *connection, raw net.Conn) (err error) {
	leave := c.lobby.enter(raw)
	defer leave()
	ctx, cancel := context.WithTimeout(context.Background(), handshakeWithin)
	defer cancel()
	if k.peer, err = c.door.Authenticate.Authenticate(ctx, raw); err != nil {
		return err
	}
	k.Conn, k.SecurityLevel = k.peer.Conn, wirecred.PrivacyAndIntegrity
	return nil
}

// lookEvery is how often all connections are looked at although nothing has changed: timers stand still while the machine sleeps.
const lookEvery = time.Minute

// endsAfter is how long a connection whose peer is believed no more stays open, so that its calls and streams are told why they end. It does nothing else.
const endsAfter = time.Second

// once has it asked once for each generation of what the door trusts, whether a caller is still believed: streams of a connection may be many, and all ask. Where it is
// asked before there is a generation, each asks.
func (c *connections) once(still func() error) func() error {
	if still == nil {
		return nil
	}
	var mu sync.Mutex
	var asked uint64
	var said error
	return func() error {
		is := c.generation.Load() // before: what changes meanwhile is another one
		mu.Lock()
		defer mu.Unlock()
		if asked == 0 || asked != is {
			asked, said = is, still()
		}
		return said
	}
}

// follow looks at all connections and streams again whenever what the door trusts changes, and now and then. A change counts for what comes from then on
// also while they are being looked at for the one before.
func (c *connections) follow(ctx context.Context) {
	again := make(chan struct{}, 1)
	var looking sync.WaitGroup
	defer looking.Wait()
	defer close(again)
	looking.Go(func() {
		for range again {
			c.look(time.Now())
		}
	})
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		var certificates, tokens <-chan struct{} // before looking: nothing is missed
		if c.door.Authenticate != nil {
			certificates = c.door.Authenticate.Changes()
		}
		if c.door.Tokens != nil {
			tokens = c.door.Tokens.Changes()
		}
		c.generation.Add(1)
		select {
		case again <- struct{}{}:
		default: // that is yet to begin
		}
		select {
		case <-certificates:
		case <-tokens:
		case now := <-tick.C:
			c.tidy(now)
		case <-ctx.Done():
			return
		}
	}
}

// tidy closes the connections of strangers who have asked nothing for a while.
func (c *connections) tidy(now time.Time) {
	for _, k := range c.room.all() {
		if k.party().stranger && !k.busy() && k.streams.n.Load() == 0 && !k.used.Swap(false) && now.Sub(k.since) >= lookEvery {
			_ = k.Close()
		}
	}
}

// look ends the streams and the connections of those who would not be believed any more.
func (c *connections) look(now time.Time) {
	c.proven.look(now)
	for _, k := range c.room.all() {
		k.expire(now)
		err := k.peer.still()
		if err == nil && k.peer.over(now) {
			err = errProofOver
		}
		if err != nil && k.ending.CompareAndSwap(false, true) {
			c.log.Info("connection closed: its caller is trusted no more", "listener", c.door.Name, "caller", k.peer.Caller.String(), "cause", causeOf(err))
			time.AfterFunc(endsAfter, func() { _ = k.Close() })
		}
	}
}

// At a stop, a connection on which nothing runs that is the broker's is closed after a while: its callers take no answers, or send no messages.
const (
	finishEvery  = 500 * time.Millisecond
	finishWithin = 4 // times
)

// finish closes those until all is done.
func (c *connections) finish(done <-chan struct{}) {
	tick := time.NewTicker(finishEvery)
	defer tick.Stop()
	idle := map[*connection]int{}
	for {
		select {
		case <-done:
			return
		case <-tick.C:
		}
		for _, k := range c.room.all() {
			if k.busy() {
				delete(idle, k)
			} else if idle[k]++; idle[k] == finishWithin {
				_ = k.Close()
			}
		}
	}
}

// ClientHandshake implements credentials.TransportCredentials. A server makes none.
func (*connections) ClientHandshake(context.Context, string, net.Conn) (net.Conn, wirecred.AuthInfo, error) {
	return nil, nil, errors.New("not for clients")
}

// Info implements credentials.TransportCredentials.
func (*connections) Info() wirecred.ProtocolInfo {
	return wirecred.ProtocolInfo{SecurityProtocol: "insecure"}
}

// Clone implements credentials.TransportCredentials.
func (c *connections) Clone() wirecred.TransportCredentials { return c }

// OverrideServerName implements credentials.TransportCredentials.
func (*connections) OverrideServerName(string) error { return nil }

// connectionOf is the one that a call came on; nil: it came on none of this server's.
func connectionOf(ctx context.Context) *connection {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil
	}
	k, _ := p.AuthInfo.(*connection)
	return k
}

// lasts counts a stream until the function is called that it returns. It fails with CallerLimited where there are as many as there may be.
func (k *connection) lasts() (func(), error) {
	if k.lasting.Add(1) > k.of.streams {
		k.lasting.Add(-1)
		return nil, &broker.Failure{Kind: broker.CallerLimited, Detail: fmt.Sprintf(
			"more streams on one connection than %d, three quarters of the setting limits.concurrent_streams: watch on another connection", k.of.streams)}
	}
	return func() { k.lasting.Add(-1) }, nil
}

// passes counts a stream that lasts as long as a request which passes a proxy, until the function is called that it returns: of those a connection has as many as calls.
func (k *connection) passes() func() {
	k.running.Add(1)
	return func() { k.running.Add(-1) }
}

// An arrival is the context of a call whose message has not come, with a timer. gRPC waits for messages without an end.
type arrival struct {
	context.Context //nolint:containedctx // it is one
	timer           *time.Timer
	late            atomic.Bool
}

type arrivalKey struct{}

// Value implements context.Context.
func (a *arrival) Value(key any) any {
	if key == (arrivalKey{}) {
		return a
	}
	return a.Context.Value(key)
}

// Err implements context.Context.
func (a *arrival) Err() error {
	if a.late.Load() {
		return context.DeadlineExceeded
	}
	return a.Context.Err()
}

// errCallsMost is told before a call begins: gRPC sends it, and nothing else of the call is kept.
var errCallsMost = status.Error(codes.ResourceExhausted, "as many calls are open as there is room for: fewer at a time, or on other brokers")

// opened is the tap: a call's headers are there. It bounds how long its message may take.
func (c *connections) opened(ctx context.Context, of *tap.Info) (context.Context, error) {
	k := connectionOf(ctx)
	if k == nil {
		return ctx, nil
	}
	if !k.used.Load() {
		k.used.Store(true) // only when it changes: all its calls share this line
	}
	silent := k.silent.Add(1)
	if !k.opens() {
		k.silent.Add(-1)
		return nil, errCallsMost
	}
	k.greet(ctx)
	ctx, fits := k.heads(ctx, of.Header)
	if !fits {
		k.silent.Add(-1)
		return nil, errCallsMost
	}
	if silent <= silentMost {
		return ctx, nil
	}
	k.timed.Add(1)
	bounded, cancel := context.WithCancel(ctx)
	a := &arrival{Context: bounded}
	a.timer = time.AfterFunc(c.within, func() {
		k.silent.Add(-1)
		k.timed.Add(-1)
		a.late.Store(true)
		cancel()
	})
	context.AfterFunc(ctx, func() { // a call that is reset comes to no handler, and would be kept as long as its timer
		if a.timer.Stop() {
			k.silent.Add(-1)
			k.timed.Add(-1)
		}
	})
	return a, nil
}

// begins notes that a call has come to its handler.
func (k *connection) begins(ctx context.Context) {
	if k.timed.Load() > 0 {
		if a, ok := ctx.Value(arrivalKey{}).(*arrival); ok {
			if !a.timer.Stop() {
				return // the timer has counted it
			}
			k.timed.Add(-1)
		}
	}
	k.silent.Add(-1)
}
