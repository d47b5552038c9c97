package daemon

import (
	"fmt"
	"log/slog"
	"os"
	"syscall"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
)

// ownDirectory makes the data directory if it is missing. It refuses one in which others may put things in place of the broker's, and warns of
// one that they may only enter.
func ownDirectory(path string, log *slog.Logger) error {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return fmt.Errorf("make the data directory: %w", err)
	}
	i, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("look at the data directory: %w", err)
	}
	mode := fmt.Sprintf("%04o", i.Mode().Perm())
	if i.Mode().Perm()&0o022 != 0 {
		return console.BadInput("setting data_dir: other users may write to %s (mode %s), and put a socket or a key of theirs there: chmod go-w it, or name a directory in it, which is made", path, mode)
	}
	if s, ok := i.Sys().(*syscall.Stat_t); ok && int(s.Uid) != os.Geteuid() && s.Uid != 0 {
		return console.BadInput("setting data_dir: %s belongs to another user (%d): run the broker as that user, or name a directory of your own", path, s.Uid)
	}
	if i.Mode().Perm()&0o077 != 0 {
		log.Warn("other users may enter the data directory: only the broker's should", "data_dir", path, "mode", mode, "wanted", "0700")
	}
	return nil
}
