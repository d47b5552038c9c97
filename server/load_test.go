package server_test

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	protocodec "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/tokenbroker/tokenbroker/broker"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/internal/heapfloor"
	"github.com/tokenbroker/tokenbroker/server"
)

// The load test holds GetToken against methods that do nothing. One child process has the servers, one per variant, so that
// they share one heap and one collector, which is set as `serve` sets it where there is memory enough; another has those that
// stand for Go's own settings. This process asks them in turn. Only `make bench` runs it.
var (
	loadRounds  = flag.Int("load.rounds", 0, "measure throughput in so many rounds (0: not at all)")
	loadTime    = flag.Duration("load.time", 400*time.Millisecond, "how long each variant is asked in each round")
	loadCallers = flag.Int("load.callers", 64, "how many ask at a time")
	loadProfile = flag.String("load.profile", "", "ask only the variant whose name contains this, and write server.pprof")
)

const (
	loadServerEnv = "TOKENBROKER_TEST_LOAD_SERVER"
	loadConns     = 4
	// asServed and asGoDoes are the children, by how their collector is set.
	asServed = "as served"
	asGoDoes = "as Go does"
	// asBeyond is as asServed, for callers of other machines.
	asBeyond = "as served, beyond loopback"
	// asGoBeyond is as asGoDoes, for those.
	asGoBeyond = "as Go does, beyond loopback"
)

// A variant is a server to ask. Its answer must have as many bytes as the others' have.
type variant struct {
	name   string
	method string
	// start makes the server; answer is the real one. The stand has the credential "main", whose token is in the cache.
	start func(s *stand, answer *tokenbrokerv1.GetTokenResponse) answering
	// child is the process that it is in; empty: asServed.
	child string
	// shows is what callers show, over TLS; empty: nothing, in the clear.
	shows string
}

// answering is a *grpc.Server, or what is as one.
type answering interface {
	Serve(net.Listener) error
	Stop()
}

const (
	plainNoop = "no-op"
	newNoop   = "no-op, gRPC's own settings"
	goNoop    = "no-op, gRPC's and Go's own settings"
	readyNoop = "no-op, ready bytes"
	fullHit   = "GetToken"
	bareHit   = "GetToken, no interceptors"
	slowHit   = "GetToken, default codec"
)

// variants are what is compared: add yours here. The child starts them all, and each round asks each of them once.
var variants = []variant{
	{name: plainNoop, method: noopMethod, start: func(_ *stand, answer *tokenbrokerv1.GetTokenResponse) answering {
		return noopServer(answer)
	}},
	{name: newNoop, method: noopMethod, start: defaultNoop},
	{name: goNoop, method: noopMethod, start: defaultNoop, child: asGoDoes},
	{name: readyNoop, method: noopMethod, start: func(_ *stand, answer *tokenbrokerv1.GetTokenResponse) answering {
		b, err := proto.Marshal(answer)
		if err != nil {
			panic(err)
		}
		return noopServer(b, grpc.ForceServerCodecV2(readyBytes{encoding.GetCodecV2(protocodec.Name)}))
	}},
	{name: fullHit, method: tokenbrokerv1.TokenBrokerService_GetToken_FullMethodName}, // the stand's own
	{name: bareHit, method: tokenbrokerv1.TokenBrokerService_GetToken_FullMethodName, start: func(s *stand, _ *tokenbrokerv1.GetTokenResponse) answering {
		return server.Bare(s.broker)
	}},
	{name: slowHit, method: tokenbrokerv1.TokenBrokerService_GetToken_FullMethodName, start: func(s *stand, _ *tokenbrokerv1.GetTokenResponse) answering {
		srv, err := server.DefaultCodec(server.Settings{Broker: s.broker, Providers: s.upstream, Authorizer: broker.LocalOnly{}, Metrics: s.metrics})
		if err != nil {
			panic(err)
		}
		return srv
	}},
	{name: readEach, method: tokenbrokerv1.TokenBrokerService_GetToken_FullMethodName, start: readingServer},
}

// compared are pairs of variants whose ratios are shown.
var compared = [][2]string{{fullHit, plainNoop}, {fullHit, readyNoop}, {fullHit, newNoop}, {fullHit, goNoop}, {bareHit, readyNoop}, {slowHit, plainNoop}, {readyNoop, plainNoop}, {fullHit, readEach}}

// noopServer has the connections and workers of the broker's, and neither interceptors nor limits.
func noopServer(answer any, o ...grpc.ServerOption) *grpc.Server {
	srv := grpc.NewServer(append(server.TransportOptions(server.Settings{}), o...)...)
	srv.RegisterService(noop(answer), struct{}{})
	return srv
}

// defaultNoop has gRPC's own settings.
func defaultNoop(_ *stand, answer *tokenbrokerv1.GetTokenResponse) answering {
	srv := grpc.NewServer()
	srv.RegisterService(noop(answer), struct{}{})
	return srv
}

// readyBytes sends []byte as it is.
type readyBytes struct{ encoding.CodecV2 }

func (c readyBytes) Marshal(v any) (mem.BufferSlice, error) {
	if b, ok := v.([]byte); ok {
		return mem.BufferSlice{mem.SliceBuffer(b)}, nil
	}
	return c.CodecV2.Marshal(v)
}

// untouched is the load generator's codec: requests are ready, and answers are counted, not read, so that the processors are
// the servers' as far as possible.
type untouched struct{}

func (untouched) Name() string { return protocodec.Name }
func (untouched) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}

func (untouched) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*int) = data.Len()
	return nil
}

// loadServer is what the child says of itself.
type loadServer struct {
	Addrs  []string // one for each variant; empty: that is not in this child
	Answer []byte
	// Proofs are what callers show, where there is TLS.
	Proofs *proofs
}

// TestLoadServer is the child: it says where its servers listen, and then for each line that it reads how much processor time
// it has used so far.
func TestLoadServer(t *testing.T) {
	child := os.Getenv(loadServerEnv)
	switch child {
	case "":
		t.Skip("is the load test's child")
	case asServed, asBeyond:
		defer heapfloor.Keep(heapfloor.Full)()
	}
	out := json.NewEncoder(os.NewFile(3, "parent"))
	s := newStand(t)
	if child == asBeyond || child == asGoBeyond {
		s.beyond = newProofs(t)
	}
	answer := s.get()
	wire, err := proto.Marshal(answer)
	if err != nil {
		t.Fatal(err)
	}
	said := loadServer{Answer: wire, Proofs: s.beyond}
	var serving sync.WaitGroup
	var stop []func()
	for _, v := range everyVariant() {
		if orServed(v.child) != child {
			said.Addrs = append(said.Addrs, "")
			continue
		}
		if v.start == nil {
			said.Addrs = append(said.Addrs, s.addr)
			continue
		}
		srv := v.start(s, answer)
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		said.Addrs = append(said.Addrs, l.Addr().String())
		serving.Go(func() {
			if err := srv.Serve(l); err != nil {
				t.Error(err)
			}
		})
		stop = append(stop, srv.Stop)
	}
	if err := out.Encode(said); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		if err := out.Encode(processorTime(t)); err != nil {
			t.Fatal(err)
		}
	}
	for _, end := range stop {
		end()
	}
	serving.Wait()
	if n := s.upstream.exchanges.Load(); n != 1 {
		t.Errorf("got %d exchanges, want 1: not all were hits", n)
	}
}

// processorTime is what this process has used, in user and system.
func processorTime(t *testing.T) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// A round is what one variant did in one round.
type round struct {
	perSecond, cpu float64 // calls; µs of the server's processors per call
	p50, p99       time.Duration
}

// TestLoad prints a table. It asserts nothing on time.
func TestLoad(t *testing.T) { load(t, variants, compared, asServed, asGoDoes) }

// everyVariant are those of all tables.
func everyVariant() []variant { return slices.Concat(variants, beyondLoopback) }

// load asks variants, which are in these children.
func load(t *testing.T, asked []variant, compared [][2]string, in ...string) {
	if *loadRounds <= 0 {
		t.Skip("measures: make bench")
	}
	defer debug.SetGCPercent(debug.SetGCPercent(800)) // the generator's own collections are not what is measured
	children := map[string]*runningLoadServer{}
	for _, as := range in {
		children[as] = startLoadServer(t, as)
	}
	var conns [][]*grpc.ClientConn
	for _, v := range asked {
		child := children[orServed(v.child)]
		addr := child.Addrs[slices.IndexFunc(everyVariant(), func(of variant) bool { return of.name == v.name })]
		var c []*grpc.ClientConn
		for range loadConns {
			conn, err := grpc.NewClient("passthrough:///"+addr, append(child.Proofs.shown(t, v.shows), grpc.WithDefaultCallOptions(grpc.ForceCodecV2(untouched{})))...)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			c = append(c, conn)
		}
		conns = append(conns, c)
	}
	for i := range asked { // once round to get warm
		children[orServed(asked[i].child)].round(t, asked[i], conns[i], *loadTime)
	}
	took := make([][]round, len(asked))
	for n := range *loadRounds {
		for j := range asked {
			i := (n + j) % len(asked) // each begins a round at some time
			if *loadProfile != "" && !strings.Contains(asked[i].name, *loadProfile) {
				continue
			}
			took[i] = append(took[i], children[orServed(asked[i].child)].round(t, asked[i], conns[i], *loadTime))
		}
	}
	printLoad(t, asked, compared, took, len(children[in[0]].Answer))
}

func orServed(child string) string { return cmp.Or(child, asServed) }

// startLoadServer starts a child, which ends with the test.
func startLoadServer(t *testing.T, as string) *runningLoadServer {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	from, to, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"-test.run=^TestLoadServer$"}
	if *loadProfile != "" && as != asGoDoes && as != asGoBeyond {
		args = append(args, "-test.cpuprofile=server.pprof", "-test.memprofile=server.mem.pprof", "-test.memprofilerate=65536")
	}
	cmd := exec.Command(exe, args...)
	cmd.Env = append(os.Environ(), loadServerEnv+"="+as)
	cmd.ExtraFiles = []*os.File{to}
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = to.Close()
	t.Cleanup(func() {
		_ = stdin.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the server: %v\n%s", err, said.Bytes())
		}
		_ = from.Close()
	})
	child := &runningLoadServer{ask: func() { fmt.Fprintln(stdin) }, answers: json.NewDecoder(from)}
	if err := child.answers.Decode(&child.loadServer); err != nil {
		t.Fatal(err)
	}
	return child
}

type runningLoadServer struct {
	loadServer
	ask     func()
	answers *json.Decoder
}

func (s *runningLoadServer) processorTime(t *testing.T) (d time.Duration) {
	s.ask()
	if err := s.answers.Decode(&d); err != nil {
		t.Fatal(err)
	}
	return d
}

// round asks for so long: each caller asks again as soon as it has its answer.
func (s *runningLoadServer) round(t *testing.T, v variant, conns []*grpc.ClientConn, last time.Duration) round {
	req, err := proto.Marshal(&get{Credential: "main"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // callers have deadlines
	defer cancel()
	if v.shows == showsToken {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+s.Proofs.Token)
	}
	waits := make([][]time.Duration, *loadCallers)
	runtime.GC()
	used := s.processorTime(t)
	began := time.Now()
	until := began.Add(last)
	var callers sync.WaitGroup
	for i := range waits {
		callers.Go(func() {
			conn, got, mine := conns[i%len(conns)], 0, make([]time.Duration, 0, 1<<12)
			for now := time.Now(); now.Before(until); {
				if err := conn.Invoke(ctx, v.method, req, &got); err != nil || max(got, len(s.Answer))-min(got, len(s.Answer)) > 4 { // a broker of its own has times of its own, of which some are shorter
					t.Errorf("got %d bytes, %v; want %d", got, err, len(s.Answer))
					break
				}
				then := time.Now()
				mine = append(mine, then.Sub(now))
				now = then
			}
			waits[i] = mine
		})
	}
	callers.Wait()
	took := time.Since(began)
	used = s.processorTime(t) - used
	all := slices.Concat(waits...)
	if len(all) == 0 {
		t.Fatal("nothing was answered")
	}
	slices.Sort(all)
	return round{
		perSecond: float64(len(all)) / took.Seconds(), cpu: used.Seconds() * 1e6 / float64(len(all)),
		p50: all[len(all)/2], p99: all[len(all)*99/100],
	}
}

func printLoad(t *testing.T, asked []variant, compared [][2]string, took [][]round, size int) {
	variantNamed := func(name string) int {
		return slices.IndexFunc(asked, func(v variant) bool { return v.name == name })
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "%d callers on %d connections, answers of %d bytes, medians of %d rounds of %v\n\n", *loadCallers, loadConns, size, *loadRounds, *loadTime)
	fmt.Fprintln(w, "variant\tcalls/s\tµs a call\tp50 ms\tp99 ms\tserver µs a call\t")
	for i, v := range asked {
		if len(took[i]) == 0 {
			continue
		}
		perSecond := median(took[i], func(r round) float64 { return r.perSecond })
		fmt.Fprintf(w, "%s\t%.0f\t%.1f\t%.2f\t%.2f\t%.1f\t\n", v.name, perSecond, 1e6/perSecond,
			median(took[i], func(r round) float64 { return r.p50.Seconds() * 1e3 }), median(took[i], func(r round) float64 { return r.p99.Seconds() * 1e3 }),
			median(took[i], func(r round) float64 { return r.cpu }))
	}
	fmt.Fprintln(w, "\nratio, round by round\tthroughput\tof rounds\tserver CPU\tof rounds\tp99\tof rounds\t")
	for _, c := range compared {
		a, b := took[variantNamed(c[0])], took[variantNamed(c[1])]
		if len(a) == 0 || len(b) == 0 {
			continue
		}
		fmt.Fprintf(w, "%s : %s\t", c[0], c[1])
		for _, figure := range []func(round) float64{
			func(r round) float64 { return r.perSecond }, func(r round) float64 { return r.cpu }, func(r round) float64 { return r.p99.Seconds() },
		} {
			var ratios []float64
			for i := range a {
				ratios = append(ratios, figure(a[i])/figure(b[i]))
			}
			fmt.Fprintf(w, "%.3f\t%.2f-%.2f\t", median(ratios, func(x float64) float64 { return x }), slices.Min(ratios), slices.Max(ratios))
		}
		fmt.Fprintln(w)
	}
	if err := w.Flush(); err != nil {
		t.Error(err)
	}
}

func median[T any](of []T, value func(T) float64) float64 {
	var v []float64
	for _, x := range of {
		v = append(v, value(x))
	}
	slices.Sort(v)
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}
