package audit

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/tokenbroker/tokenbroker/internal/newfile"
	"github.com/tokenbroker/tokenbroker/internal/readfile"
)

// An appendable is what a file has to do: *os.File.
type appendable interface {
	io.Writer
	io.ReaderAt
	io.Closer
	Sync() error
	Stat() (fs.FileInfo, error)
}

// A fileSink appends to what is at path. Where that is another file by now, or none, it is opened anew.
type fileSink struct {
	path string
	open func(path string) (appendable, error)

	f appendable
	// torn: what is in the file does not end with a line's end.
	torn bool
	// unsynced: something is written since the last sync.
	unsynced bool
	// broken: the last write has failed, and another file may do.
	broken bool
	buf    []byte
}

func openFileSink(path string, open func(string) (appendable, error)) (*fileSink, error) {
	s := &fileSink{path: path, open: open}
	var err error
	if s.f, s.torn, err = s.opened(); err != nil {
		return nil, err
	}
	return s, nil
}

// othersMayWrite are the bits of a mode by which others than a file's owner may write it.
const othersMayWrite = 0o022

var errKernels = errors.New("it would be on proc, sysfs or the like, which keep nothing: name a file on a disk")

// suits says why a file may not be the log.
func suits(info fs.FileInfo) error {
	switch {
	case !info.Mode().IsRegular():
		return readfile.ErrNotRegular
	case info.Mode().Perm()&othersMayWrite != 0:
		return fmt.Errorf("others than its owner may write it (mode %04o): run chmod go-w on it", info.Mode().Perm())
	}
	return nil
}

// look says why what is at path may not be the log, and opens nothing: to open a device may do something, and to open a pipe waits for whoever reads.
func look(path string) (isNew bool, err error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err == nil {
		err = suits(info)
	}
	if err == nil && isKernels(path) {
		err = errKernels
	}
	return false, err
}

// A NoDirectoryError says that the directory is not there in which a file would be made.
type NoDirectoryError struct{ Path string }

// Error implements error, and does not quote the path.
func (*NoDirectoryError) Error() string {
	return "its directory is not there: make that first, or name another file"
}

// CheckFile says why a path that is not empty cannot be that of Settings.File, as far as that can be known without opening anything or making it. It does not
// quote the path. It fails with a *NoDirectoryError, or with what New would say.
func CheckFile(path string) error {
	isNew, err := look(path)
	if err != nil {
		return readfile.Why(err)
	}
	if !isNew {
		return may(path, unix.R_OK|unix.W_OK)
	}
	dir, err := directoryOf(path)
	if err != nil {
		return err
	}
	_, err = os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &NoDirectoryError{dir}
	case err != nil:
		return readfile.Why(err)
	case isKernels(dir):
		return errKernels
	}
	return may(dir, unix.W_OK|unix.X_OK)
}

// directoryOf is where a file is made that is not there: at the end of links that lead to nothing.
func directoryOf(path string) (string, error) {
	for range 256 { // more than any system follows
		dir, name := filepath.Split(path) // not Dir: what is before .. may be a link
		if name == "" {
			return "", syscall.EISDIR
		}
		if dir == "" {
			dir = "."
		}
		to, err := os.Readlink(path)
		if err != nil {
			return dir, nil //nolint:nilerr // it is no link
		}
		if !filepath.IsAbs(to) {
			to = dir + string(filepath.Separator) + to
		}
		path = to
	}
	return "", syscall.ELOOP
}

// may says why this process may not use what is at path so: unix.R_OK and the like. A file that nobody may change is told apart by Access alone.
func may(path string, mode uint32) error {
	if err := unix.Faccessat(unix.AT_FDCWD, path, mode, unix.AT_EACCESS); err != nil {
		return err
	}
	if err := unix.Access(path, mode); errors.Is(err, unix.EPERM) {
		return err
	}
	return nil
}

// openLog opens a file for appending, or makes it.
func openLog(path string) (appendable, error) {
	isNew, err := look(path)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE|syscall.O_NONBLOCK, 0o600) //nolint:gosec // the settings say where it lies
	if err != nil {
		return nil, err
	}
	if isNew { // its name is to survive a power failure, too
		if err = newfile.SyncDir(filepath.Dir(path)); errors.Is(err, fs.ErrPermission) {
			err = nil // a directory that nobody may list
		}
	}
	var info fs.FileInfo
	if err == nil {
		info, err = f.Stat()
	}
	if err == nil {
		err = suits(info) // another may have taken its place
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// opened opens the file, and says whether its last line is torn.
func (s *fileSink) opened() (appendable, bool, error) {
	f, err := s.open(s.path)
	if err != nil {
		return nil, false, readfile.Why(err)
	}
	info, err := f.Stat()
	if err == nil && info.Size() > 0 {
		var last [1]byte
		if _, err = f.ReadAt(last[:], info.Size()-1); err == nil {
			return f, last[0] != '\n', nil
		}
	}
	if err != nil {
		_ = f.Close()
		return nil, false, readfile.Why(err)
	}
	return f, false, nil
}

// there reports whether the file that is open is the one at path.
func (s *fileSink) there() bool {
	at, err := os.Stat(s.path)
	if err != nil {
		return false
	}
	is, err := s.f.Stat()
	return err == nil && os.SameFile(at, is)
}

// removed reports whether the file has no name any more: what is in it is lost.
func (s *fileSink) removed() bool {
	info, err := s.f.Stat()
	if err != nil {
		return true
	}
	of, known := info.Sys().(*syscall.Stat_t)
	return known && of.Nlink == 0
}

// follow sees to it that the file at path is open. errAgain: what was written to the former one is lost.
func (s *fileSink) follow() error {
	there := s.f != nil && s.there()
	if there && !s.broken {
		return nil
	}
	f, torn, err := s.opened()
	if err != nil {
		if there { // whoever opened it may write it, also if nobody may open it any more
			return nil
		}
		return err
	}
	return s.replace(f, torn)
}

// replace goes on with another file, once the former's lines cannot be lost.
func (s *fileSink) replace(f appendable, torn bool) error {
	var err error
	if s.f != nil {
		if s.unsynced {
			if s.removed() || s.f.Sync() != nil {
				err = errAgain
			}
		}
		_ = s.f.Close() // it is synced
	}
	s.f, s.torn, s.unsynced, s.broken = f, torn, false, false
	return err
}

// write implements sink. A line counts as written without its end: the next one brings that.
func (s *fileSink) write(lines []*entry) (int, error) {
	if err := s.follow(); err != nil {
		return 0, err
	}
	buf := s.buf[:0]
	if s.torn {
		buf = append(buf, '\n')
	}
	ends := make([]int, len(lines))
	for i, l := range lines {
		buf = append(buf, l.data...)
		ends[i] = len(buf)
	}
	s.buf = buf
	n, err := s.f.Write(buf)
	whole := 0
	for whole < len(lines) && n >= ends[whole]-1 {
		whole++
	}
	if n > 0 {
		s.unsynced, s.torn = true, buf[n-1] != '\n'
	}
	if err != nil {
		s.broken = true
		return whole, readfile.Why(err)
	}
	return whole, nil
}

// sync implements sink. What is in a file without a name is lost, and so may be what a sync has failed for: the system forgets what it could not write.
func (s *fileSink) sync() error {
	if s.f == nil {
		return errAgain
	}
	err := s.f.Sync()
	if err == nil && s.removed() {
		err = errAgain
	}
	if err != nil {
		s.broken, s.unsynced = true, false
		return readfile.Why(err)
	}
	s.unsynced = false
	return nil
}

// reopen implements sink.
func (s *fileSink) reopen() error {
	f, torn, err := s.opened()
	if err != nil {
		return err
	}
	return s.replace(f, torn)
}

func (s *fileSink) close() {
	if s.f != nil {
		_ = s.f.Close() // it is synced
	}
}

// abort implements sink. Nothing makes a file system answer.
func (s *fileSink) abort() {}
