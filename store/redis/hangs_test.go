package redis_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/redistest"
)

// TestAMasterThatHangs is a matter of the credentials that it has, and of no others: what other masters answer counts, beside it and while it
// is being waited for. One that is killed refuses connections; one that hangs takes them, and says nothing.
func TestAMasterThatHangs(t *testing.T) {
	c := redistest.StartCluster(t)
	for _, s := range c.Nodes() {
		for setting, value := range map[string]string{"cluster-node-timeout": "60000", "cluster-require-full-coverage": "no"} { // nobody takes its place
			if _, err := s.Do("CONFIG", "SET", setting, value); err != nil {
				t.Fatal(err)
			}
		}
	}
	r := newRig(t, "redis+cluster://"+strings.Join(c.Addrs(), ","))
	const n = 12
	keys, marks, names := make([]broker.TokenKey, n), make([]broker.Mark, n), make([]broker.CredentialName, n)
	for i := range n {
		keys[i] = r.create(fmt.Sprintf("c%d", i))
		v, err := r.Read(t.Context(), keys[i], "")
		if err != nil {
			t.Fatal(err)
		}
		marks[i], names[i] = v.Mark, keys[i].Credential
	}
	dead := c.Nodes()[0]
	dead.Stop()
	defer dead.Continue()
	read := func(k broker.TokenKey, upstream string) (broker.View, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		return r.Read(ctx, k, upstream)
	}
	well := map[broker.CredentialName]bool{}
	healthy := -1
	for i, k := range keys {
		if _, err := read(k, ""); err == nil {
			well[k.Credential], healthy = true, i
		}
	}
	if len(well) == 0 || len(well) == n {
		t.Fatalf("%d of %d credentials are on the other masters", len(well), n)
	}
	// Its upstream's backoff may lie anywhere, and is advice.
	unknown := 0
	for round := range 3 {
		for i := range n {
			v, err := read(keys[healthy], fmt.Sprintf("upstream-%d", i))
			if err != nil {
				t.Errorf("round %d: a credential on a master that is well: %v", round, err)
			}
			if v.UpstreamUnknown {
				unknown++
			}
		}
	}
	if unknown == 0 {
		t.Error("nothing of any upstream is on the master that hangs: the test shows nothing")
	}
	for round := range 8 {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond) // as the confirmer does
		verdicts, err := r.Unchanged(ctx, marks)
		cancel()
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		for i, got := range verdicts {
			if want := well[names[i]]; (got == broker.Same) != want {
				t.Errorf("round %d: %s: got %v, on a master that is well: %v", round, names[i], got, want)
			}
		}
	}
	all, err := r.Statuses(t.Context(), names)
	if err != nil {
		t.Fatal(err)
	}
	for i, st := range all {
		if want := well[names[i]]; (st.Err == nil) != want {
			t.Errorf("status of %s: %v, on a master that is well: %v", names[i], st.Err, want)
		}
	}
}
