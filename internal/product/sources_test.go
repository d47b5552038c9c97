package product

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/client"
	"github.com/tokenbroker/tokenbroker/internal/installed"
	"github.com/tokenbroker/tokenbroker/internal/upstreamsim"
)

// answered is how often the broker has answered GetToken, by its own metrics.
func (r *rig) answered() (n int) {
	r.t.Helper()
	all, err := r.metrics.Registry().Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, f := range all {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == "method" && strings.HasSuffix(l.GetValue(), "/GetToken") && m.GetHistogram() != nil {
					n += int(m.GetHistogram().GetSampleCount())
				}
			}
		}
	}
	return n
}

// A service is a process of its own with many Sources of the token of one credential. It does what lines of its input say, and answers each with one of JSON.
type service struct {
	t   *testing.T
	in  io.Writer
	out *bufio.Scanner
}

// serviceOf says to a process of this test what it is: a broker's address, how many Sources it has, whether they watch, and scopes.
const serviceOf = "TOKENBROKER_SOURCES_OF"

// answer is a service's: how many of its Sources have a token, by its id, or when each has last answered one that is over, in nanoseconds since 1970.
type answer struct {
	Has   map[string]int
	Last  []int64
	Error string
}

func startService(t *testing.T, addr string, sources int, watch bool, scopes []string) *service {
	t.Helper()
	own, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), own, "-test.run=^TestServiceOfSources$")
	cmd.Env = append(os.Environ(), serviceOf+"="+strings.Join(append([]string{addr, strconv.Itoa(sources), strconv.FormatBool(watch)}, scopes...), " "))
	cmd.Stderr = t.Output()
	in, out := installed.Start(t, cmd)
	s := &service{t, in, bufio.NewScanner(out)}
	s.out.Buffer(nil, 16<<20)
	return s
}

func (s *service) tell(line string) {
	s.t.Helper()
	if _, err := fmt.Fprintln(s.in, line); err != nil {
		s.t.Fatal(err)
	}
}

func (s *service) hear() (a answer) {
	s.t.Helper()
	if !s.out.Scan() {
		s.t.Fatal("a service has ended")
	}
	if err := json.Unmarshal(s.out.Bytes(), &a); err != nil || a.Error != "" {
		s.t.Fatalf("got %s, %v", s.out.Bytes(), err)
	}
	return a
}

// TestServiceOfSources is a service, in a process that another test starts.
func TestServiceOfSources(t *testing.T) {
	of := strings.Fields(os.Getenv(serviceOf))
	if len(of) < 3 {
		t.Skip("is started by TestManySources")
	}
	sources, err := strconv.Atoi(of[1])
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(of[0])
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	options := []client.SourceOption{client.WithScopes(of[3:]...)}
	if of[2] == "true" {
		options = append(options, client.WithWatch())
	}
	all := make([]*client.Source, sources)
	for i := range all {
		all[i] = c.Source("main", options...)
	}
	says := json.NewEncoder(os.Stdout)
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		what, id, _ := strings.Cut(in.Text(), " ")
		switch what {
		case "ask":
			_ = says.Encode(askAll(all))
		case "until": // none of them answers this token
			_ = says.Encode(answer{})
			_ = says.Encode(answer{Last: lastUsed(all, id)})
		}
	}
}

func askAll(all []*client.Source) answer {
	var mu sync.Mutex
	var running sync.WaitGroup
	a := answer{Has: map[string]int{}}
	for _, s := range all {
		running.Go(func() {
			token, err := s.Token(context.Background())
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				a.Error = err.Error()
				return
			}
			a.Has[token.ID]++
		})
	}
	running.Wait()
	return a
}

// lastUsed is when each Source last answered a token, once none of them does.
func lastUsed(all []*client.Source, id string) []int64 {
	over, cancel := context.WithCancel(context.Background()) // a Source that has no token in memory says so at once
	cancel()
	last := make([]int64, len(all))
	for using := true; using; <-time.After(5 * time.Millisecond) { // more often, twenty processes would do nothing else
		using = false
		for i, s := range all {
			if token, err := s.Token(over); err == nil && token.ID == id {
				using, last[i] = true, time.Now().UnixNano()
			}
		}
	}
	return last
}

// TestManySources: services with many Sources each, in processes of their own. Those of one process ask once for each of their tokens, and those that watch not even that: what is invalidated none of them
// answers any more, and all have the next one. SOURCES is how many each of twenty has (500 make ten thousand), and has the figures printed.
func TestManySources(t *testing.T) {
	services, each, rounds := 4, 50, 1
	measured := os.Getenv("SOURCES")
	if measured != "" {
		var err error
		if each, err = strconv.Atoi(measured); err != nil {
			t.Fatal(err)
		}
		services, rounds = 20, 5
	}
	r := newRig(t, rigOptions{quiet: true})
	a := r.account(upstreamsim.OfficeRnD)
	r.create("main", a)
	start := func(watch bool) (all []*service) {
		for range services {
			all = append(all, startService(t, r.addr, each, watch, a.Scopes))
		}
		return all
	}
	asked := func(all []*service) (id string) {
		t.Helper()
		for _, s := range all {
			s.tell("ask")
		}
		for _, s := range all {
			for has, n := range s.hear().Has {
				if id = has; n != each {
					t.Errorf("%d of %d Sources have one token, and others another", n, each)
				}
			}
		}
		return id
	}

	before := r.answered()
	plain := start(false)
	for range 3 {
		asked(plain)
	}
	if n := r.answered() - before; n != services {
		t.Errorf("%d sources of %d processes have asked %d times for one token", services*each, services, n)
	}

	watching := start(true)
	var took []time.Duration
	for round := range rounds {
		id := asked(watching)
		if round == 0 {
			<-time.After(2 * time.Second) // all streams are there
		}
		for _, s := range watching {
			s.tell("until " + id)
		}
		for _, s := range watching {
			s.hear()
		}
		r.invalidate("main", id)
		at := time.Now().UnixNano()
		for _, s := range watching {
			for _, last := range s.hear().Last {
				took = append(took, max(0, time.Duration(last-at)))
			}
		}
		if _, err := r.get("main", a.Scopes...); err != nil {
			t.Fatal(err)
		}
		<-time.After(3 * time.Second) // of more at a time the broker lets its upstream have a rest
	}
	slices.Sort(took)
	if measured != "" {
		fmt.Printf("%d sources of %d processes: a token was last used %s (p50), %s (p99), %s (longest) after Invalidate had returned\n", services*each, services,
			took[len(took)/2].Round(time.Microsecond), took[len(took)*99/100].Round(time.Microsecond), took[len(took)-1].Round(time.Microsecond))
	}
	if token, err := r.get("main", a.Scopes...); err != nil {
		t.Error(err)
	} else if id := asked(watching); id != token.GetTokenId() {
		t.Errorf("they have %s, and the broker %s", id, token.GetTokenId())
	}
}
