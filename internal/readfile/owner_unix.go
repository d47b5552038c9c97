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
	return !ok || s.Uid == 0 || isUs(s.Uid)
}

// handed reports whether a file is root's, we are not root ourselves, and those who may read it by its group bits are this user, root, and groups of ours.
func handed(info fs.FileInfo, list []byte) bool {
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok || s.Uid != 0 || os.Geteuid() == 0 {
		return false
	}
	all, err := grants(info.Mode(), s.Gid, list)
	if err != nil {
		return false
	}
	ours, err := os.Getgroups()
	if err != nil {
		ours = nil
	}
	ours = append(ours, os.Getegid())
	return !slices.ContainsFunc(all, func(g grant) bool {
		switch {
		case g.perm&0o4 == 0:
			return false
		case g.user:
			return g.id != 0 && !isUs(g.id)
		default: // root's group too: not everybody who is in it is root
			return !slices.Contains(ours, int(g.id))
		}
	})
}

// groupMayWrite reports whether anybody but root, this user and root's group may write a file by its group bits.
func groupMayWrite(info fs.FileInfo, list []byte) bool {
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return info.Mode()&0o020 != 0
	}
	all, err := grants(info.Mode(), s.Gid, list)
	return err != nil || slices.ContainsFunc(all, func(g grant) bool { return g.perm&0o2 != 0 && g.id != 0 && (!g.user || !isUs(g.id)) })
}

func isUs(uid uint32) bool { return int64(uid) == int64(os.Geteuid()) }
