package server

import (
	"context"
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	"github.com/tokenbroker/tokenbroker/broker"
)

// A changing authenticator tells of changes, as often as somebody sends one.
type changing struct{ changes chan struct{} }

func (changing) Authenticate(context.Context, net.Conn) (Peer, error) {
	return Peer{}, errors.New("nobody comes")
}
func (c changing) Changes() <-chan struct{} { return c.changes }

// following are connections of such a door, with one on which many streams run, and whose peer is asked about by still.
func following(t *testing.T, still func() error) (c *connections, change chan struct{}, ended []context.Context) {
	t.Helper()
	change = make(chan struct{})
	c = newConnections(DefaultConcurrentStreams)
	c.door.Authenticate = changing{change}
	k := &connection{of: c}
	k.peer.Still = c.once(still)
	ctx, stop := context.WithCancel(t.Context())
	followed := make(chan struct{})
	go func() {
		defer close(followed)
		c.follow(ctx)
	}()
	t.Cleanup(func() {
		stop()
		<-followed
	})
	synctest.Wait()
	for range 1000 {
		stream, _ := c.proven.add(t.Context(), proof{&k.peer.Authenticated, c, c.generation.Load()}, time.Now())
		ended = append(ended, stream)
	}
	return c, change, ended
}

// TestAChangeIsAskedAboutOnceForEachConnection, however many streams it has.
func TestAChangeIsAskedAboutOnceForEachConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked, said := 0, error(nil)
		_, change, streams := following(t, func() error { asked++; return said })
		asked = 0
		for range 3 {
			change <- struct{}{}
			synctest.Wait()
		}
		if asked != 3 {
			t.Errorf("after three changes it was asked %d times", asked)
		}
		said = errors.New("not any more")
		change <- struct{}{}
		synctest.Wait()
		for _, s := range streams {
			if unprovenCause(s) == nil {
				t.Fatal("a stream goes on")
			}
		}
		if asked != 4 {
			t.Errorf("after four changes it was asked %d times", asked)
		}
	})
}

// TestAChangeCountsWhileTheOneBeforeIsLookedAt: what comes meanwhile is held against what is trusted by then.
func TestAChangeCountsWhileTheOneBeforeIsLookedAt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow, said, asked := make(chan struct{}), error(nil), 0
		c, change, streams := following(t, func() error {
			if asked++; asked == 1 {
				<-slow
				return nil // as it was when that look began
			}
			return said
		})
		change <- struct{}{}
		synctest.Wait() // it is looked at, and that takes a while
		is := c.generation.Load()
		change <- struct{}{}
		synctest.Wait()
		if got := c.generation.Load(); got != is+1 {
			t.Errorf("the second change does not count: generation %d, want %d", got, is+1)
		}
		said = errors.New("not any more")
		close(slow)
		synctest.Wait()
		if unprovenCause(streams[0]) == nil {
			t.Error("a stream goes on")
		}
	})
}

// heardStream is a stream that counts what is sent.
type heardStream struct {
	grpc.ServerStream
	sent int
}

func (s *heardStream) SendMsg(any) error { s.sent++; return nil }

// TestNobodyIsToldAnythingWhoIsBelievedNoMore: there are many connections, and looking at one of them takes long. A stream that has not been looked at yet is sent nothing more.
func TestNobodyIsToldAnythingWhoIsBelievedNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow, first := make(chan struct{}), true
		c, change, _ := following(t, func() error {
			if !first {
				<-slow
			}
			first = false
			return nil
		})
		defer close(slow)
		said := error(nil)
		k := &connection{of: c}
		k.peer.Still = c.once(func() error { return said })
		out := &heardStream{}
		s := &validatedStream{ServerStream: out, ctx: t.Context(), who: proof{&k.peer.Authenticated, c, c.generation.Load()}}
		if err := s.SendMsg(nil); err != nil || out.sent != 1 {
			t.Errorf("got %v, sent %d", err, out.sent)
		}
		change <- struct{}{}
		synctest.Wait() // the look waits for the other connection
		if err := s.SendMsg(nil); err != nil || out.sent != 2 {
			t.Errorf("still believed: got %v, sent %d", err, out.sent)
		}
		said = errors.New("not any more")
		change <- struct{}{}
		synctest.Wait()
		if err := s.SendMsg(nil); broker.KindOf(err) != broker.CallerUnauthenticated || out.sent != 2 {
			t.Errorf("believed no more: got %v, sent %d", err, out.sent)
		}
	})
}
