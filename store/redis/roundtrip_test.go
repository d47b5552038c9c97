package redis_test

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/redistest"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/redis"
)

// turns counts how often a client spoke after it had heard something, or for the first time: on a connection whose client waits
// for its answers, that is how many round trips there were.
type turns struct {
	target  string
	n       atomic.Int64
	serving sync.WaitGroup
	mu      sync.Mutex
	conns   []net.Conn
}

// newTurns listens on an address of its own for whoever wants to speak with target.
func newTurns(t *testing.T, target string) (p *turns, address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p = &turns{target: target}
	p.serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.serving.Go(func() { p.serve(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		p.mu.Lock()
		for _, c := range p.conns {
			_ = c.Close()
		}
		p.mu.Unlock()
		p.serving.Wait()
	})
	return p, l.Addr().String()
}

func (p *turns) serve(client net.Conn) {
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		_ = client.Close()
		return
	}
	p.mu.Lock()
	p.conns = append(p.conns, client, server)
	p.mu.Unlock()
	var heard atomic.Bool
	heard.Store(true)
	p.serving.Go(func() { pass(server, client, func() { heard.Store(true) }) })
	pass(client, server, func() {
		if heard.Swap(false) {
			p.n.Add(1)
		}
	})
}

// pass passes what comes from one side to the other, and calls seen before each piece of it.
func pass(from, to net.Conn, seen func()) {
	defer from.Close()
	defer to.Close()
	for b := make([]byte, 1<<18); ; {
		n, err := from.Read(b)
		if n > 0 {
			seen()
			if _, err := to.Write(b[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// taken returns how many turns there were since it was last called, once there are no more.
func (p *turns) taken() int64 {
	for before := p.n.Load(); ; {
		<-time.After(50 * time.Millisecond)
		now := p.n.Load()
		if now == before {
			return p.n.Swap(0)
		}
		before = now
	}
}

// TestEachCallIsOneRoundTrip: also those that ask for several groups, and those that wait for replicas.
func TestEachCallIsOneRoundTrip(t *testing.T) {
	master := redistest.StartSentinel(t).Master()
	p, address := newTurns(t, master.Addr())
	token := store.Key{Kind: "token"}
	var groups []store.Group
	var places []store.Place
	for i := range 40 {
		g := store.Group(fmt.Sprint("c:", i))
		groups, places = append(groups, g), append(places, store.Place{Group: g, Key: token})
	}
	revision := byte(0)
	put := func(more func(*store.Batch)) store.Batch {
		revision++
		b := store.Batch{Group: "c:1", Puts: []store.Put{{Key: token, Revision: store.Revision{revision}, Value: []byte("value"), TTL: time.Hour}}}
		more(&b)
		return b
	}
	for replicas := range 3 {
		db := open(t, strings.Replace(master.URL(), master.Addr(), address, 1), func(o *redis.Options) { o.WaitReplicas = replicas })
		apply := func(more func(*store.Batch)) func(context.Context) error {
			return func(ctx context.Context) error { return db.Apply(ctx, put(more)) }
		}
		for name, call := range map[string]func(context.Context) error{
			"Read": func(ctx context.Context) error {
				_, err := db.Read(ctx, store.Ask{Group: "c:1", Keys: []store.Key{token}})
				return err
			},
			"Read of two groups": func(ctx context.Context) error {
				_, err := db.Read(ctx, store.Ask{Group: "c:1", Keys: []store.Key{token}}, store.Ask{Group: "u:1", Keys: []store.Key{{Kind: "backoff"}}})
				return err
			},
			"List": func(ctx context.Context) error {
				_, err := db.List(ctx, groups[:1], "token", "grant")
				return err
			},
			"List of forty groups": func(ctx context.Context) error {
				_, err := db.List(ctx, groups, "token", "grant")
				return err
			},
			"Revisions": func(ctx context.Context) error {
				_, _, err := db.Revisions(ctx, places)
				return err
			},
			"Apply":           apply(func(*store.Batch) {}),
			"Apply, and tell": apply(func(b *store.Batch) { b.Tell = 'n' }),
			"Apply, to finish": apply(func(b *store.Batch) {
				b.Finish = true
			}),
			"Apply, to keep": apply(func(b *store.Batch) {
				b.Keep = true
			}),
			"Apply, to finish and keep": apply(func(b *store.Batch) {
				b.Keep, b.Finish, b.Tell = true, true, 'n'
			}),
			"Apply that conflicts": func(ctx context.Context) error {
				err := db.Apply(ctx, put(func(b *store.Batch) {
					b.Keep, b.Conditions = true, []store.Condition{{Key: token, Revision: store.Revision{200}}}
				}))
				if err == nil {
					return fmt.Errorf("it does not")
				}
				return nil
			},
		} {
			t.Run(fmt.Sprintf("%s, %d replicas", name, replicas), func(t *testing.T) {
				if err := call(t.Context()); err != nil { // connections are opened, and Redis learns the script
					t.Fatal(err)
				}
				var got int64
				for range 5 { // the pool may open a connection meanwhile, and greet; a call that takes two does so always
					p.taken()
					for range 3 {
						if err := call(t.Context()); err != nil {
							t.Fatal(err)
						}
					}
					if got = p.taken(); got == 3 {
						return
					}
				}
				t.Errorf("three calls took %d round trips", got)
			})
		}
	}
}
