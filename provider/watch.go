package provider

import (
	"context"
	"crypto/sha256"
	"path/filepath"

	"github.com/tokenbroker/tokenbroker/internal/filewatch"
)

// Watch reloads the definitions when a file of the directory changes, until ctx ends. Without a directory it only waits.
func (c *Catalog) Watch(ctx context.Context) error {
	if c.dir == "" {
		<-ctx.Done()
		return nil
	}
	filewatch.Watch(ctx, []string{filepath.Join(c.dir, "any")}, filewatch.Every, func() {
		if sources, err := c.sources(); err == nil && !c.changed(sources) {
			return
		}
		if err := c.Reload(); err != nil {
			c.log.Warn("definitions not reloaded", "error", err.Error())
			return // tried again at the next look
		}
		c.log.Info("definitions reloaded", "directory", c.dir)
	})
	return nil
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
