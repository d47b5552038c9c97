package gate

import (
	"math/rand/v2"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// doubtfulMost is how many different things in a row, that only callers chose of one credential, fail each for itself. Then it may be the
// upstream after all, and what else is chosen of that credential, and not known to work, waits.
const doubtfulMost = 3

// A doubt is whether it is what callers choose of a credential that fails, or the upstream.
type doubt struct {
	// last is what failed last, and failures how often something else did than just before.
	last     [32]byte
	failures int
	// why is the last failure, and until when something else that is not known to work has to wait.
	why   broker.Remembered
	until broker.Moment
}

// refusedMost bounds how long another choice waits because others were refused: the upstream has answered, and costs them little.
const refusedMost = 15 * time.Second

// doubt notes that something failed, or was refused, that only a caller chose. The caller holds mu.
func (g *gate) doubt(key broker.TokenKey, e *broker.UpstreamError) {
	d, now := g.doubts[key.Credential], g.clock.Now()
	if d.last != key.Token {
		d.failures++
	}
	d.last = key.Token
	d.why = e.Remembered(now.Wall, d.failures)
	if e.Level >= broker.LevelResponse { // that was said of this choice, and not of the next
		d.why.Kind, d.why.UpstreamStatus, d.why.UpstreamError = broker.UpstreamRateLimited, 0, ""
		d.why.Detail = "the upstream refuses what is chosen of this credential, one choice after the other: others wait, but for those that are known to work"
	}
	if over := d.failures - doubtfulMost; over >= 0 {
		wait := WaitAfter(over+1, 0, rand.Float64()) //nolint:gosec // jitter needs no secrecy
		if e.Level >= broker.LevelResponse {
			wait = min(wait, refusedMost)
		}
		d.until = now.At.Add(wait)
	}
	if g.doubts == nil {
		g.doubts = map[broker.CredentialName]doubt{}
	}
	g.doubts[key.Credential] = d
}

// doubted reports whether something that is not known to work has to wait, and why. The caller holds mu.
func (g *gate) doubted(name broker.CredentialName) (broker.Remembered, bool) {
	d, ok := g.doubts[name]
	now := g.clock.Now()
	if !ok || d.failures < doubtfulMost || now.At >= d.until {
		return broker.Remembered{}, false
	}
	d.why.RetryAt = now.Wall.Add(d.until.Sub(now.At))
	return d.why, true
}

// tries notes that something is asked for that is not known to work. Where that had to wait, it goes ahead of the others. The caller holds mu.
func (g *gate) tries(name broker.CredentialName) {
	if d, ok := g.doubts[name]; ok && d.failures >= doubtfulMost {
		d.until = g.clock.Now().At.Add(FirstWait)
		g.doubts[name] = d
	}
}
