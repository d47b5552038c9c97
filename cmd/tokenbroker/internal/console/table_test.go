package console_test

import (
	"bytes"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
)

func TestATableKeepsToItsColumns(t *testing.T) {
	name, sentence := "oauth2-client-credentials-basic-1", strings.Repeat("a sentence that says what to do, and ", 5)
	for header, rows := range map[string][][]string{
		"NAME\tSTATE\tWHY": {{name, "misconfigured", sentence}, {"b", "ready", ""}},
		"":                 {{"state", "misconfigured"}, {"", sentence}, {"token requests go to", sentence}},
	} {
		var narrow, wide bytes.Buffer
		if err := (console.Format{Output: "text"}).Table(&narrow, header, rows); err != nil {
			t.Fatal(err)
		}
		if err := (console.Format{Output: "wide"}).Table(&wide, header, rows); err != nil {
			t.Fatal(err)
		}
		longest := 0
		for line := range strings.Lines(narrow.String()) {
			longest = max(longest, utf8.RuneCountInString(strings.TrimSuffix(line, "\n")))
		}
		if longest > console.Columns || longest < console.Columns-10 {
			t.Errorf("got %d columns, want nearly %d:\n%s", longest, console.Columns, &narrow)
		}
		if n := strings.Count(narrow.String(), "\n"); header != "" && n != 3 {
			t.Errorf("got %d lines, want one for each row:\n%s", n, &narrow)
		}
		if !strings.Contains(wide.String(), sentence) {
			t.Errorf("got %s, want all of it", &wide)
		}
	}
}

func TestWhen(t *testing.T) {
	for _, c := range []struct {
		in   time.Duration
		want string
	}{{-4 * time.Second, "4s ago"}, {54*time.Minute + 36*time.Second + time.Millisecond, "in 54m36s"}, {-125 * time.Minute, "2h5m ago"}, {-60 * 24 * time.Hour, "60 days ago"}} {
		at := time.Now().Add(c.in)
		if got := (console.Format{}).When(at); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
		if got := (console.Format{Output: "wide"}).When(at); got != c.want+at.Local().Format(" (2006-01-02 15:04:05)") {
			t.Errorf("got %q, want %q and the time itself", got, c.want)
		}
	}
	if got := (console.Format{}).When(time.Time{}); got != "-" {
		t.Errorf("got %q for no time", got)
	}
}
