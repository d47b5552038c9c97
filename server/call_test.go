package server

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func newCall(ctx context.Context) *call {
	return &call{Context: ctx, proof: proof{who: &Authenticated{Caller: localCaller}}, started: time.Now()}
}

func TestACallsContextIsTheStreamsWithCallerAndDeadline(t *testing.T) {
	type key struct{}
	synctest.Test(t, func(t *testing.T) {
		for _, asked := range []bool{false, true} {
			stream, cancel := context.WithTimeout(context.WithValue(t.Context(), key{}, "value"), 10*time.Second)
			defer cancel()
			c := newCall(stream)
			<-time.After(time.Second) // the deadline counts from the beginning, however late somebody asks
			if asked && c.Err() != nil {
				t.Fatal(c.Err())
			}
			if d, ok := c.Deadline(); !ok || time.Until(d) != 9*time.Second-answerSpare {
				t.Errorf("got %v, %v", time.Until(d), ok)
			}
			if callerOf(c) != localCaller || callerOf(context.WithoutCancel(c)) != localCaller || c.Value(key{}) != "value" {
				t.Error("caller or values are missing")
			}
			child, stop := context.WithCancel(c)
			defer stop()
			<-child.Done()
			if !errors.Is(c.Err(), context.DeadlineExceeded) || !errors.Is(child.Err(), context.DeadlineExceeded) || stream.Err() != nil {
				t.Errorf("got %v, the child %v, the stream %v", c.Err(), child.Err(), stream.Err())
			}
		}
	})
	if callerOf(t.Context()) != nil {
		t.Error("a context of no call has a caller")
	}
}

func TestACallEndsWithItsStreamAndWithItsHandler(t *testing.T) {
	for _, asked := range []bool{false, true} {
		stream, cancel := context.WithCancel(t.Context())
		gone, returned := newCall(stream), newCall(t.Context())
		if asked && (gone.Err() != nil || returned.Err() != nil) {
			t.Fatal("over before it began")
		}
		cancel()
		<-gone.Done()
		returned.end()
		<-returned.Done()
		if !errors.Is(gone.Err(), context.Canceled) || !errors.Is(returned.Err(), context.Canceled) {
			t.Errorf("got %v and %v, want both canceled", gone.Err(), returned.Err())
		}
	}
}
