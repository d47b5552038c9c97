package console_test

import (
	"testing"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
)

func TestCounted(t *testing.T) {
	for n, want := range map[int]string{0: "0 problems", 1: "1 problem", 2: "2 problems"} {
		if got := console.Counted(n, "problem"); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
