//go:build unix

package doctor

import (
	"io/fs"
	"os"
	"syscall"
)

// ownerOf is who owns a file; false: nobody knows.
func ownerOf(i fs.FileInfo) (uid int, ok bool) {
	s, ok := i.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return int(s.Uid), true
}

// deviceOf is which file system a path leads to.
func deviceOf(path string) (dev uint64, ok bool) {
	i, err := os.Stat(path)
	if err != nil {
		return 0, false
	}
	s, ok := i.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return uint64(s.Dev), true //nolint:unconvert // it has another size on some systems
}
