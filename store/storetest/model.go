package storetest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/store"
)

// testModel applies random batches to the backend and to a Memory, which must agree on every answer.
func testModel(t *testing.T, c Config, b store.Backend) {
	// Where the backend's time is not the model's, nothing ends.
	longest, pauses := 3, 2
	if c.RealTime || c.Resolution != 0 {
		longest, pauses = 0, 0
	}
	run := 0
	// rapid asks a *testing.T for its deadline, which a bubble has not.
	rapid.Check(struct{ testing.TB }{t}, func(t *rapid.T) {
		run++
		ctx, model := context.Background(), NewMemory()
		group := store.Group(fmt.Sprintf("m:%d", run))
		known := []store.Revision{{}} // those that were ever put
		rowKey := rapid.Custom(func(t *rapid.T) store.Key {
			return key(rapid.SampledFrom([]store.Kind{kindX, kindY}).Draw(t, "kind"), rapid.ByteRange(0, 2).Draw(t, "id"))
		})
		for range rapid.IntRange(1, 12).Draw(t, "batches") {
			batch := store.Batch{
				Group:       group,
				DeleteGroup: rapid.IntRange(0, 9).Draw(t, "delete group") == 0,
				Clear:       rapid.SliceOfN(rapid.Just(kindX), 0, 1).Draw(t, "clear"),
				Deletes:     rapid.SliceOfN(rowKey, 0, 2).Draw(t, "deletes"),
			}
			for _, k := range rapid.SliceOfNDistinct(rowKey, 0, 3, rapid.ID).Draw(t, "puts") {
				p := put(k, fmt.Sprint(len(known)))
				p.TTL = time.Duration(rapid.IntRange(0, longest).Draw(t, "ttl")) * time.Second
				batch.Puts, known = append(batch.Puts, p), append(known, p.Revision)
			}
			for _, k := range rapid.SliceOfN(rowKey, 0, 2).Draw(t, "conditions") {
				// Mostly what is there, so that conditions hold often enough.
				r := one(t, model, group, k).Revision
				if rapid.IntRange(0, 4).Draw(t, "stale") == 0 {
					r = rapid.SampledFrom(known).Draw(t, "revision")
				}
				batch.Conditions = append(batch.Conditions, store.Condition{Key: k, Revision: r})
			}
			got, want := b.Apply(ctx, batch), model.Apply(ctx, batch)
			if !errors.Is(got, want) && (got != nil || want != nil) || errors.Is(got, broker.ErrConflict) != errors.Is(want, broker.ErrConflict) {
				t.Fatalf("apply: got %v, want %v", got, want)
			}
			wait(time.Duration(rapid.IntRange(0, pauses).Draw(t, "wait")) * 500 * time.Millisecond)
			listed, err := listOf(ctx, b, group, kindX, kindY)
			if err != nil {
				t.Fatalf("list: %v", err)
			}
			modelled, _ := listOf(ctx, model, group, kindX, kindY)
			if diff := cmp.Diff(modelled, listed, cmpopts.EquateEmpty()); diff != "" {
				t.Fatalf("list (-want +got):\n%s", diff)
			}
		}
	})
}
