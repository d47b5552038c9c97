package product

import (
	"bytes"
	"context"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
	"github.com/tokenbroker/tokenbroker/broker/trace"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/internal/catalogview"
	"github.com/tokenbroker/tokenbroker/internal/upstreamsim"
	"github.com/tokenbroker/tokenbroker/internal/upstreamsim/simclient"
	"github.com/tokenbroker/tokenbroker/provider"
	"github.com/tokenbroker/tokenbroker/provider/transport"
	"github.com/tokenbroker/tokenbroker/server"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/bolt"
)

// A rig is a whole broker on real parts: real TCP, a real file, the built-in definitions byte for byte, and the hostile
// upstream behind the vendors' own names.
type rig struct {
	t       testing.TB
	sim     *upstreamsim.Sim
	client  *simclient.Client
	dir     string
	addr    string
	doors   map[string]string // where each listens
	log     *lockedBuffer
	heard   *lockedBuffer
	called  sync.Map // by full method
	serving sync.WaitGroup

	overheard bool
	metrics   *server.Metrics
	broker    *engine.Broker
	server    *server.Server
	db        *bolt.DB
	catalog   *provider.Catalog
	tr        *transport.Transport

	tokens      tokenbrokerv1.TokenBrokerServiceClient
	credentials tokenbrokerv1.CredentialServiceClient
	providers   tokenbrokerv1.ProviderServiceClient
	conn        *grpc.ClientConn
}

// lockedBuffer is a log that goroutines write and a test reads.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) Bytes() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Clone(l.b.Bytes())
}

type rigOptions struct {
	sim         upstreamsim.Options
	definitions map[string]string
	timeout     time.Duration
	// connect are other hosts than the simulator's: host:port to where it listens, and ca is who vouches for them, in PEM.
	connect map[string]string
	ca      []byte
	// overheard: what clients are told is written down.
	overheard bool
	// quiet: the log is as in production.
	quiet bool
	// doors are those beside the one of this machine, and who decides what their callers may. Nil: there are none, and this machine's may all.
	doors func(*rig) ([]server.Door, broker.Authorizer)
	// around, if set, stands between the broker and the definitions, before between the store and its backend.
	around func(broker.Upstream) broker.Upstream
	// tracer, if set, begins the broker's traces.
	tracer *trace.Tracer
	before func(store.Backend) store.Backend
}

func newRig(t testing.TB, o rigOptions) *rig {
	t.Helper()
	sim, err := upstreamsim.New(o.sim)
	if err != nil {
		t.Fatal(err)
	}
	if err := sim.Start(); err != nil {
		t.Fatal(err)
	}
	client, err := simclient.Of(sim)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, sim: sim, client: client, dir: t.TempDir(), doors: map[string]string{}, log: &lockedBuffer{}, heard: &lockedBuffer{}}
	r.write("ca.pem", string(sim.CA())+string(o.ca))
	for name, text := range o.definitions {
		r.write(filepath.Join("providers", name+".yaml"), text)
	}
	r.start(o)
	t.Cleanup(func() {
		r.stop()
		if err := sim.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func (r *rig) write(name, text string) {
	r.t.Helper()
	path := filepath.Join(r.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// start starts the broker on the data that are there.
func (r *rig) start(o rigOptions) {
	t := r.t
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	settings := transport.Settings{ConnectTo: map[string]string{}, CAFile: filepath.Join(r.dir, "ca.pem")}
	for _, h := range r.sim.Hosts() {
		settings.ConnectTo[h] = r.sim.Addr()
	}
	maps.Copy(settings.ConnectTo, o.connect)
	var err error
	r.tr, err = transport.New(settings)
	must(err)
	dir := ""
	if o.definitions != nil {
		dir = filepath.Join(r.dir, "providers")
	}
	r.catalog, err = provider.Load(r.tr, dir)
	must(err)
	for _, e := range r.catalog.List() {
		for _, p := range e.Problems {
			t.Error(p)
		}
	}
	data := filepath.Join(r.dir, "data")
	must(os.MkdirAll(data, 0o700))
	r.db, err = bolt.Open(filepath.Join(data, "tokenbroker.db"), bolt.Options{})
	must(err)
	keys, err := store.LoadKeyring(context.Background(), r.db, filepath.Join(data, "key.json"))
	must(err)
	var backend store.Backend = r.db
	if o.before != nil {
		backend = o.before(backend)
	}
	st, err := store.New(backend, keys, store.Options{})
	must(err)
	level := slog.LevelDebug
	r.overheard = o.overheard
	if o.quiet {
		level = slog.LevelInfo
	}
	log := slog.New(slog.NewJSONHandler(r.log, &slog.HandlerOptions{Level: level}))
	r.metrics = server.NewMetrics()
	var upstream broker.Upstream = r.catalog
	if o.around != nil {
		upstream = o.around(upstream)
	}
	var doors []server.Door
	var authorizer broker.Authorizer = broker.LocalOnly{}
	if o.doors != nil {
		doors, authorizer = o.doors(r)
	}
	r.broker, err = engine.New(engine.Settings{
		Upstream: upstream, Store: st, Authorizer: authorizer, Render: server.Render, Log: log, Observer: r.metrics, Tracer: o.tracer, ExchangeTimeout: o.timeout,
	})
	must(err)
	r.server, err = server.New(server.Settings{
		Broker: r.broker, Providers: catalogview.New(r.catalog), Authorizer: authorizer, Doors: doors, Log: log, Metrics: r.metrics, Tracer: o.tracer,
	})
	must(err)
	for _, d := range doors {
		at := "127.0.0.1:0"
		if was := r.doors[d.Name]; was != "" {
			at = was
		}
		l, err := net.Listen("tcp", at)
		must(err)
		r.doors[d.Name] = l.Addr().String()
		r.serving.Go(func() {
			if err := r.server.ServeDoor(d.Name, l); err != nil {
				t.Error(err)
			}
		})
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	r.addr = l.Addr().String()
	r.serving.Go(func() {
		if err := r.server.Serve(l); err != nil {
			t.Error(err)
		}
	})
	r.conn = r.dial()
	r.tokens = tokenbrokerv1.NewTokenBrokerServiceClient(r.conn)
	r.credentials = tokenbrokerv1.NewCredentialServiceClient(r.conn)
	r.providers = tokenbrokerv1.NewProviderServiceClient(r.conn)
}

func (r *rig) stop() {
	r.t.Helper()
	_ = r.conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := r.server.Stop(ctx, 0); err != nil {
		r.t.Error(err)
	}
	r.serving.Wait()
	if err := r.db.Close(); err != nil {
		r.t.Error(err)
	}
	r.tr.Close()
}

// dial makes a connection of its own.
func (r *rig) dial() *grpc.ClientConn {
	r.t.Helper()
	opts := []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}
	if r.overheard {
		opts = append(opts, grpc.WithUnaryInterceptor(r.hear), grpc.WithStreamInterceptor(r.hearStream))
	}
	c, err := grpc.NewClient("passthrough:///"+r.addr, opts...)
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

// shortLife is of tokens whose renewal or end a test waits for. A machine that is busy with other tests has a fifth of it for the one before the other.
const shortLife = 20 * time.Second

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// account is the system's default account in the simulator.
func (r *rig) account(system upstreamsim.System) upstreamsim.Account {
	r.t.Helper()
	a, err := r.sim.Default(system)
	if err != nil {
		r.t.Fatal(err)
	}
	return a
}

// create stores a credential for an account, named after its system.
func (r *rig) create(name string, a upstreamsim.Account) *tokenbrokerv1.Credential {
	r.t.Helper()
	res, err := r.credentials.CreateCredential(testContext(r.t), &tokenbrokerv1.CreateCredentialRequest{
		Credential: &tokenbrokerv1.Credential{Name: name, Provider: string(a.System), Inputs: a.Inputs}, Secrets: a.Secrets,
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return res.GetCredential()
}

// get asks for a token over gRPC.
func (r *rig) get(name string, scopes ...string) (*tokenbrokerv1.Token, error) {
	res, err := r.tokens.GetToken(testContext(r.t), &tokenbrokerv1.GetTokenRequest{Credential: name, Scopes: scopes})
	return res.GetToken(), err
}

func (r *rig) mustGet(name string, scopes ...string) *tokenbrokerv1.Token {
	r.t.Helper()
	tok, err := r.get(name, scopes...)
	if err != nil {
		r.t.Fatal(err)
	}
	return tok
}

// works shows the token to the account's API as the broker says, and returns the status.
func (r *rig) works(a upstreamsim.Account, tok *tokenbrokerv1.Token) int {
	r.t.Helper()
	status, err := r.client.Show(testContext(r.t), a, tok)
	if err != nil {
		r.t.Fatal(err)
	}
	return status
}
