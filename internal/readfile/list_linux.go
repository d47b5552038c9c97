package readfile

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// listOf is the access control list of an open file; empty: it has none, or its file system has no such lists.
func listOf(f *os.File) ([]byte, error) {
	return list(func(to []byte) (int, error) { return unix.Fgetxattr(int(f.Fd()), attribute, to) })
}

// listAt is listOf for what a path leads to.
func listAt(path string) ([]byte, error) {
	return list(func(to []byte) (int, error) { return unix.Getxattr(path, attribute, to) })
}

const attribute = "system.posix_acl_access"

func list(get func(to []byte) (int, error)) ([]byte, error) {
	n, err := get(nil)
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	out := make([]byte, n)
	n, err = get(out) // one that has grown since is an error
	if err != nil {
		return nil, err
	}
	return out[:n], nil
}
