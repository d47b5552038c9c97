package server

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// A Door is one purpose for which others reach the broker, with who is let in. Each has a gRPC server of its own: nothing that is trusted at one counts
// at another. The zero value is the door of this machine: everything is there, for whoever comes over loopback or a Unix socket.
type Door struct {
	// Name tells it from others, and is the Listener of its callers.
	Name string
	// TokensOnly: GetToken, Invalidate, WatchToken, what Envoys ask, and health are there, and nothing else.
	TokensOnly bool
	// Tokens says whose token a call brings on a connection whose peer has shown no certificate. Nil: tokens say nothing.
	Tokens TokenAuthenticator
	// Forwarders says for whom a proxy calls, which says so by the header x-forwarded-client-cert. Nil: that counts for nothing, as on this machine.
	Forwarders Forwarders
	// Authenticate says who has connected. Nil: nobody has to prove anything, and who is not on this machine is nobody.
	Authenticate Authenticator
}

// authenticatedAge bounds the age of connections whose callers have proven who they are by something that ends: a certificate of an hour is replaced at
// half its life, so that a client which connects again within that never has its connection end under it.
const authenticatedAge = 15 * time.Minute

// An Authenticator says who has connected. Safe for concurrent use.
type Authenticator interface {
	// Authenticate speaks with whoever is behind a connection, until ctx ends. It closes nothing.
	Authenticate(ctx context.Context, raw net.Conn) (Peer, error)
	// Changes is closed at the next change of what is trusted: all Peers are looked at again.
	Changes() <-chan struct{}
}

// A TokenAuthenticator says whose token it is that a call brings (RFC 6750 section 2.1). Safe for concurrent use.
type TokenAuthenticator interface {
	// AuthenticateToken says whose a token is. It may ask the issuer for its keys, until ctx ends. It fails with CallerUnauthenticated, whose detail says what is
	// wrong with the token, and with IssuerUnavailable where nobody can say.
	AuthenticateToken(ctx context.Context, token string) (*Authenticated, error)
	// Remembers reports whether that asks nobody, and costs little, because the token was authenticated before.
	Remembers(token string) bool
	// Changes is closed at the next change of what is trusted: whoever was authenticated is looked at again.
	Changes() <-chan struct{}
}

// Forwarders say for whom proxies call. Safe for concurrent use.
type Forwarders interface {
	// Forwarded says for whom somebody calls, nil being nobody in particular, by the values of the header. The same caller is the same pointer. It fails with
	// CallerUnauthenticated where they may not, or where the header is wrong; the detail says what, and quotes nothing.
	Forwarded(by *broker.Caller, headers []string) (*broker.Caller, error)
	// ForwardedBy says for whom somebody calls, nil being nobody in particular, who names them: a principal of their own TLS; empty: they
	// cannot name them. It fails as Forwarded does.
	ForwardedBy(by *broker.Caller, principal string) (*broker.Caller, error)
}

// An Authenticated is who has proven to be somebody. Immutable.
type Authenticated struct {
	// Caller is nil where nobody has proven anything.
	Caller *broker.Caller
	// Until is when the proof ends; zero: it does not.
	Until time.Time
	// Still says why the caller would not be let in any more; nil: it would. Nil: it always would. It asks nobody.
	Still func() error
}

func (a *Authenticated) still() error {
	if a.Still == nil {
		return nil
	}
	return a.Still()
}

// over reports whether the proof has ended.
func (a *Authenticated) over(now time.Time) bool { return !a.Until.IsZero() && !now.Before(a.Until) }

// A Peer is who was authenticated, and what is spoken on from then on.
type Peer struct {
	Authenticated
	Conn net.Conn
}

// handshakesMost bounds the connections whose callers have not said yet who they are.
const handshakesMost = 512

// A lobby bounds those. When it is full, one more takes the place of the one that is there the longest of the machine that has most: a handshake costs
// a caller little, and who leaves hundreds half done displaces themselves. Safe for concurrent use.
type lobby struct {
	most int

	mu sync.Mutex
	in map[string][]waiting // by machine, the oldest first
	// all is how many there are, and came how many there were.
	all, came int
}

// waiting is a connection in a lobby; came tells which was there before which.
type waiting struct {
	net.Conn
	came int
}

// enter takes a connection in until the function is called that it returns, and closes another for it where there has to be.
func (l *lobby) enter(c net.Conn) (leave func()) {
	host := hostOf(c.RemoteAddr())
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all >= l.most {
		crowd := ""
		for h, of := range l.in { // where several have as many, the one that is there the longest: an honest handshake takes no time
			if has := l.in[crowd]; len(of) > len(has) || len(of) == len(has) && of[0].came < has[0].came {
				crowd = h
			}
		}
		if of := l.in[crowd]; len(of) > 0 {
			_ = of[0].Close() // its handshake fails, and it leaves
			l.remove(crowd, of[0].Conn)
		}
	}
	if l.in == nil {
		l.in = map[string][]waiting{}
	}
	l.in[host] = append(l.in[host], waiting{c, l.came})
	l.all++
	l.came++
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.remove(host, c)
	}
}

// remove takes a connection out, if it is in; the caller holds mu.
func (l *lobby) remove(host string, c net.Conn) {
	for i, there := range l.in[host] {
		if there.Conn != c {
			continue
		}
		l.all--
		if l.in[host] = append(l.in[host][:i:i], l.in[host][i+1:]...); len(l.in[host]) == 0 {
			delete(l.in, host)
		}
		return
	}
}

// hostOf is the machine behind an address, as far as one has few: of IPv6 it is its network (RFC 4291 section 2.5.4).
func hostOf(a net.Addr) string {
	t, ok := a.(*net.TCPAddr)
	switch {
	case !ok:
		return "-"
	case t.IP.To4() == nil && len(t.IP) == net.IPv6len:
		return t.IP.Mask(net.CIDRMask(64, 128)).String()
	}
	return t.IP.String()
}
