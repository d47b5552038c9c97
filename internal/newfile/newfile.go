// Package newfile makes files that appear whole or not at all, survive a power failure, and take no other file's place.
package newfile

import (
	"errors"
	"os"
	"path/filepath"
)

// Write makes a file with mode 0600 at path of what write writes. It fails with fs.ErrExist, at the end, where something is there: a
// link replaces nothing, unlike a rename. Errors of write are passed on as they are.
func Write(path string, write func(*os.File) error) error {
	dir, err := os.Open(filepath.Dir(path)) // before there is a file: one that was made must not be said to have failed
	if err != nil {
		return err
	}
	defer dir.Close()                             //nolint:errcheck // nothing is written to it
	f, err := os.CreateTemp(dir.Name(), ".new-*") // 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	if err = write(f); err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Link(f.Name(), path)
	}
	if err == nil {
		err = dir.Sync()
	}
	return err
}

// SyncDir makes the names in a directory survive a power failure.
func SyncDir(dir string) error {
	d, err := os.Open(dir) //nolint:gosec // whoever asks says where their file lies
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
