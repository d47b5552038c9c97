package readfile

import (
	"errors"
	"fmt"
	"io/fs"
)

// ErrForeign is a private file of another user, who can give it to anybody.
var ErrForeign = errors.New("it belongs to another user: chown it to the user that runs tokenbroker")

// TooOpen says that others than a file's owner can read it, or change it.
type TooOpen struct {
	Mode fs.FileMode
	// List: the file has an access control list, of which the mode shows the most that it gives anybody.
	List bool
}

// Error implements error.
func (e *TooOpen) Error() string {
	if e.List {
		return fmt.Sprintf("it can be read or changed by others (mode %04o), by its access control list: see getfacl", e.Mode)
	}
	return fmt.Sprintf("it can be read or changed by others (mode %04o): chmod 600", e.Mode)
}

// Private is Read for files with secrets: it also fails with *TooOpen for a file that others may read, and with ErrForeign for one that is
// neither this user's nor root's. The rules hold for what a symbolic link leads to, and for what was opened, not for what was there a moment before.
//
// A file that root gives to us is read: root's, of mode 0640 at most, and readable beside root by this user and by groups of this user alone. That is how a Secret of Kubernetes
// with an fsGroup looks (0440, of a group of ours), and a credential of systemd (0440, of root's group, which may not read it, with an access control list that names this user).
// Whoever else is in such a group reads the file, too: root has chosen it.
//
// Who may read it is what its access control list says, where it has one (on Linux; acl(5)): each user that it names has to be this one, or root, and each group, by name or as the
// file's, one of ours. Root's group is as any other: not everybody who is in it is root. So a file of root's and its group without a list is not believed if that group is not ours:
// whoever reads it regardless, by a capability or because a file server has its own rules, was not given it by what can be seen. What the mask takes away counts as not given,
// and a list that cannot be read, or is not understood, as one that names others.
func Private(name string, most int64) ([]byte, error) {
	f, info, err := Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // it was only read
	if list, err := listOf(f); othersRead(info, list, err) {
		return nil, &TooOpen{info.Mode().Perm(), len(list) > 0}
	}
	if !ownedByUs(info) {
		return nil, ErrForeign
	}
	return readAll(f, info, most)
}

// OthersRead reports whether others than whom it is meant for may read a file with a secret, or write it, by what Private says. info is of what the path leads to.
func OthersRead(path string, info fs.FileInfo) bool {
	list, err := listAt(path)
	return othersRead(info, list, err)
}

// othersRead is given the access control list, or why it is not known.
func othersRead(info fs.FileInfo, list []byte, err error) bool {
	perm := info.Mode().Perm()
	return perm&0o077 != 0 && (perm&^handedMost != 0 || err != nil || !handed(info, list))
}

// handedMost is the widest mode of a file that root gives to us.
const handedMost = 0o640

// OthersWrite reports whether others than its owner, root, this user and root's group may write what a path leads to, of which info is, by its mode or its access control list.
func OthersWrite(path string, info fs.FileInfo) bool {
	perm := info.Mode().Perm()
	if perm&0o022 != 0o020 {
		return perm&0o022 != 0
	}
	list, err := listAt(path)
	return err != nil || groupMayWrite(info, list)
}
