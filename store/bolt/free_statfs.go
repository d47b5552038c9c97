//go:build darwin || linux

package bolt

import "golang.org/x/sys/unix"

// freeAt is how many bytes there are for us on the disk that the directory is on; false: unknown.
func freeAt(dir string) (uint64, bool) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, false
	}
	return s.Bavail * uint64(s.Bsize), true //nolint:gosec // never negative
}
