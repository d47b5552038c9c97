package upstreamsim

import (
	"context"
	"net"
	"net/http"
	"sync"
	"testing"
)

func TestServe(t *testing.T) {
	sim, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	ln := newPipeListener()
	done := make(chan error)
	go func() { done <- sim.Serve(ln) }()
	obtain(t, dialing(t, sim, true, ln.dial), defaultAccount(t, sim, Snov))

	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	if err := sim.Serve(wrongAddr{tcp}); err == nil {
		t.Error("a listener on every address was served")
	}
	for range 2 {
		if err := sim.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	if err := <-done; err != nil {
		t.Errorf("got %v, want nil", err)
	}
	if err := sim.Serve(tcp); err == nil {
		t.Error("a closed Sim serves")
	}
}

type wrongAddr struct{ net.Listener }

func (wrongAddr) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4zero, Port: 80} }

// pipeListener is a listener without a network.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return pipeAddr{} }

func (l *pipeListener) dial(ctx context.Context) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case l.conns <- theirs:
		return ours, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe" }

func TestValid(t *testing.T) {
	sim := start(t, Options{})
	client := newClient(t, sim, true)
	token := mustSend(t, client, issuing(defaultAccount(t, sim, Snov))).text(t, "access_token")
	for _, want := range []bool{true, false} {
		if got := sim.Valid(Snov, token); got != want {
			t.Errorf("got valid %v, want %v", got, want)
		}
		if sim.Valid(OfficeRnD, token) {
			t.Error("valid for another system")
		}
		if got := sim.RejectToken(token); got != want {
			t.Errorf("got rejected %v, want %v", got, want)
		}
	}
}

// The endpoints that hand out no token are as strict.
func TestMutatedDetours(t *testing.T) {
	sim := start(t, Options{})
	client := newClient(t, sim, true)
	for target, system := range map[string]System{
		"https://acme.docuware.cloud/DocuWare/Platform/Home/IdentityServiceInfo": DocuWare,
		docuWareIssuer + "/.well-known/openid-configuration":                     DocuWare,
		"https://issuer.example.com/.well-known/openid-configuration":            ClientBasic,
	} {
		good := spec{method: http.MethodGet, url: target, header: http.Header{"User-Agent": {testAgent}}}
		if got := mustSend(t, client, good).status; got != http.StatusOK {
			t.Errorf("%s: got %d, want 200", target, got)
		}
		refused(t, sim, client, system, good.with("a", "b"), ReasonQuery)
		refused(t, sim, client, system, good.head("User-Agent", ""), ReasonUserAgent)
		refused(t, sim, client, system, good.head("Cookie", "a=b"), ReasonCookie)
		refused(t, sim, client, system, good.head("Authorization", "Bearer x"), ReasonAuthorization)
		good.method = http.MethodPost
		refused(t, sim, client, system, good, ReasonMethod)
	}
	a := defaultAccount(t, sim, ClientBasic)
	revoke := issuing(a)
	revoke.url, revoke.fields = "https://issuer.example.com/connect/revocation", []pair{{"token", "unknown"}}
	if got := mustSend(t, client, revoke).status; got != http.StatusOK { // RFC 7009 section 2.2
		t.Errorf("revoking an unknown token: got %d, want 200", got)
	}
	refused(t, sim, client, ClientBasic, revoke.without("token"), ReasonMissingField)
	refused(t, sim, client, ClientBasic, revoke.with("client_id", "x"), ReasonUnknownField)
	refused(t, sim, client, ClientBasic, revoke.head("Authorization", basic("x", "y")), ReasonCredential)
	revoke.method, revoke.fields = http.MethodGet, nil
	refused(t, sim, client, ClientBasic, revoke, ReasonMethod)
}
