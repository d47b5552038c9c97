package provider

import (
	"context"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/yamldoc"
	"github.com/tokenbroker/tokenbroker/provider/transport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A vendor is an upstream that answers as a test says, and keeps what it was asked.
type vendor struct {
	t      *testing.T
	server *httptest.Server
	tr     *transport.Transport
	mu     sync.Mutex
	asked  []asked
	opened int
	answer http.HandlerFunc
}

type asked struct {
	method, host, uri, body string
	header                  http.Header
}

// newVendor starts one; change lets a test change the transport's settings.
func newVendor(t *testing.T, answer http.HandlerFunc, change ...func(*transport.Settings)) *vendor {
	t.Helper()
	v := &vendor{t: t, answer: answer}
	v.server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		v.mu.Lock()
		v.asked = append(v.asked, asked{r.Method, r.Host, r.URL.RequestURI(), string(b), r.Header.Clone()})
		v.mu.Unlock()
		v.answer(w, r)
	}))
	v.server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			v.mu.Lock()
			v.opened++
			v.mu.Unlock()
		}
	}
	v.server.StartTLS()
	t.Cleanup(v.server.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: v.server.Certificate().Raw})
	if err := os.WriteFile(ca, cert, 0o600); err != nil {
		t.Fatal(err)
	}
	// The test server's certificate is for example.com.
	s := transport.Settings{CAFile: ca, ConnectTo: map[string]string{"example.com:443": v.server.Listener.Addr().String(), "www.example.com:443": v.server.Listener.Addr().String()}}
	for _, f := range change {
		f(&s)
	}
	tr, err := transport.New(s)
	if err != nil {
		t.Fatal(err)
	}
	v.tr = tr
	t.Cleanup(tr.Close)
	return v
}

func (v *vendor) requests() []asked {
	v.mu.Lock()
	defer v.mu.Unlock()
	return append([]asked(nil), v.asked...)
}

// define reads a definition, which must be right.
func (v *vendor) define(text string) *definition {
	v.t.Helper()
	d, problems := parse("", []byte("name: test\n"+text))
	for _, p := range yamldoc.Errors(problems) {
		v.t.Error(p)
	}
	if v.t.Failed() {
		v.t.FailNow()
	}
	d.transport = v.tr
	return d
}

// credential has these inputs; names that begin with an exclamation mark are secrets.
func credential(inputs map[string]string) broker.Credential {
	c := broker.Credential{Name: "c", Provider: "test", Inputs: map[string]string{}, Secrets: map[string]broker.SecretInput{}, Seeds: map[string]broker.Seed{}}
	for k, v := range inputs {
		if name, secret := strings.CutPrefix(k, "!"); secret {
			c.Secrets[name] = broker.SecretInput{Value: broker.NewSecret(v)}
		} else {
			c.Inputs[k] = v
		}
	}
	return c
}

// obtain runs the definition's obtain.
func (v *vendor) obtain(d *definition, c broker.Credential, sel broker.Selection) (broker.Answer, error) {
	v.t.Helper()
	return d.Exchange(v.context(), broker.Exchange{Credential: c, Selection: sel, BeforeSend: func(string) error { return nil }})
}

// refresh runs its refresh.
func (v *vendor) refresh(d *definition, c broker.Credential, token string, held map[string]broker.Secret) (broker.Answer, error) {
	v.t.Helper()
	values := map[string]broker.HeldValue{}
	for name, value := range held {
		h := broker.HeldValue{Value: value}
		for _, q := range d.obtain {
			for _, t := range q.take {
				if t.name == name {
					h.TakenBy = t.by
				}
			}
		}
		values[name] = h
	}
	return d.Exchange(v.context(), broker.Exchange{
		Run: broker.Refresh, Credential: c, RefreshToken: broker.NewSecret(token), Held: values, BeforeSend: func(string) error { return nil },
	})
}

func (v *vendor) context() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	v.t.Cleanup(cancel)
	return ctx
}

func upstreamError(t *testing.T, err error) *broker.UpstreamError {
	t.Helper()
	e, ok := err.(*broker.UpstreamError) //nolint:errorlint // the interface promises exactly this type
	if !ok {
		t.Fatalf("got %T %v, want an UpstreamError", err, err)
	}
	return e
}

// says answers with a status, a content type and a body.
func says(status int, contentType, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if contentType != "" {
			w.Header().Set("Content-Type", contentType)
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func jsonSays(body string) http.HandlerFunc { return says(200, "application/json", body) }

// wrong is what is wrong with a credential all of whose secrets were given just now.
func (d *definition) wrong(c broker.Credential) []broker.Violation {
	return d.Check(c, c.SecretNames())
}
