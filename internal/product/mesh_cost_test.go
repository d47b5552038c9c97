package product

import (
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/installed"
)

// TestWhatAMeshCosts prints what each way of bringing tokens adds to a request that passes an Envoy, beside one that brings none. It is asked for by MESH_COST, and asserts nothing.
func TestWhatAMeshCosts(t *testing.T) {
	if os.Getenv("MESH_COST") == "" {
		t.Skip("make mesh")
	}
	m := newMeshRig(t)
	_, u := m.officernd()
	api := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("{}")) }))
	defer api.Close()
	m.write("api.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: api.Certificate().Raw})))
	instead := [][2]string{{filepath.Join(m.dir, "ca.pem"), filepath.Join(m.dir, "api.pem")}, {"exact: " + u.Host, "exact: example.com"}, {"sni: " + u.Host, "sni: example.com"}}
	text := installed.EnvoyExample(t, "sds.yaml")
	before, _, _ := strings.Cut(text, "        - name: envoy.filters.http.credential_injector")
	_, after, _ := strings.Cut(text, "        - name: envoy.filters.http.upstream_codec")
	alone := before + "        - name: envoy.filters.http.upstream_codec" + after + "# officernd-main"
	type way struct{ name, at string }
	all := []way{{"Envoy alone", m.envoyOf(t, "alone.yaml", alone, "officernd-main", u.Host, api.Listener.Addr().String(), instead...)}}
	for _, example := range []string{"sds.yaml", "ext-authz.yaml", "ext-proc.yaml"} {
		all = append(all, way{example, m.envoy(t, example, "officernd-main", u.Host, api.Listener.Addr().String(), instead...)})
	}
	client := m.as(shop)
	fmt.Printf("%-16s %10s %10s %10s %10s %14s\n", "", "1: p50", "p99", "32: p50", "p99", "this process's")
	for range 3 {
		for _, w := range all {
			line := fmt.Sprintf("%-16s", w.name)
			var busy time.Duration
			for _, callers := range []int{1, 32} {
				const each = 200
				var mu sync.Mutex
				var took []time.Duration
				began := cpu()
				var running sync.WaitGroup
				for range callers {
					running.Go(func() {
						for range each {
							at := time.Now()
							if got := m.ask(client, http.MethodGet, "https://"+w.at+"/", ""); got.status != http.StatusOK {
								t.Error(got.status, got.body)
							}
							mu.Lock()
							took = append(took, time.Since(at))
							mu.Unlock()
						}
					})
				}
				running.Wait()
				busy = (cpu() - began) / time.Duration(callers*each)
				slices.Sort(took)
				line += fmt.Sprintf(" %10s %10s", took[len(took)/2].Round(10*time.Microsecond), took[len(took)*99/100].Round(10*time.Microsecond))
			}
			fmt.Printf("%s %14s\n", line, busy.Round(time.Microsecond))
		}
	}
}

// cpu is what this process has used: the broker, the API and the clients.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
