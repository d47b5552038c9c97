package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	collectorv1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"

	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/internal/devcerts"
	"github.com/tokenbroker/tokenbroker/internal/leaktest"
	"github.com/tokenbroker/tokenbroker/internal/redistest"
)

// A collector is a double of one that speaks OTLP over gRPC: it takes what the protocol allows, and refuses a span that lacks what it has to have.
type collector struct {
	collectorv1.UnimplementedTraceServiceServer
	address, ca string

	mu      sync.Mutex
	spans   []*tracev1.Span
	from    map[string]bool // services, by their name
	raw     []byte
	changed chan struct{}
}

// startCollector answers over TLS.
func startCollector(t *testing.T) *collector {
	t.Helper()
	authority, err := devcerts.NewAuthority("collectors", "", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := authority.Issue(time.Hour, devcerts.Loopback)
	if err != nil {
		t.Fatal(err)
	}
	own, err := tls.X509KeyPair(pair.Certificate, pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	c := &collector{ca: filepath.Join(shortDir(t), "ca.pem"), from: map[string]bool{}, changed: make(chan struct{})}
	if err := os.WriteFile(c.ca, authority.PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c.address = l.Addr().String()
	server := grpc.NewServer(grpc.Creds(credentials.NewServerTLSFromCert(&own)))
	collectorv1.RegisterTraceServiceServer(server, c)
	go func() { _ = server.Serve(l) }() // it ends with the test
	t.Cleanup(server.Stop)
	return c
}

// Export implements collectorv1.TraceServiceServer.
func (c *collector) Export(_ context.Context, r *collectorv1.ExportTraceServiceRequest) (*collectorv1.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.raw = append(c.raw, prototext.Format(r)...)
	refused := int64(0)
	for _, of := range r.GetResourceSpans() {
		for _, a := range of.GetResource().GetAttributes() {
			if a.GetKey() == "service.name" {
				c.from[a.GetValue().GetStringValue()] = true
			}
		}
		for _, scope := range of.GetScopeSpans() {
			for _, s := range scope.GetSpans() {
				if len(s.GetTraceId()) != 16 || len(s.GetSpanId()) != 8 || s.GetName() == "" || s.GetEndTimeUnixNano() < s.GetStartTimeUnixNano() {
					refused++
					continue
				}
				c.spans = append(c.spans, s)
			}
		}
	}
	close(c.changed)
	c.changed = make(chan struct{})
	return &collectorv1.ExportTraceServiceResponse{PartialSuccess: &collectorv1.ExportTracePartialSuccess{RejectedSpans: refused}}, nil
}

// wait waits until there are as many steps of a name.
func (c *collector) wait(t *testing.T, name string, n int) []*tracev1.Span {
	t.Helper()
	stuck := time.NewTimer(patience)
	defer stuck.Stop()
	for {
		c.mu.Lock()
		var found []*tracev1.Span
		for _, s := range c.spans {
			if s.GetName() == name {
				found = append(found, s)
			}
		}
		changed := c.changed
		c.mu.Unlock()
		if len(found) >= n {
			return found
		}
		select {
		case <-changed:
		case <-stuck.C:
			t.Fatalf("%d steps are called %s, want %d", len(found), name, n)
		}
	}
}

// all are the steps that have come, by their ids.
func (c *collector) all() map[string]*tracev1.Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := map[string]*tracev1.Span{}
	for _, s := range c.spans {
		out[string(s.GetSpanId())] = s
	}
	return out
}

const getToken = "tokenbroker.v1.TokenBrokerService/GetToken"

// TestTracesArriveWhole: of callers of two brokers on a Redis who ask for a token that nobody has, all of whom record what they do. What their broker did for each arrives, from the call to
// the upstream, below the step that the caller named; the flight that they share is named by all who wait for it; and nothing secret is in it.
func TestTracesArriveWhole(t *testing.T) {
	t.Parallel()
	u := startUpstream(t)
	r := redistest.Start(t, redistest.Options{})
	to := startCollector(t)
	key := filepath.Join(shortDir(t), "key.json")
	ports, err := freePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	metrics := "127.0.0.1:" + ports[0]
	traced := []string{"--traces-collector", "https://" + to.address, "--traces-ca-file", to.ca, "--traces-sample", "0"}
	brokers := []*served{
		u.replica(key, r.URL(), append(traced, "--metrics-listen", metrics)...),
		u.replica(key, r.URL(), traced...),
	}
	brokers[0].apply(u)

	u.control(http.MethodPost, "/fault?kind=hang&count=1&system=ochno-operated")
	const callers = 10 // of each broker
	var all sync.WaitGroup
	var token, id string
	var mu sync.Mutex
	for b, s := range brokers {
		conn, err := grpc.NewClient(s.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		tokens := tokenbrokerv1.NewTokenBrokerServiceClient(conn)
		for i := range callers {
			all.Go(func() {
				ctx := metadata.AppendToOutgoingContext(t.Context(), "traceparent", parentOf(b*callers+i, true), "tracestate", "vendor="+strings.Repeat("x", 200))
				res, err := tokens.GetToken(ctx, &tokenbrokerv1.GetTokenRequest{Credential: ochno})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				token, id = res.GetToken().GetAccessToken(), res.GetToken().GetTokenId()
				mu.Unlock()
			})
		}
	}
	waitWaiters(t, metrics, callers)
	u.control(http.MethodPost, "/clear")
	all.Wait()
	if token == "" {
		t.Fatal("nobody got a token")
	}

	calls := to.wait(t, getToken, 2*callers)
	to.wait(t, "flight", 2)
	waits := to.wait(t, "await flight", 2*callers)
	spans := to.all()
	name := func(s *tracev1.Span) (above []string) {
		for at := s; at != nil; at = spans[string(at.GetParentSpanId())] {
			above = append(above, at.GetName())
		}
		return above
	}
	for _, s := range calls {
		if n := int(s.GetTraceId()[15]); len(calls) != 2*callers || string(s.GetParentSpanId()) != string(spanOf(n)) || s.GetKind() != tracev1.Span_SPAN_KIND_SERVER {
			t.Errorf("a call of trace %x is below %x and of kind %s", s.GetTraceId(), s.GetParentSpanId(), s.GetKind())
		}
	}
	for _, s := range waits {
		if l := s.GetLinks(); len(l) != 1 || spans[string(l[0].GetSpanId())].GetName() != "flight" || string(spans[string(l[0].GetSpanId())].GetTraceId()) != string(l[0].GetTraceId()) {
			t.Errorf("somebody waits for %v, want a flight that has arrived", l)
		}
	}
	var lines []string
	for _, s := range spans {
		if s.GetTraceState() != "" {
			t.Errorf("%s keeps a text of its caller's: %s", s.GetName(), s.GetTraceState())
		}
		above := name(s)
		if above[len(above)-1] != getToken {
			t.Errorf("%v is not below a call", above)
		}
		lines = append(lines, strings.Join(above, " < "))
	}
	is := strings.Join(lines, "\n") + "\n"
	for _, want := range []string{
		"POST < obtain < flight < " + getToken, "store apply < acquire lease < flight < " + getToken, "store apply < commit < flight < " + getToken,
		"store read < flight < " + getToken, "await upstream < flight < " + getToken, "await lease < flight < " + getToken,
	} {
		if !strings.Contains(is, want+"\n") {
			t.Errorf("there is no %s in\n%s", want, is)
		}
	}
	if n := strings.Count(is, "POST < "); n != 1 {
		t.Errorf("the upstream was asked in %d steps, want 1", n)
	}

	// A call that nobody records is none of a trace, one that is refused says why, and the log and the metrics name the traces of what they are about.
	conn, err := grpc.NewClient(brokers[0].address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	tokens := tokenbrokerv1.NewTokenBrokerServiceClient(conn)
	ask := func(n int, recorded bool, name string) {
		ctx := metadata.AppendToOutgoingContext(t.Context(), "traceparent", parentOf(n, recorded))
		_, err := tokens.GetToken(ctx, &tokenbrokerv1.GetTokenRequest{Credential: name})
		if (err == nil) != (name == ochno) {
			t.Errorf("%s: %v", name, err)
		}
	}
	ask(100, false, ochno)
	ask(101, true, "nobody")
	ask(102, true, ochno)
	to.wait(t, getToken, 2*callers+2)
	for _, s := range to.all() {
		switch s.GetTraceId()[15] {
		case 100:
			t.Errorf("%s is recorded, and its caller records nothing", s.GetName())
		case 101:
			if s.GetName() == getToken && (!strings.Contains(fmt.Sprint(s.GetAttributes()), "not_found") || s.GetStatus().GetCode() == tracev1.Status_STATUS_CODE_ERROR) {
				t.Errorf("a credential that is not there: got %v, and status %v", s.GetAttributes(), s.GetStatus())
			}
		}
	}
	brokers[0].waitFor(`"call refused".*"trace_id":"` + traceOf(101))
	if got := openMetrics(t, metrics); !regexp.MustCompile(`tokenbroker_rpc_seconds_bucket\{.*GetToken.*\} \d+ # \{trace_id="[0-9a-f]{32}"\}`).MatchString(got) {
		t.Error("no call's time names a trace")
	}

	for _, s := range brokers {
		s.signal(syscall.SIGTERM)
		if code := s.code(); code != 0 {
			t.Errorf("a broker has ended with %d", code)
		}
	}
	to.mu.Lock()
	defer to.mu.Unlock()
	if !to.from["tokenbroker"] || len(to.from) != 1 {
		t.Errorf("they come from %v", to.from)
	}
	keyFile, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	secrets := append([]string{token, firstGroup(t.Fatalf, `"value": ?"([^"]{20,})"`, string(keyFile))}, planted(t, u)...)
	if found := leaktest.Find(to.raw, secrets); len(found) > 0 {
		t.Errorf("in the traces: %v", found)
	}
	if !strings.Contains(string(to.raw), ochno) || id == "" {
		t.Error("nothing says which credential it is about")
	}
}

// TestACollectorThatIsAway keeps nobody waiting: calls are answered, it is said once, and the broker stops.
func TestACollectorThatIsAway(t *testing.T) {
	t.Parallel()
	u := startUpstream(t)
	ports, err := freePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	s := u.serve("--data-dir", shortDir(t), "--traces-collector", "http://127.0.0.1:"+ports[0], "--traces-sample", "1")
	s.apply(u)
	s.token()
	s.waitFor(`traces do not get to the collector`)
	if _, id := s.token(); id == "" {
		t.Error("no token")
	}
	s.signal(syscall.SIGTERM)
	if code := s.code(); code != 0 {
		t.Errorf("it has ended with %d", code)
	}
	if n := strings.Count(s.output(), "traces do not get to the collector"); n != 1 {
		t.Errorf("it was said %d times", n)
	}
}

// A rude collector refuses everything, at length.
type rude struct {
	collectorv1.UnimplementedTraceServiceServer
	says string
}

func (r rude) Export(context.Context, *collectorv1.ExportTraceServiceRequest) (*collectorv1.ExportTraceServiceResponse, error) {
	return nil, status.Error(codes.InvalidArgument, r.says)
}

// TestACollectorThatSaysMuch fills neither the log nor memory.
func TestACollectorThatSaysMuch(t *testing.T) {
	t.Parallel()
	u := startUpstream(t)
	for _, long := range []int{8 << 10, 2 << 20} { // what is taken in, and what is not
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		server := grpc.NewServer()
		collectorv1.RegisterTraceServiceServer(server, rude{says: strings.Repeat("\x01", long)})
		go func() { _ = server.Serve(l) }() // it ends with the test
		t.Cleanup(server.Stop)
		s := u.serve("--data-dir", shortDir(t), "--traces-collector", "http://"+l.Addr().String(), "--traces-sample", "1")
		s.apply(u)
		s.token()
		s.waitFor(`traces do not get to the collector`)
		s.signal(syscall.SIGTERM)
		if code := s.code(); code != 0 {
			t.Errorf("it has ended with %d", code)
		}
		for line := range strings.Lines(s.output()) {
			if len(line) > 4<<10 {
				t.Errorf("a line of the log has %d bytes: %.300s", len(line), line)
			}
		}
	}
}

func traceOf(n int) string { return fmt.Sprintf("0af7651916cd43dd8448eb211c80%04x", n) }

func spanOf(n int) []byte { return []byte{0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, byte(n >> 8), byte(n)} }

// parentOf is the traceparent of a caller (W3C Trace Context).
func parentOf(n int, recorded bool) string {
	flags := "00"
	if recorded {
		flags = "01"
	}
	return fmt.Sprintf("00-%s-%x-%s", traceOf(n), spanOf(n), flags)
}

// planted are the secrets of the demo's credentials.
func planted(t *testing.T, u *upstream) (out []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(u.dir, "secrets", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if s := strings.TrimSpace(string(text)); len(s) >= 8 {
			out = append(out, s)
		}
	}
	if len(out) == 0 {
		t.Fatal("the demo has no secrets")
	}
	return out
}

// openMetrics are the metrics of a broker in OpenMetrics, which names traces.
func openMetrics(t *testing.T, address string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "application/openmetrics-text; version=1.0.0")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// waitWaiters waits until so many callers wait for a token.
func waitWaiters(t *testing.T, metrics string, n int) {
	t.Helper()
	stuck := time.NewTimer(patience)
	defer stuck.Stop()
	for !strings.Contains(openMetrics(t, metrics), fmt.Sprintf("\ntokenbroker_token_waiters %d", n)) {
		select {
		case <-time.After(20 * time.Millisecond):
		case <-stuck.C:
			t.Fatalf("there are not %d who wait", n)
		}
	}
}
