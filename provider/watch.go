package provider

import (
	"context"
	"crypto/sha256"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// settle is how long after the last change of a file it is read: editors write in several steps.
	settle = 200 * time.Millisecond
	// lookEvery is the safety net below the file system's notifications, which not every file system has.
	lookEvery = 30 * time.Second
)

// Watch reloads the definitions when a file of the directory changes, until ctx ends. Without a directory it only waits.
func (c *Catalog) Watch(ctx context.Context) error {
	if c.dir == "" {
		<-ctx.Done()
		return nil
	}
	var events chan fsnotify.Event
	var errs chan error
	if w, err := fsnotify.NewWatcher(); err == nil {
		defer w.Close() //nolint:errcheck // nothing is left to be done
		if w.Add(c.dir) == nil {
			events, errs = w.Events, w.Errors
		}
	}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	quiet := time.NewTimer(settle)
	defer quiet.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-events:
			quiet.Reset(settle)
			continue
		case err := <-errs: // the ticker is the safety net
			c.log.Debug("watching definitions", "error", err.Error())
			continue
		case <-quiet.C:
		case <-tick.C:
		}
		if sources, err := c.sources(); err == nil && !c.changed(sources) {
			continue
		}
		if err := c.Reload(); err != nil {
			c.log.Warn("definitions not reloaded", "error", err.Error())
			continue // tried again at the next tick
		}
		c.log.Info("definitions reloaded", "directory", c.dir)
	}
}

// changed reports whether the files are others than those that are loaded.
func (c *Catalog) changed(sources []source) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.known != fingerprint(sources)
}

// fingerprint is a hash of all files.
func fingerprint(sources []source) [32]byte {
	h := sha256.New()
	for _, s := range sources {
		sum := sha256.Sum256(s.text)
		h.Write([]byte(s.file + "\x00" + s.wrong + "\x00"))
		h.Write(sum[:])
	}
	return [32]byte(h.Sum(nil))
}
