package operator

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

// BenchCommand load-tests a running deployment.
type BenchCommand struct {
	remote
	selectionFlags
	Name        string        `arg:"" names:"credential" help:"The credential."`
	Broker      []string      `placeholder:"ADDRESS" help:"Another broker of the deployment; repeat for several. Callers are spread over all of them."`
	Callers     int           `default:"64" help:"Callers that ask at a time."`
	Connections int           `default:"4" help:"Connections to each broker."`
	Duration    time.Duration `default:"10s" help:"How long they ask."`
	Pause       time.Duration `help:"How long each caller waits between an answer and its next call."`
	Reject      bool          `help:"Begin with all callers saying at once that the API rejects the current token. Costs the upstream one exchange."`
}

// benchMost bounds the callers of one process.
const benchMost = 100_000

// A benchResult is what a bench found out; its JSON has stable names.
type benchResult struct {
	Brokers    int            `json:"brokers"`
	Callers    int            `json:"callers"`
	Seconds    float64        `json:"seconds"`
	Calls      int            `json:"calls"`
	PerSecond  float64        `json:"calls_per_second"`
	P50        float64        `json:"p50_ms"`
	P99        float64        `json:"p99_ms"`
	Max        float64        `json:"max_ms"`
	Tokens     int            `json:"tokens"`
	Degraded   int            `json:"degraded"`
	Errors     map[string]int `json:"errors"`
	RejectedMS float64        `json:"rejected_ms,omitempty"`
}

// A benchCaller is what one caller saw.
type benchCaller struct {
	took     []time.Duration
	tokens   map[string]bool
	errors   map[string]int
	degraded int
}

// Run asks, and prints what it saw.
func (c *BenchCommand) Run(p *console.Process) error {
	switch {
	case c.Callers < 1 || c.Callers > benchMost:
		return console.BadInput("--callers: from 1 to %d", benchMost)
	case c.Connections < 1 || c.Connections > 1000:
		return console.BadInput("--connections: from 1 to 1000")
	case c.Duration <= 0 || c.Pause < 0:
		return console.BadInput("--duration must be positive, and --pause must not be negative")
	}
	addresses := append([]string{c.Address}, c.Broker...)
	var clients []tokenbrokerv1.TokenBrokerServiceClient
	return c.connect(p.Context, addresses, &clients, func(ctx context.Context) error {
		r, err := c.bench(ctx, clients)
		if err != nil {
			return err
		}
		r.Brokers = len(addresses)
		return r.print(p, c.Format)
	})
}

// connect opens the connections, one inside the other, and then calls f.
func (c *BenchCommand) connect(ctx context.Context, addresses []string, clients *[]tokenbrokerv1.TokenBrokerServiceClient, f func(context.Context) error) error {
	if len(*clients) == len(addresses)*c.Connections {
		return f(ctx)
	}
	one := c.remote
	one.Address = addresses[len(*clients)%len(addresses)]
	return one.with(ctx, func(ctx context.Context, cl *client) error {
		*clients = append(*clients, cl.tokens)
		return c.connect(ctx, addresses, clients, f)
	})
}

func (c *BenchCommand) request(rejected string) *tokenbrokerv1.GetTokenRequest {
	return &tokenbrokerv1.GetTokenRequest{
		Credential: c.Name, Scopes: c.Scope, Audience: c.Audience, Parameters: c.Parameter, Resources: c.Resource, RejectedTokenId: rejected,
	}
}

func (c *BenchCommand) bench(ctx context.Context, clients []tokenbrokerv1.TokenBrokerServiceClient) (*benchResult, error) {
	r := &benchResult{Callers: c.Callers, Errors: map[string]int{}}
	current := ""
	for _, cl := range clients { // one answer from each connection: what is wrong shows at once
		res, err := cl.GetToken(ctx, c.request(""), grpc.WaitForReady(false))
		if err != nil {
			return nil, err
		}
		current = res.GetToken().GetTokenId()
	}
	callers := make([]benchCaller, c.Callers)
	var wg sync.WaitGroup
	if c.Reject {
		began := time.Now()
		for i := range callers {
			wg.Go(func() { callers[i].call(ctx, clients[i%len(clients)], c.request(current)) })
		}
		wg.Wait()
		r.RejectedMS = milliseconds(time.Since(began))
	}
	began := time.Now()
	bounded, cancel := context.WithTimeout(ctx, c.Duration)
	defer cancel()
	for i := range callers {
		wg.Go(func() {
			for bounded.Err() == nil {
				callers[i].call(ctx, clients[i%len(clients)], c.request(""))
				if c.Pause > 0 {
					select {
					case <-time.After(c.Pause):
					case <-bounded.Done():
					}
				}
			}
		})
	}
	wg.Wait()
	r.Seconds = time.Since(began).Seconds()
	r.sum(callers)
	if ctx.Err() != nil {
		return nil, console.ErrInterrupted
	}
	return r, nil
}

func (b *benchCaller) call(ctx context.Context, cl tokenbrokerv1.TokenBrokerServiceClient, req *tokenbrokerv1.GetTokenRequest) {
	if b.tokens == nil {
		b.tokens, b.errors = map[string]bool{}, map[string]int{}
	}
	began := time.Now()
	res, err := cl.GetToken(ctx, req)
	b.took = append(b.took, time.Since(began))
	switch {
	case err != nil:
		b.errors[reasonOf(err)]++
	case res.GetDegraded():
		b.degraded++
		fallthrough
	default:
		b.tokens[res.GetToken().GetTokenId()] = true
	}
}

// reasonOf is the reason of an error of the broker's, or the code of another.
func reasonOf(err error) string {
	s := status.Convert(err)
	for _, d := range s.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return s.Code().String()
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func (r *benchResult) sum(callers []benchCaller) {
	var took []time.Duration
	tokens := map[string]bool{}
	for _, b := range callers {
		took = append(took, b.took...)
		maps.Copy(tokens, b.tokens)
		r.Degraded += b.degraded
		for reason, n := range b.errors {
			r.Errors[reason] += n
		}
	}
	slices.Sort(took)
	r.Calls, r.Tokens, r.PerSecond = len(took), len(tokens), float64(len(took))/r.Seconds
	r.P50, r.P99, r.Max = milliseconds(took[(len(took)-1)/2]), milliseconds(took[(len(took)-1)*99/100]), milliseconds(took[len(took)-1])
}

// print prints what a bench found out, and fails if calls did.
func (r *benchResult) print(p *console.Process, f console.Format) error {
	if f.JSON() {
		if err := console.JSON(p.Stdout, r); err != nil {
			return err
		}
		return r.failed()
	}
	rows := [][]string{
		{"brokers", strconv.Itoa(r.Brokers)}, {"callers", strconv.Itoa(r.Callers)},
		{"calls", fmt.Sprintf("%d in %.1f s, %.0f a second", r.Calls, r.Seconds, r.PerSecond)},
		{"took", fmt.Sprintf("p50 %.2f ms, p99 %.2f ms, max %.2f ms", r.P50, r.P99, r.Max)},
		{"tokens", fmt.Sprintf("%d different", r.Tokens)}, {"degraded", strconv.Itoa(r.Degraded)},
	}
	if r.RejectedMS > 0 {
		rows = append(rows, []string{"rejected", fmt.Sprintf("all callers had another token after %.1f ms", r.RejectedMS)})
	}
	if err := f.Table(p.Stdout, "", rows); err != nil {
		return err
	}
	return r.failed()
}

// failed says which calls have failed; nil: none.
func (r *benchResult) failed() error {
	n, which := 0, []string{}
	for _, reason := range slices.Sorted(maps.Keys(r.Errors)) {
		n += r.Errors[reason]
		which = append(which, fmt.Sprintf("%s: %d", reason, r.Errors[reason]))
	}
	if n == 0 {
		return nil
	}
	return fmt.Errorf("%d of %s failed: %s", n, console.Counted(r.Calls, "call"), strings.Join(which, ", "))
}
