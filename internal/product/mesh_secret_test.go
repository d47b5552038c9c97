package product

import (
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/internal/upstreamsim"
)

// A way is one to a broker that can be cut.
type way struct {
	net.Listener
	to string

	mu   sync.Mutex
	cut  bool
	open []net.Conn
}

func newWay(t *testing.T, to string) *way {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &way{Listener: l, to: to}
	t.Cleanup(func() {
		_ = l.Close()
		w.set(true)
	})
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", to)
			if err != nil {
				_ = in.Close()
				continue
			}
			w.mu.Lock()
			w.open = append(w.open, in, out)
			cut := w.cut
			w.mu.Unlock()
			w.set(cut)
			pass := func(a, b net.Conn) {
				_, _ = io.Copy(a, b)
				_, _ = a.Close(), b.Close()
			}
			go pass(in, out)
			go pass(out, in)
		}
	}()
	return w
}

// set cuts it, or has it be open again.
func (w *way) set(cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cut = cut; cut {
		for _, c := range w.open {
			_ = c.Close()
		}
		w.open = nil
	}
}

// TestATokenThatWasInvalidatedWhileAnEnvoyWasAway: the Envoy has it no longer, before the broker knows whether there is another.
func TestATokenThatWasInvalidatedWhileAnEnvoyWasAway(t *testing.T) {
	m := newMeshRig(t)
	a, u := m.officernd()
	w := newWay(t, m.doors["services"])
	m.doors["services"] = w.Addr().String()
	at := m.envoy(t, "sds.yaml", "officernd-main", u.Host, m.sim.Addr())
	m.doors["services"] = w.to
	client := m.as(shop)
	becomes := func(want int) {
		t.Helper()
		for until := time.Now().Add(time.Minute); m.ask(client, http.MethodGet, "https://"+at+u.RequestURI(), "").status != want; <-time.After(10 * time.Millisecond) {
			if time.Now().After(until) {
				t.Fatalf("it does not become %d", want)
			}
		}
	}
	becomes(http.StatusOK)
	token := m.mustGet("officernd-main")
	clear, err := m.sim.AddFault(upstreamsim.Fault{Kind: upstreamsim.FaultHang, Account: a.ID})
	if err != nil {
		t.Fatal(err)
	}
	defer clear()
	w.set(true)
	m.invalidate("officernd-main", token.GetTokenId())
	known := make(chan struct{})
	go func() {
		defer close(known)
		_, _ = m.tokens.GetToken(context.WithoutCancel(t.Context()), &tokenbrokerv1.GetTokenRequest{Credential: "officernd-main"})
	}()
	w.set(false)
	becomes(http.StatusUnauthorized) // the API takes the token still
	select {
	case <-known:
		t.Error("it was emptied when the broker knew that there is no other, and not before")
	default:
	}
	clear()
	becomes(http.StatusOK)
	<-known
}

// TestAnEnvoysTokenIsGoodUntilItsEnd: an upstream hands out the same token with a new life, and the Envoy has it all the while. When it comes again, to a broker whose definition is gone,
// it has the token until that ends, and no longer.
func TestAnEnvoysTokenIsGoodUntilItsEnd(t *testing.T) {
	t.Parallel()
	var issued atomic.Int64
	upstream := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		issued.Add(1)
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprintf(w, `{"access_token":"the-same","token_type":"Bearer","expires_in":%d}`, int(shortLife.Seconds()))
	}))
	upstream.StartTLS()
	defer upstream.Close()
	api := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer the-same" {
			w.WriteHeader(http.StatusTeapot)
		}
	}))
	defer api.Close()
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: api.Certificate().Raw}) // of both
	m := newMeshRig(t, func(o *rigOptions) {
		o.definitions = map[string]string{"same": `
name: same
inputs: {client_id: {}, client_secret: {secret: true}}
obtain: {oauth2: "https://example.com/oauth/token"}
lifetime: 20s
base_url: https://app.officernd.com/api/v1
present: {headers: {Authorization: "Bearer {{token}}"}}
`}
		o.connect, o.ca = map[string]string{"example.com:443": upstream.Listener.Addr().String()}, authority
	})
	do(t, m.credentials.CreateCredential, &tokenbrokerv1.CreateCredentialRequest{
		Credential: &tokenbrokerv1.Credential{Name: "same-main", Provider: "same", Inputs: map[string]string{"client_id": "x"}}, Secrets: map[string]string{"client_secret": "y"},
	})
	at := m.envoy(t, "sds.yaml", "same-main", "example.com", api.Listener.Addr().String())
	client := m.as(shop)
	ask := func() int { return m.ask(client, http.MethodGet, "https://"+at+"/", "").status }
	// Over the end that its first life had.
	for ended := time.Now().Add(shortLife); issued.Load() < 2 || time.Now().Before(ended); <-time.After(100 * time.Millisecond) {
		if got := ask(); got != http.StatusOK {
			t.Fatalf("got %d of a token that was issued %d times", got, issued.Load())
		}
	}
	m.stop()
	if err := os.Remove(filepath.Join(m.dir, "providers", "same.yaml")); err != nil {
		t.Fatal(err)
	}
	m.start(m.options)
	for until := time.Now().Add(time.Minute); ; <-time.After(100 * time.Millisecond) {
		got := ask()
		if got == http.StatusUnauthorized {
			break
		}
		if got != http.StatusOK || time.Now().After(until) {
			t.Fatalf("got %d, want the token until its end, and then none", got)
		}
	}
}
