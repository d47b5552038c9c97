package herd

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/internal/upstreamsim"
)

// An answer is what a caller got.
type answer struct {
	token     *tokenbrokerv1.Token
	degraded  bool
	err       error
	sent, got time.Time
}

// A crowd is calls that are made at once.
type crowd struct {
	f       *fleet
	answers []answer
	done    sync.WaitGroup
}

// call lets n callers call at once, spread over all brokers and their connections.
func (f *fleet) call(n int, request func(i int) *tokenbrokerv1.GetTokenRequest) *crowd {
	c := &crowd{f: f, answers: make([]answer, n)}
	for i := range n {
		m := f.all[i%len(f.all)]
		client := m.more[i/len(f.all)%len(m.more)]
		c.done.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
			defer cancel()
			a := &c.answers[i]
			a.sent = time.Now()
			res, err := client.GetToken(ctx, request(i))
			a.got, a.token, a.degraded, a.err = time.Now(), res.GetToken(), res.GetDegraded(), err
		})
	}
	return c
}

// allWait waits until all calls wait in the brokers.
func (c *crowd) allWait() {
	c.f.t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for {
		waiting := 0
		for _, m := range c.f.all {
			waiting += int(m.gauge("tokenbroker_token_waiters"))
		}
		if waiting == len(c.answers) {
			return
		}
		if time.Now().After(deadline) {
			c.f.t.Fatalf("%d of %d calls wait", waiting, len(c.answers))
		}
		<-time.After(20 * time.Millisecond)
	}
}

// wait waits until all are answered.
func (c *crowd) wait() []answer {
	c.done.Wait()
	return c.answers
}

func (c *crowd) oneToken(t testing.TB) *tokenbrokerv1.Token {
	t.Helper()
	for i, a := range c.wait() {
		if a.err != nil {
			t.Fatalf("caller %d: %v", i, a.err)
		}
		if a.token.GetTokenId() != c.answers[0].token.GetTokenId() {
			t.Fatalf("callers 0 and %d have different tokens", i)
		}
	}
	return c.answers[0].token
}

// warm opens every connection.
func (f *fleet) warm() {
	var wg sync.WaitGroup
	for _, m := range f.all {
		for _, c := range m.more {
			wg.Go(func() {
				_, _ = c.GetToken(context.Background(), &tokenbrokerv1.GetTokenRequest{Credential: "nobody"})
			})
		}
	}
	wg.Wait()
}

// A report is what a mode prints, and appends to the file that HERD_JSON names.
type report struct {
	Mode      string `json:"mode"`
	Brokers   int    `json:"brokers"`
	Calls     int    `json:"calls"`
	Exchanges int    `json:"exchanges"`
	// Of the simulator since the mode began: refresh tokens that came in, and requests that one system had under way at a time.
	Presented  int            `json:"presented"`
	MostAtOnce int            `json:"most_at_once"`
	Errors     map[string]int `json:"errors,omitempty"`
	// Milliseconds of the calls; Last is of the last answer after the upstream's.
	P50     float64            `json:"p50_ms"`
	P99     float64            `json:"p99_ms"`
	Most    float64            `json:"max_ms"`
	Last    float64            `json:"last_ms,omitempty"`
	Figures map[string]float64 `json:"figures,omitempty"`
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func (f *fleet) report(mode string, answers []answer, exchanges int) *report {
	r := &report{Mode: mode, Brokers: len(f.all), Calls: len(answers), Exchanges: exchanges, Errors: map[string]int{}, Figures: map[string]float64{}}
	for _, a := range f.sim.Accounts() {
		r.MostAtOnce = max(r.MostAtOnce, f.sim.SystemStats(a.System).MaxConcurrent)
		for _, e := range f.sim.Ledger(a.ID) {
			if e.Kind == upstreamsim.KindPresented {
				r.Presented++
			}
		}
	}
	var took []time.Duration
	for _, a := range answers {
		took = append(took, a.got.Sub(a.sent))
		if a.err != nil {
			r.Errors[reasonOf(a.err)]++
		}
	}
	if len(took) > 0 {
		r.P50, r.P99, r.Most = ms(percentile(took, 50)), ms(percentile(took, 99)), ms(percentile(took, 100))
	}
	return r
}

// print shows it, at the end of the test.
func (r *report) print(t testing.TB) {
	t.Helper()
	fmt.Printf("%-36s %2d brokers %7d calls %4d exchanges, %2d at once, %3d presentations", r.Mode, r.Brokers, r.Calls, r.Exchanges, r.MostAtOnce, r.Presented)
	if r.Calls > 0 {
		fmt.Printf("  p50 %8.1f ms  p99 %8.1f ms  max %8.1f ms", r.P50, r.P99, r.Most)
	}
	if r.Last > 0 {
		fmt.Printf("  last answer %.1f ms after the upstream's", r.Last)
	}
	for _, reason := range slices.Sorted(keysOf(r.Errors)) {
		fmt.Printf("  %s: %d", reason, r.Errors[reason])
	}
	for _, name := range slices.Sorted(keysOf(r.Figures)) {
		fmt.Printf("  %s: %.1f", name, r.Figures[name])
	}
	fmt.Println()
	path := os.Getenv("HERD_JSON")
	if path == "" {
		return
	}
	line, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	out, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if _, err := out.Write(append(line, '\n')); err != nil {
		t.Error(err)
	}
}

func keysOf[V any](m map[string]V) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// percentile sorts.
func percentile(d []time.Duration, p int) time.Duration {
	slices.Sort(d)
	return d[(len(d)-1)*p/100]
}

// beside lets a test run beside the others, where its figures are not what it is run for.
func beside(t *testing.T) {
	t.Helper()
	if !full() {
		t.Parallel()
	}
}

// size is how many, at the harness's full size or at a small one.
func size(small, whole int) int {
	if full() {
		return whole
	}
	return small
}

// account makes an account of a system, and a credential for it.
func (f *fleet) account(system upstreamsim.System, name string) upstreamsim.Account {
	f.t.Helper()
	a, err := f.sim.AddAccount(system)
	if err != nil {
		f.t.Fatal(err)
	}
	f.create(name, a)
	return a
}

func named(name string) func(int) *tokenbrokerv1.GetTokenRequest {
	return func(int) *tokenbrokerv1.GetTokenRequest { return &tokenbrokerv1.GetTokenRequest{Credential: name} }
}
