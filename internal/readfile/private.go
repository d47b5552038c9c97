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
func Private(name string, most int64) ([]byte, error) {
	f, info, err := Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // it was only read
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return nil, &TooOpen{perm}
	}
	if !ownedByUs(info) {
		return nil, ErrForeign
	}
	return readAll(f, info, most)
}
