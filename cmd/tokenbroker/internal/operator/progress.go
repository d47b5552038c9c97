package operator

import (
	"io"
	"strings"
	"time"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
)

// A progress shows how far something is: as a bar on a terminal, elsewhere as a line every few seconds.
type progress struct {
	w        io.Writer
	what     string
	terminal bool
	now      func() time.Time
	next     time.Time
	shown    bool
}

const (
	barWidth  = 30
	barEvery  = 100 * time.Millisecond
	lineEvery = 5 * time.Second
)

func newProgress(w io.Writer, what string) *progress {
	p := &progress{w: w, what: what, terminal: console.IsTerminal(w), now: time.Now}
	if !p.terminal {
		p.next = p.now().Add(lineEvery) // what is done by then needs no line
	}
	return p
}

func (p *progress) show(done, total int) {
	now := p.now()
	if now.Before(p.next) || total == 0 {
		return
	}
	if !p.terminal {
		p.next = now.Add(lineEvery)
		console.Printf(p.w, "%s %d of %d\n", p.what, done, total)
		return
	}
	p.next, p.shown = now.Add(barEvery), true
	full := barWidth * done / total
	console.Printf(p.w, "\r%s [%s%s] %d of %d\x1b[K", p.what, strings.Repeat("#", full), strings.Repeat(".", barWidth-full), done, total)
}

// end takes the bar away.
func (p *progress) end() {
	if p.shown {
		console.Printf(p.w, "\r\x1b[K")
	}
}
