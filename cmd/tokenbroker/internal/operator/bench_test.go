package operator

import (
	"bytes"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
)

// TestABenchWithErrorsFails: it prints what it saw, and says which calls have failed.
func TestABenchWithErrorsFails(t *testing.T) {
	for _, output := range []string{"text", "json"} {
		var out bytes.Buffer
		p := &console.Process{Stdout: &out}
		well := &benchResult{Calls: 5}
		if err := well.print(p, console.Format{Output: output}); err != nil {
			t.Errorf("got %v of calls that went well", err)
		}
		bad := &benchResult{Calls: 5, Errors: map[string]int{"UPSTREAM_UNAVAILABLE": 2, "NOT_FOUND": 1}}
		err := bad.print(p, console.Format{Output: output})
		if err == nil || !strings.Contains(err.Error(), "3 of 5 calls failed: NOT_FOUND: 1, UPSTREAM_UNAVAILABLE: 2") || console.ExitCode(err) != console.ExitFailure {
			t.Errorf("got %v, want which have failed", err)
		}
	}
}
