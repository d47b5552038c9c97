// Package filewatch says when files may have changed. It reads none of them.
package filewatch

import (
	"context"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// Settle is how long after the last change in a directory the files are looked at: editors write in several steps, and a certificate and its key
	// are two files. Where something changes all the time, they are looked at after atMost.
	Settle = 200 * time.Millisecond
	atMost = time.Second
	// Every is the safety net below the file system's notifications, which not every file system has.
	Every = 30 * time.Second
)

// Watch calls look after something has changed in the directories of the files, and every so often whatever happens (Every), until ctx ends. It watches directories: editors put
// another file in the place of one, and Kubernetes moves a link beside it to another directory. look is never called concurrently.
func Watch(ctx context.Context, files []string, every time.Duration, look func()) {
	var dirs []string
	for _, f := range files {
		dirs = append(dirs, filepath.Dir(f))
	}
	slices.Sort(dirs)
	dirs = slices.Compact(dirs)
	var events chan fsnotify.Event
	var errs chan error
	again := func() {}
	if w, err := fsnotify.NewWatcher(); err == nil {
		defer w.Close() //nolint:errcheck // nothing is left to be done
		events, errs = w.Events, w.Errors
		again = func() { // a directory that was replaced is another one
			for _, d := range dirs {
				_ = w.Add(d)
			}
		}
	}
	again()
	tick := time.NewTicker(every)
	defer tick.Stop()
	quiet := time.NewTimer(Settle)
	defer quiet.Stop()
	var since time.Time // the first event that has not been looked at
	for {
		select {
		case <-ctx.Done():
			return
		case <-events:
			now := time.Now()
			if since.IsZero() {
				since = now
			}
			quiet.Reset(min(Settle, max(0, since.Add(atMost).Sub(now))))
			continue
		case <-errs: //nolint:errcheck // the ticker is the safety net
			continue
		case <-quiet.C:
		case <-tick.C:
			again()
		}
		since = time.Time{}
		look()
	}
}
