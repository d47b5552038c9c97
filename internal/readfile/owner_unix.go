//go:build unix

package readfile

import (
	"io/fs"
	"os"
	"slices"
	"syscall"
)

// ownedByUs reports whether nobody but this user and root can change who may read the file.
func ownedByUs(info fs.FileInfo) bool {
	s, ok := info.Sys().(*syscall.Stat_t)
	return !ok || s.Uid == 0 || int64(s.Uid) == int64(os.Geteuid())
}

// handed reports whether a file is root's, and of root's group or of one of ours, and we are not root ourselves.
func handed(info fs.FileInfo) bool {
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok || s.Uid != 0 || os.Geteuid() == 0 {
		return false
	}
	groups, err := os.Getgroups()
	return s.Gid == 0 || int64(s.Gid) == int64(os.Getegid()) || err == nil && slices.Contains(groups, int(s.Gid))
}
