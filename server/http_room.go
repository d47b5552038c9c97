package server

import (
	"container/list"
	"context"
	"net"
	"net/http"
	"sync"
	"time"
)

// How long a connection of a full room keeps its place: while its request, or the next one, is not whole, and while it is answered.
const (
	httpAsking    = 100 * time.Millisecond
	httpAnswering = 2 * time.Second
)

// An httpRoom bounds the connections of an HTTP listener. When it is full, one more takes the place of another: of the one that has waited the longest
// for its request, or the next one, to be whole; where all of them are answered, of the one whose answer takes the longest. Each has its time first.
// So whoever connects and asks is answered soon, whatever others leave half done. Another machine that has more than half of the places has no time of its
// own: it displaces itself, and at once. It implements net.Listener.
type httpRoom struct {
	net.Listener
	most int

	mu sync.Mutex
	// waiting and answered are the connections, the oldest first.
	waiting, answered list.List
	// left says that something has changed, closed that the listener is.
	left   chan struct{}
	closed chan struct{}
	once   sync.Once
}

func newHTTPRoom(l net.Listener, most int) *httpRoom {
	return &httpRoom{Listener: l, most: most, left: make(chan struct{}, 1), closed: make(chan struct{})}
}

// An httpConnection is in a room.
type httpConnection struct {
	net.Conn
	room *httpRoom
	// host is the other machine's address; empty: it is this one.
	host string
	// in is where it stands, nil: nowhere; since is from when on. The room's mu guards both.
	in    *list.List
	place *list.Element
	since time.Time
}

// Accept implements net.Listener.
func (r *httpRoom) Accept() (net.Conn, error) {
	c, err := r.Listener.Accept()
	if err != nil {
		return nil, err
	}
	k := &httpConnection{Conn: c, room: r, host: otherHost(c.RemoteAddr())}
	for {
		wait := r.enter(k)
		if wait <= 0 {
			return k, nil
		}
		again := time.NewTimer(wait)
		select {
		case <-r.left:
		case <-again.C:
		case <-r.closed:
			again.Stop()
			_ = c.Close()
			return nil, net.ErrClosed
		}
		again.Stop()
	}
}

// Close implements net.Listener.
func (r *httpRoom) Close() error {
	r.once.Do(func() { close(r.closed) })
	return r.Listener.Close()
}

// enter takes a connection in, and closes another for it where there has to be. Where none can go, it says in how long one can.
func (r *httpRoom) enter(k *httpConnection) (wait time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.waiting.Len()+r.answered.Len() >= r.most {
		gone, wait := r.crowding(), time.Duration(0)
		if gone == nil {
			gone, wait = r.oldest(&r.waiting, httpAsking)
		}
		if gone == nil || wait > 0 {
			if other, longer := r.oldest(&r.answered, httpAnswering); gone == nil || other != nil && longer < wait {
				gone, wait = other, longer
			}
		}
		if wait > 0 {
			return wait
		}
		r.move(gone, nil)
		_ = gone.Conn.Close() // whoever serves it finds out
	}
	r.move(k, &r.waiting)
	return 0
}

// crowding is the connection that has waited the longest of a machine that has more than half of the places; nil: there is none. The caller holds mu.
func (r *httpRoom) crowding() (first *httpConnection) {
	of := map[string]int{}
	for _, l := range []*list.List{&r.waiting, &r.answered} {
		for e := l.Front(); e != nil; e = e.Next() {
			of[e.Value.(*httpConnection).host]++
		}
	}
	for e := r.waiting.Front(); e != nil; e = e.Next() {
		if k := e.Value.(*httpConnection); k.host != "" && of[k.host] > r.most/2 {
			return k
		}
	}
	return nil
}

// otherHost is the address of another machine; empty: it is this one.
func otherHost(a net.Addr) string {
	if t, ok := a.(*net.TCPAddr); ok && !t.IP.IsLoopback() {
		return t.IP.String()
	}
	return ""
}

// oldest is the first of a list, and in how long it makes room; nil: there is none. The caller holds mu.
func (*httpRoom) oldest(of *list.List, keeps time.Duration) (k *httpConnection, wait time.Duration) {
	if of.Len() == 0 {
		return nil, 0
	}
	k = of.Front().Value.(*httpConnection)
	return k, keeps - time.Since(k.since)
}

// move puts a connection at the end of a list; nil: it is gone. The caller holds mu.
func (r *httpRoom) move(k *httpConnection, to *list.List) {
	if k.in != nil {
		k.in.Remove(k.place)
	}
	if k.in, k.place, k.since = to, nil, time.Now(); to != nil {
		k.place = to.PushBack(k)
	}
}

// moves is move for a connection that may be gone already.
func (r *httpRoom) moves(k *httpConnection, to *list.List) {
	r.mu.Lock()
	if k.in != nil {
		r.move(k, to)
	}
	r.mu.Unlock()
	select {
	case r.left <- struct{}{}:
	default:
	}
}

// Close implements net.Conn.
func (k *httpConnection) Close() error {
	k.room.moves(k, nil)
	return k.Conn.Close()
}

type httpConnectionKey struct{}

// context is http.Server.ConnContext.
func (r *httpRoom) context(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, httpConnectionKey{}, c)
}

// answering notes which connections are answered.
func (r *httpRoom) answering(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if k, ok := q.Context().Value(httpConnectionKey{}).(*httpConnection); ok {
			r.moves(k, &r.answered)
			defer r.moves(k, &r.waiting)
		}
		h.ServeHTTP(w, q)
	})
}
