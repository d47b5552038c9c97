package engine

import (
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// TestMetersAreBounded: of callers who come once nothing is kept for ever, and whoever comes again and again goes on being counted.
func TestMetersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := meters{clock: broker.NewClock(nil)}
		by := broker.Decision{Effect: broker.Allowed, Rule: "r", Rate: broker.Rate{Times: 60, Per: time.Minute}}
		busy := broker.NewCaller(broker.Unix, "", "1", broker.ProofPeer, "")
		given := 0
		for i := range 25_000 {
			m.of(broker.NewCaller(broker.JWT, "ci", strconv.Itoa(i), broker.ProofJWT, ""), by).Take(m.clock.Now().At)
			if i%10 == 0 {
				<-time.After(100 * time.Millisecond)
				if m.of(busy, by).Take(m.clock.Now().At) <= 0 {
					given++
				}
			}
		}
		if n := len(m.all); n > callersMost {
			t.Errorf("there are %d", n)
		}
		if given < 250+60-1 || given > 250+60+1 { // 250 seconds
			t.Errorf("the busy one was given %d", given)
		}
	})
}
