package policy

import (
	"context"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// settle is how long after the last change in the directory the file is read: editors write in several steps. Where something changes all the time, it is
	// read after atMost.
	settle = 200 * time.Millisecond
	atMost = time.Second
	// lookEvery is the safety net below the file system's notifications, which not every file system has.
	lookEvery = 30 * time.Second
)

// Watch reloads the file when it changes, until ctx ends. It watches the directory: editors put another file in the place of one, and Kubernetes moves
// a link beside it to another directory.
func (f *File) Watch(ctx context.Context) error {
	var events chan fsnotify.Event
	var errs chan error
	dir := filepath.Dir(f.name)
	again := func() {}
	if w, err := fsnotify.NewWatcher(); err == nil {
		defer w.Close() //nolint:errcheck // nothing is left to be done
		events, errs = w.Events, w.Errors
		again = func() { _ = w.Add(dir) } // a directory that was replaced is another one
	}
	again()
	tick := time.NewTicker(f.lookEvery)
	defer tick.Stop()
	quiet := time.NewTimer(settle)
	defer quiet.Stop()
	var since time.Time // the first event that has not been looked at
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-events:
			now := time.Now()
			if since.IsZero() {
				since = now
			}
			quiet.Reset(min(settle, max(0, since.Add(atMost).Sub(now))))
			continue
		case err := <-errs: // the ticker is the safety net
			f.log.Debug("watching the policy", "error", err.Error())
			continue
		case <-quiet.C:
		case <-tick.C:
			again()
		}
		since = time.Time{}
		_ = f.Reload() // the status says what is wrong, and the log did
	}
}
