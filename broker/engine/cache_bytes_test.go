package engine_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
)

// TestTheCacheIsBoundedByWhatTokensTake: a token of 200 KiB counts for some hundred of the usual ones, also where it takes the place of a small one.
func TestTheCacheIsBoundedByWhatTokensTake(t *testing.T) {
	const room = 1000
	for name, test := range map[string]struct {
		size       int
		kept, most int
	}{"small": {200, 100, 100}, "large": {200 << 10, 1, 5}} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				size, life := 200, time.Minute
				up := &upstream{}
				n := 0
				up.answer = func(context.Context, broker.Exchange) (broker.Answer, error) {
					n++
					return token(fmt.Sprint(n, strings.Repeat("x", size)), life), nil
				}
				w := newWorld(t, up, func(s *engine.Settings) { s.CacheSize = room })
				w.create("main", nil)
				for i := range 100 { // all of them small
					w.mustGet("main", scopes(t, fmt.Sprint("s", i)))
				}
				sleep(2 * time.Minute)
				size, life = test.size, time.Hour
				for i := range 100 {
					w.mustGet("main", scopes(t, fmt.Sprint("s", i)))
				}
				sleep(time.Second)
				if got := w.Supplies()[w.up.facts.Name].Tokens; got < test.kept || got > test.most {
					t.Errorf("%d tokens are kept", got)
				}
			})
		})
	}
}
