package operator

import (
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/internal/yamldoc"
)

// TestHowManyMistakesThereAreIsSaid: not each of them.
func TestHowManyMistakesThereAreIsSaid(t *testing.T) {
	d := &declarations{seen: map[string]string{}}
	d.read("f.yaml", []byte(strings.Repeat("- 1\n", 20_000)))
	got := yamldoc.Together(d.wrong).Error()
	if n := strings.Count(got, "\n"); n != 100 || !strings.HasSuffix(got, "f.yaml: and 19900 problems more") {
		t.Errorf("got %d lines, ending in %q", n+1, got[len(got)-60:])
	}
}

// TestAScopeIsAText: 1e3 and yes are something else by the time they are sent.
func TestAScopeIsAText(t *testing.T) {
	d := &declarations{seen: map[string]string{}}
	d.read("f", []byte(`{name: a, provider: p, default_scopes: [1, true, "3", read, 2.0]}`))
	if len(d.wrong) != 3 || !strings.Contains(d.wrong[0].Error(), "default_scopes: a text is wanted, not a number; if it is meant, write it in quotes") {
		t.Errorf("got %v", d.wrong)
	}
}
