package policy

import (
	"context"

	"github.com/tokenbroker/tokenbroker/internal/filewatch"
)

// Watch reloads the file when it changes, until ctx ends.
func (f *File) Watch(ctx context.Context) {
	filewatch.Watch(ctx, []string{f.name}, f.lookEvery, func() { _ = f.Reload() }) // the status says what is wrong, and the log did
}
