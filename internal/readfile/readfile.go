// Package readfile reads files that others have put there: regular ones, of a bounded size, without waiting for anybody.
package readfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// ErrNotRegular is what is read is a pipe, a device, a directory or a socket: opening or reading it could wait for ever.
var ErrNotRegular = errors.New("it is not a regular file")

// TooLarge says that a file has more than so many bytes.
type TooLarge struct{ Most int64 }

// Error implements error.
func (e *TooLarge) Error() string { return fmt.Sprintf("it is larger than %d bytes", e.Most) }

// Read returns a file's content, of at most so many bytes. A symbolic link is followed, which is how files are mounted. It fails with
// ErrNotRegular, *TooLarge, or what the system says.
func Read(name string, most int64) ([]byte, error) {
	f, info, err := Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // it was only read
	return readAll(f, info, most)
}

func readAll(f *os.File, info fs.FileInfo, most int64) ([]byte, error) {
	if info.Size() > most {
		return nil, &TooLarge{most}
	}
	data, err := io.ReadAll(io.LimitReader(f, most+1)) // it may grow
	if err == nil && int64(len(data)) > most {
		return nil, &TooLarge{most}
	}
	return data, err
}

// Why is what the system says of a failure of Read or Open, without the file's name: where that is a setting's value, it may be anything.
func Why(err error) error {
	if named := (*fs.PathError)(nil); errors.As(err, &named) {
		return named.Err
	}
	return err
}

// Open opens a regular file for reading; info is of what was opened, whatever the name leads to by then. It fails with ErrNotRegular, or
// what the system says.
func Open(name string) (f *os.File, info os.FileInfo, err error) {
	// To open a device may do something, and to open a pipe waits for whoever writes: neither is done, nor if it takes the name's place
	// between the two.
	if info, err := os.Stat(name); err == nil && !info.Mode().IsRegular() {
		return nil, nil, ErrNotRegular
	}
	f, err = os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0) //nolint:gosec // whoever asks says where their file lies
	if err != nil {
		return nil, nil, err
	}
	if info, err = f.Stat(); err == nil && !info.Mode().IsRegular() {
		err = ErrNotRegular
	}
	if err != nil {
		_ = f.Close()
		return nil, nil, err
	}
	return f, info, nil
}
