package bolt

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"syscall"

	berrors "go.etcd.io/bbolt/errors"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/store"
)

var (
	errClosed     = store.Unavailable("the data file is closed")
	errUnchanged  = errors.New("nothing to write")
	errNotRegular = errors.New("it is not a regular file")
)

// Why Open leaves a file as it is. Its failure matches one of them.
var (
	ErrDamaged   = errors.New("it is damaged: restore a backup; it was left as it is")
	ErrTruncated = errors.New("it is truncated: restore a backup; it was left as it is")
	ErrForeign   = errors.New("it is not a data file of tokenbroker; it was left as it is")
)

// A leftAlone is a StoreUnavailable that says what is wrong with the file.
type leftAlone struct {
	failure *broker.Failure
	why     error
}

func (e *leftAlone) Error() string   { return e.failure.Error() }
func (e *leftAlone) Unwrap() []error { return []error{e.failure, e.why} }

// failed gives every error of bbolt and of the system as StoreUnavailable, and wraps nothing.
func failed(err error) error {
	var f *broker.Failure
	switch {
	case err == nil:
		return nil
	case errors.As(err, &f):
		return err
	case errors.Is(err, berrors.ErrDatabaseNotOpen), errors.Is(err, os.ErrClosed):
		return errClosed
	}
	return store.Unavailable("the data file: " + reason(err))
}

// ourOwn is the error that is of this package; nil: it is of another.
func ourOwn(err error) error {
	for _, ours := range []error{ErrDamaged, ErrTruncated, ErrForeign, errNotRegular} {
		if errors.Is(err, ours) {
			return ours
		}
	}
	if errors.Is(err, berrors.ErrInvalid) || errors.Is(err, berrors.ErrChecksum) {
		return ErrDamaged
	}
	return nil
}

// reason is an error's text without anything that could come from a row: our own texts, and the system's by number.
func reason(err error) string {
	if ours := ourOwn(err); ours != nil {
		return ours.Error()
	}
	var n syscall.Errno
	for _, full := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG} {
		// Where it lets the file grow, bbolt keeps no more of the system's error than its text.
		if errors.Is(err, full) || strings.HasSuffix(err.Error(), full.Error()) {
			return "the disk is full: " + full.Error()
		}
	}
	switch {
	case errors.As(err, &n):
		return n.Error()
	case errors.Is(err, berrors.ErrMaxSizeReached):
		return "it may not grow any more"
	case errors.Is(err, fs.ErrExist):
		return "it is there already"
	case errors.Is(err, berrors.ErrTimeout):
		return "another process has it open"
	case errors.Is(err, berrors.ErrDatabaseReadOnly):
		return "it can only be read"
	case errors.Is(err, berrors.ErrVersionMismatch):
		return "another version of bbolt wrote it"
	}
	return "it cannot be read or written"
}
