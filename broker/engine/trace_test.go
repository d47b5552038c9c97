package engine_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	otel "go.opentelemetry.io/otel/trace"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
	"github.com/tokenbroker/tokenbroker/broker/trace"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/storetest"
)

// A collector has the traces of all that a test does.
type collector struct {
	*tracetest.SpanRecorder
	provider *sdk.TracerProvider
}

func newCollector() *collector {
	r := tracetest.NewSpanRecorder()
	return &collector{r, sdk.NewTracerProvider(sdk.WithSpanProcessor(r))}
}

func (c *collector) settings(s *engine.Settings) { s.Tracer = trace.New(c.provider) }

// call is the context of a call of its own trace, and ends it.
func (c *collector) call() (context.Context, func()) {
	ctx, span := c.provider.Tracer("test").Start(context.Background(), "call")
	return ctx, func() { span.End() }
}

// trees are the traces, as text: a step in a line, below the one that it belongs to, in the order in which they began. Of a step that failed it says how.
func (c *collector) trees() []string {
	below := map[otel.SpanID][]sdk.ReadOnlySpan{}
	for _, s := range c.Ended() {
		below[s.Parent().SpanID()] = append(below[s.Parent().SpanID()], s)
	}
	var write func(b *strings.Builder, s sdk.ReadOnlySpan, depth int)
	write = func(b *strings.Builder, s sdk.ReadOnlySpan, depth int) {
		how := ""
		for _, a := range s.Attributes() {
			if a.Key == "tokenbroker.outcome" {
				how = ": " + a.Value.AsString()
			}
		}
		fmt.Fprintf(b, "%s%s%s\n", strings.Repeat("  ", depth), s.Name(), how)
		for _, child := range inOrder(below[s.SpanContext().SpanID()]) {
			write(b, child, depth+1)
		}
	}
	var out []string
	for _, s := range inOrder(below[otel.SpanID{}]) {
		var b strings.Builder
		write(&b, s, 0)
		out = append(out, b.String())
	}
	return out
}

func inOrder(all []sdk.ReadOnlySpan) []sdk.ReadOnlySpan {
	slices.SortStableFunc(all, func(a, b sdk.ReadOnlySpan) int { return a.StartTime().Compare(b.StartTime()) })
	return all
}

func (c *collector) named(name string) (all []sdk.ReadOnlySpan) {
	for _, s := range c.Ended() {
		if s.Name() == name {
			all = append(all, s)
		}
	}
	return all
}

// taking has an upstream take so long for each answer.
func taking(d time.Duration, next func(context.Context, broker.Exchange) (broker.Answer, error)) func(context.Context, broker.Exchange) (broker.Answer, error) {
	return func(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
		sleep(d)
		return next(ctx, x)
	}
}

// TestATraceShowsWhatAMissConsistsOf, whose flight is a part of the call that started it, and nothing of a hit.
func TestATraceShowsWhatAMissConsistsOf(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCollector()
		w := newWorld(t, &upstream{answer: taking(time.Second, issues(time.Hour))}, c.settings)
		w.create("main", nil)
		w.backend.Set(storetest.Hooks{
			AfterRead:  func(context.Context) { sleep(time.Millisecond) },
			AfterApply: func(context.Context, store.Batch) error { sleep(time.Millisecond); return nil },
		})
		ctx, end := c.call()
		if _, err := w.Token(ctx, local, engine.Request{Credential: "main"}); err != nil {
			t.Fatal(err)
		}
		end()
		const want = `call
  flight
    store read
    store read
    await upstream
    acquire lease
      store apply
    obtain
    commit
      store apply
  await flight
`
		if diff := cmp.Diff([]string{want}, c.trees()); diff != "" {
			t.Errorf("a miss (-want +got):\n%s", diff)
		}
		f := c.named("flight")[0]
		said := fmt.Sprint(f.Attributes())
		for _, want := range []string{"tokenbroker.credential", "main", "tokenbroker.provider", "scripted"} {
			if !strings.Contains(said, want) {
				t.Errorf("the flight says %s, want %s in it", said, want)
			}
		}
		c.Reset()
		ctx, end = c.call()
		if _, err := w.Token(ctx, local, engine.Request{Credential: "main"}); err != nil {
			t.Fatal(err)
		}
		end()
		if diff := cmp.Diff([]string{"call\n"}, c.trees()); diff != "" {
			t.Errorf("a hit (-want +got):\n%s", diff)
		}
	})
}

// TestWhoWaitsForAFlightOfAnotherTraceNamesIt: all three of one broker, and the one of another broker waits for the lease.
func TestWhoWaitsForAFlightOfAnotherTraceNamesIt(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCollector()
		up := &upstream{answer: taking(time.Second, issues(time.Hour))}
		brokers := newReplicas(t, 2, up, c.settings)
		brokers[0].create("main", nil)
		var all sync.WaitGroup
		for i, on := range []int{0, 0, 0, 1} {
			all.Go(func() {
				sleep(time.Duration(i+1) * time.Millisecond)
				ctx, end := c.call()
				defer end()
				if _, err := brokers[on].Token(ctx, local, engine.Request{Credential: "main"}); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		brokers[0].wantExchanges(1)
		flights, waits := c.named("flight"), c.named("await flight")
		if len(flights) != 2 || len(waits) != 4 {
			t.Fatalf("got %d flights and %d that wait for one:\n%s", len(flights), len(waits), strings.Join(c.trees(), "\n"))
		}
		of := map[otel.SpanID]int{}
		for _, w := range waits {
			if len(w.Links()) != 1 {
				t.Fatalf("who waits names %d steps", len(w.Links()))
			}
			of[w.Links()[0].SpanContext.SpanID()]++
		}
		first, second := inOrder(flights)[0], inOrder(flights)[1]
		if of[first.SpanContext().SpanID()] != 3 || of[second.SpanContext().SpanID()] != 1 {
			t.Errorf("they wait for %v, want three for the first flight, and one for the other", of)
		}
		if traces := c.trees(); len(traces) != 4 || !strings.Contains(traces[3], "    await lease\n") || strings.Contains(traces[3], "obtain") {
			t.Errorf("the other broker waits for the lease, and asks nobody:\n%s", strings.Join(traces, "\n"))
		}
	})
}

// TestWhatNobodyAskedForIsATraceOfItsOwn: the refresh of a token before it ends.
func TestWhatNobodyAskedForIsATraceOfItsOwn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCollector()
		up := &upstream{answer: taking(time.Second, issues(time.Hour))}
		w := newWorld(t, up, c.settings)
		w.create("main", nil)
		w.mustGet("main")
		c.Reset()
		sleep(59*time.Minute + 30*time.Second)
		ctx, end := c.call()
		if _, err := w.Token(ctx, local, engine.Request{Credential: "main"}); err != nil {
			t.Fatal(err)
		}
		end()
		sleep(time.Minute)
		w.wantExchanges(2)
		got := c.trees()
		if len(got) != 2 || !slices.Contains(got, "call\n") || !slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, "flight\n") && strings.Contains(s, "  obtain\n") }) {
			t.Errorf("got %q, want a call with nothing in it, and a flight by itself", got)
		}
	})
}

// TestATraceSaysHowItEnded, by the names of our failures and by nothing that an upstream has written; and what goes on after the call belongs to it.
func TestATraceSaysHowItEnded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCollector()
		up := &upstream{answer: func(context.Context, broker.Exchange) (broker.Answer, error) {
			sleep(time.Second)
			return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelCredential, Status: 401, Code: "invalid_client", Detail: "what it wrote", InvalidClient: true}
		}}
		w := newWorld(t, up, c.settings)
		w.create("main", nil)
		ctx, end := c.call()
		if _, err := w.Token(ctx, local, engine.Request{Credential: "main"}); broker.KindOf(err) != broker.CredentialMisconfigured {
			t.Fatal(err)
		}
		end()
		all := strings.Join(c.trees(), "\n")
		for _, want := range []string{"\n  flight: misconfigured\n", "\n    obtain: misconfigured\n", "\n    record failure\n"} {
			if !strings.Contains(all, strings.ReplaceAll(want, "misconfigured", broker.CredentialMisconfigured.Name())) {
				t.Errorf("got\n%s\nwant %q in it", all, want)
			}
		}
		for _, s := range c.Ended() {
			if text := fmt.Sprint(s.Status(), s.Attributes(), s.Events()); strings.Contains(text, "what it wrote") || strings.Contains(text, "invalid_client") {
				t.Errorf("%s has what the upstream wrote: %s", s.Name(), text)
			}
		}
		up.script(taking(time.Second, issues(time.Hour)))
		w.create("other", nil)
		c.Reset()
		ctx, end = c.call()
		w.backend.Away()
		if _, err := w.Token(ctx, local, engine.Request{Credential: "other"}); broker.KindOf(err) != broker.StoreUnavailable {
			t.Fatal(err)
		}
		end()
		if all := strings.Join(c.trees(), "\n"); !strings.Contains(all, "    store read: "+broker.StoreUnavailable.Name()+"\n") {
			t.Errorf("got\n%s\nwant that the store was away", all)
		}
	})
}
