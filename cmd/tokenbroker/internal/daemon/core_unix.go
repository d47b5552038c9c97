//go:build unix

package daemon

import (
	"log/slog"
	"syscall"
)

// noCoreDumps keeps what is in memory, keys and tokens among it, out of files. Root can turn it off again.
func noCoreDumps(log *slog.Logger) {
	var l syscall.Rlimit
	err := syscall.Getrlimit(syscall.RLIMIT_CORE, &l)
	if err == nil {
		l.Cur = 0
		err = syscall.Setrlimit(syscall.RLIMIT_CORE, &l)
	}
	if err != nil {
		log.Warn("core dumps cannot be turned off: one would have keys and tokens in it", "error", err.Error())
	}
}
