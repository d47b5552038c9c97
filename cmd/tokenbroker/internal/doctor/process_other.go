//go:build !linux

package doctor

import (
	"os"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/settings"
)

// process looks at this process, as far as this system is known.
func (r *Report) process(*settings.Settings) {
	if os.Geteuid() == 0 {
		r.found(RunsAsRoot, "the broker runs as root")
	}
	r.unseen(false, "the process: core dumps, what it may write", "that is known of Linux alone")
}

func roomAt(string) (free, all uint64, ok bool) { return 0, 0, false }
