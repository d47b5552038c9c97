package redis

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/store"
)

// TestASecondTurnIsWithinTheBound: a question that may be asked once more, and has no turn until its time is over, is not asked. What was answered to it counts, and not
// that others ask: a part that has answered is not away.
func TestASecondTurnIsWithinTheBound(t *testing.T) {
	for name, tt := range map[string]struct {
		first time.Duration // how long the first answer takes
		busy  time.Duration // how long others have the turn after it
		asked int
	}{
		"there is one":                 {first: 100 * time.Millisecond, asked: 2},
		"there is one in time":         {first: 1500 * time.Millisecond, busy: 400 * time.Millisecond, asked: 2},
		"there is one when it is over": {first: 1500 * time.Millisecond, busy: 600 * time.Millisecond, asked: 1},
		"there is none for an hour":    {first: 100 * time.Millisecond, busy: time.Hour, asked: 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				db := &DB{options: Options{Connections: 1, Timeout: time.Second}, stopping: t.Context()}
				asked, began, over := 0, time.Now(), make(chan struct{})
				defer close(over)
				err := db.do(t.Context(), "a shard", func(ctx context.Context, _ time.Duration) error {
					if asked++; ctx.Err() != nil {
						t.Errorf("question %d: its time is over", asked)
					}
					if asked == 2 {
						return nil
					}
					<-time.After(tt.first)
					if tt.busy > 0 {
						go func() {
							give, err := db.turn(t.Context(), "a shard")
							if err != nil {
								t.Error(err)
								return
							}
							defer give()
							select {
							case <-time.After(tt.busy):
							case <-over:
							}
						}()
						synctest.Wait() // it is the next
					}
					return errStrayed
				})
				if asked != tt.asked {
					t.Errorf("asked %d times, want %d", asked, tt.asked)
				}
				if tt.asked == 1 && (broker.KindOf(err) != broker.StoreUnavailable || !errors.Is(err, store.ErrGroupAway)) || tt.asked == 2 && err != nil {
					t.Errorf("got %v", err)
				}
				if took := time.Since(began); took > 2*time.Second {
					t.Errorf("it took %v, which is beyond the bound", took)
				}
			})
		})
	}
}
