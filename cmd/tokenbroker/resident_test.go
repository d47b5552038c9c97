package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"text/tabwriter"
	"time"

	"go.yaml.in/yaml/v4"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

// TestMemory shows what a broker takes with so many tokens that are asked for again and again: `make memory`. GOGC and
// GOMEMLIMIT are passed on to it. It asserts nothing but that it lives, and that all are answered.
func TestMemory(t *testing.T) {
	var hot []int
	for _, f := range strings.Fields(os.Getenv("HOT")) {
		n, err := strconv.Atoi(f)
		if err != nil {
			t.Fatal(err)
		}
		hot = append(hot, n)
	}
	if len(hot) == 0 {
		t.Skip("measures: make memory")
	}
	u := startUpstream(t)
	s := u.serve("--upstream-concurrency", "64")
	var conns []*grpc.ClientConn
	for range 4 {
		conn, err := grpc.NewClient("passthrough:///"+s.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conns = append(conns, conn)
	}
	name := func(i int) string { return fmt.Sprintf("hot-%d", i) }
	like := declaredOfficeRnD(t, u)
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(out, "hot tokens\tat rest MiB\tafter getting them\tunder load, most\tof which not of files\tcalls/s\tp50 ms\tp99 ms\tCPU µs a call\t")
	for n, made := range hot {
		before := 0
		if n > 0 {
			before = hot[n-1]
		}
		rest := resident(t, s)
		callers(t, conns, func(c int, conn *grpc.ClientConn) {
			for i := before + c; i < made; i += callersAtATime {
				_, err := tokenbrokerv1.NewCredentialServiceClient(conn).CreateCredential(t.Context(), &tokenbrokerv1.CreateCredentialRequest{
					Credential: &tokenbrokerv1.Credential{Name: name(i), Provider: "officernd", Inputs: like.Inputs}, Secrets: like.Secrets,
				})
				if err == nil {
					_, err = tokenbrokerv1.NewTokenBrokerServiceClient(conn).GetToken(t.Context(), &tokenbrokerv1.GetTokenRequest{Credential: name(i)})
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
		got := resident(t, s)
		stop := make(chan struct{})
		var most memory
		var sampling sync.WaitGroup
		sampling.Go(func() {
			for {
				m := resident(t, s)
				most.all, most.own = max(most.all, m.all), max(most.own, m.own)
				select {
				case <-stop:
					return
				case <-time.After(20 * time.Millisecond):
				}
			}
		})
		var calls atomic.Int64
		took := make([][]time.Duration, callersAtATime)
		used, began := processorTime(t, s), time.Now()
		callers(t, conns, func(c int, conn *grpc.ClientConn) {
			for now := time.Now(); now.Sub(began) < 5*time.Second; {
				if _, err := tokenbrokerv1.NewTokenBrokerServiceClient(conn).GetToken(context.Background(), &tokenbrokerv1.GetTokenRequest{Credential: name(rand.IntN(made))}); err != nil {
					t.Error(err)
					return
				}
				calls.Add(1)
				then := time.Now()
				took[c] = append(took[c], then.Sub(now))
				now = then
			}
		})
		lasted := time.Since(began)
		used = processorTime(t, s) - used
		close(stop)
		sampling.Wait()
		all := slices.Concat(took...)
		slices.Sort(all)
		fmt.Fprintf(out, "%d\t%d\t%d\t%d\t%d\t%.0f\t%.2f\t%.2f\t%.1f\t\n", made, rest.all, got.all, most.all, most.own, float64(calls.Load())/lasted.Seconds(),
			all[len(all)/2].Seconds()*1e3, all[len(all)*99/100].Seconds()*1e3, used.Seconds()*1e6/float64(calls.Load()))
	}
	if err := out.Flush(); err != nil {
		t.Error(err)
	}
}

const callersAtATime = 64

func callers(t *testing.T, conns []*grpc.ClientConn, f func(c int, conn *grpc.ClientConn)) {
	var all sync.WaitGroup
	for c := range callersAtATime {
		all.Go(func() { f(c, conns[c%len(conns)]) })
	}
	all.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

// A memory is what a process has, in MiB: all, and what is its own and of no file.
type memory struct{ all, own int }

var kilobytes = regexp.MustCompile(`(VmRSS|RssAnon):\s+(\d+) kB`)

func resident(t *testing.T, s *served) (m memory) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		t.Error(err)
	}
	for _, f := range kilobytes.FindAllStringSubmatch(string(b), -1) {
		n, _ := strconv.Atoi(f[2])
		if f[1] == "VmRSS" {
			m.all = n >> 10
		} else {
			m.own = n >> 10
		}
	}
	return m
}

// processorTime is what the process has used, in steps of 10 ms.
func processorTime(t *testing.T, s *served) time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	f := strings.Fields(rest)
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

// declaredOfficeRnD is the simulator's credential of OfficeRnD.
func declaredOfficeRnD(t *testing.T, u *upstream) (c struct {
	Provider        string
	Inputs, Secrets map[string]string
},
) {
	b, err := os.ReadFile(filepath.Join(u.dir, "credentials.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	all := []struct {
		Provider        string
		Inputs, Secrets map[string]string
	}{}
	if err := yaml.Unmarshal(b, &all); err != nil {
		t.Fatal(err)
	}
	for _, c = range all {
		if c.Provider == "officernd" {
			for k, v := range c.Secrets {
				if name, ok := strings.CutPrefix(v, "file:"); ok {
					if !filepath.IsAbs(name) {
						name = filepath.Join(u.dir, name)
					}
					b, err := os.ReadFile(name)
					if err != nil {
						t.Fatal(err)
					}
					c.Secrets[k] = strings.TrimSpace(string(b))
				}
			}
			return c
		}
	}
	t.Fatal("there is none")
	return c
}
