package policy

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/filewatch"
)

// page returns the operators' page, and its blocks of yaml by the line on which they begin.
func page(t *testing.T) (text string, blocks map[int]string) {
	t.Helper()
	data, err := os.ReadFile("../../docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks = map[int]string{}
	begun, n := 0, 0
	for line := range strings.Lines(string(data)) {
		n++
		switch fence := strings.TrimSpace(line); {
		case begun == 0 && fence == "```yaml":
			begun = n
		case begun == 0 && strings.HasPrefix(fence, "```"):
			begun = -1
		case fence == "```":
			begun = 0
		case begun > 0:
			blocks[begun] += line
		}
	}
	return string(data), blocks
}

func TestThePoliciesOfThePageAreGood(t *testing.T) {
	_, blocks := page(t)
	if len(blocks) < 3 {
		t.Fatalf("found %d", len(blocks))
	}
	tests := 0
	for line, text := range blocks {
		p, problems := Parse("", []byte(text))
		for _, x := range problems {
			t.Errorf("line %d: %v", line, x)
		}
		if p != nil {
			tests += len(p.tests)
		}
	}
	if tests == 0 {
		t.Error("found no test")
	}
}

// TestThePageNamesEveryWord that the language has, and its bounds.
func TestThePageNamesEveryWord(t *testing.T) {
	text, _ := page(t)
	words := append(append(append([]string{"proof", "listener", "certificate", "gid", "names", "labels", "blocked", "denied", "via", "rate"}, kinds...), selecting...), operationNames()...)
	for _, w := range append(append(words, proofs...), listeners...) {
		if !strings.Contains(text, w) {
			t.Errorf("it does not name %s", w)
		}
	}
	for _, o := range broker.Operations() {
		if !strings.Contains(text, "`"+string(o)+"`") {
			t.Errorf("it does not name %s", o)
		}
	}
	thousands := func(n int) string { return fmt.Sprintf("%d,%03d", n/1000, n%1000) }
	for _, want := range []string{fmt.Sprintf("%d KB", MostBytes>>10), thousands(mostRules) + " rules", thousands(mostPatterns) + " patterns", fmt.Sprintf("%d tests", mostTests), fmt.Sprintf("%.0f seconds", filewatch.Every.Seconds())} {
		if !strings.Contains(text, want) {
			t.Errorf("it does not say %q", want)
		}
	}
	if lines := strings.Count(text, "\n"); lines > 150 {
		t.Errorf("it has %d lines", lines)
	}
}
