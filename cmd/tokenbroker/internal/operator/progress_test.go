package operator

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

func TestProgress(t *testing.T) {
	now := time.Unix(0, 0)
	for name, x := range map[string]struct {
		terminal bool
		want     string
	}{
		"a file":     {false, "moved 5 of 10\nmoved 10 of 10\n"},
		"a terminal": {true, "\rmoved [" + strings.Repeat(".", 30) + "] 0 of 10\x1b[K"},
	} {
		var out bytes.Buffer
		p := newProgress(&out, "moved")
		p.terminal, p.now, p.next = x.terminal, func() time.Time { return now }, time.Time{}
		if !x.terminal {
			p.next = now.Add(lineEvery)
		}
		for n := range 11 {
			p.show(n, 10)
			now = now.Add(time.Second)
		}
		p.end()
		if got := out.String(); !strings.HasPrefix(got, x.want) || !x.terminal && got != x.want {
			t.Errorf("%s: got %q, want %q", name, got, x.want)
		}
		if got := out.String(); x.terminal && !strings.HasSuffix(got, "["+strings.Repeat("#", 30)+"] 10 of 10\x1b[K\r\x1b[K") {
			t.Errorf("%s: got %q, want a full bar that is taken away", name, got)
		}
	}
}
