package readfile

import (
	"errors"
	"fmt"
	"io/fs"
)

// ErrForeign is a private file of another user, who can give it to anybody.
var ErrForeign = errors.New("it belongs to another user: chown it to the user that runs tokenbroker")

// TooOpen says that others than a file's owner can read it, or change it.
type TooOpen struct{ Mode fs.FileMode }

// Error implements error.
func (e *TooOpen) Error() string {
	return fmt.Sprintf("it can be read or changed by others (mode %04o): chmod 600", e.Mode)
}

// Private is Read for files with secrets: it also fails with *TooOpen for a file that others may read, and with ErrForeign for one that is
// neither this user's nor root's. The rules hold for what a symbolic link leads to, and for what was opened, not for what was there a moment before.
//
// A file that root gives to a group of ours is read: root's, writable by nobody else, and readable by that group or by root's. That is how a Secret of
// Kubernetes with an fsGroup looks (0440), and a credential of systemd with an access control list.
func Private(name string, most int64) ([]byte, error) {
	f, info, err := Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // it was only read
	if OthersRead(info) {
		return nil, &TooOpen{info.Mode().Perm()}
	}
	if !ownedByUs(info) {
		return nil, ErrForeign
	}
	return readAll(f, info, most)
}

// OthersRead reports whether others than whom it is meant for may read a file with a secret, or write it, by what Private says.
func OthersRead(info fs.FileInfo) bool {
	perm := info.Mode().Perm()
	return perm&0o077 != 0 && (perm&^handedMost != 0 || !handed(info))
}

// handedMost is the widest mode of a file that root gives to a group.
const handedMost = 0o640
