//go:build unix

package readfile

import (
	"io/fs"
	"os"
	"syscall"
)

// ownedByUs reports whether nobody but this user and root can change who may read the file.
func ownedByUs(info fs.FileInfo) bool {
	s, ok := info.Sys().(*syscall.Stat_t)
	return !ok || s.Uid == 0 || int64(s.Uid) == int64(os.Geteuid())
}
