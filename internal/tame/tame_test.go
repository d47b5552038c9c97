package tame_test

import (
	"testing"

	"github.com/tokenbroker/tokenbroker/internal/tame"
)

func TestWhatATerminalObeysIsWrittenOut(t *testing.T) {
	for _, c := range []struct{ s, line, text string }{
		{"über, 'quoted' and \\", "über, 'quoted' and \\", "über, 'quoted' and \\"},
		{"a\x1b[31mred", `a\x1b[31mred`, `a\x1b[31mred`},
		{"two\n\tlines", `two\n\tlines`, "two\n\tlines"},
		{"\u202e\u009b\x00\r", `\u202e\u009b\x00\r`, `\u202e\u009b\x00\r`},
		{"", "", ""},
	} {
		if got := tame.Line(c.s); got != c.line {
			t.Errorf("line of %q: got %q, want %q", c.s, got, c.line)
		}
		if got := tame.Text(c.s); got != c.text {
			t.Errorf("text of %q: got %q, want %q", c.s, got, c.text)
		}
	}
}
