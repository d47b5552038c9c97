package daemon

import (
	"bytes"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/bolt"
)

// TestADiskThatTakesNoChangesIsTold once, and that it takes them again when it has for a while.
func TestADiskThatTakesNoChangesIsTold(t *testing.T) {
	var told []bool
	var log bytes.Buffer
	d := &disk{log: slog.New(slog.NewTextHandler(&log, nil)), tell: func(full bool) { told = append(told, full) }}
	now := time.Now()
	for _, x := range []struct {
		after time.Duration
		err   error
		ended bool
		want  int
	}{
		{0, nil, false, 0},
		{0, broker.ErrConflict, false, 0},
		{0, store.Unavailable("given up"), true, 0},
		{0, store.Unavailable("the disk is full"), false, 1},
		{time.Second, nil, false, 1}, // a small one
		{time.Second, store.Unavailable("the disk is full"), false, 1},
		{wellAfter - 1, nil, false, 1},
		{1, errors.New("something else"), false, 1},
		{0, nil, false, 2},
		{time.Hour, store.Unavailable("the disk is full"), false, 3},
	} {
		now = now.Add(x.after)
		d.noted(x.err, x.ended, now)
		if len(told) != x.want || x.want > 0 && told[x.want-1] != (x.want%2 == 1) {
			t.Fatalf("after %v: got %v, want %d", x.err, told, x.want)
		}
	}
	if s := log.String(); strings.Count(s, "level=ERROR") != 2 || !strings.Contains(s, "the disk is full") {
		t.Errorf("got %s", s)
	}
}

// TestTheDiskIsTriedByAChangeOfNothing, which it takes.
func TestTheDiskIsTriedByAChangeOfNothing(t *testing.T) {
	db, err := bolt.Open(filepath.Join(t.TempDir(), "db"), bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	d := &disk{DB: db, log: slog.New(slog.DiscardHandler), full: true, tell: func(bool) {}}
	if err := d.Apply(t.Context(), store.Batch{}); err != nil || d.full {
		t.Errorf("got %v, %v", err, d.full)
	}
}
