//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package bolt

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// hold takes the lock beside the data file, which also says who holds it. The system releases it when the process ends,
// however that comes about. The file stays: removing it would let two processes lock two files of one name.
func hold(path string) (*os.File, error) {
	f, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600) //nolint:gosec // the operator says where the file lies
	if err != nil {
		return nil, unusable(path, "its lock file cannot be opened: "+reason(err))
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		holder := holderOf(f)
		_ = f.Close()
		return nil, unusable(path, "another broker has it open: "+holder+": stop that first")
	}
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		host, _ := os.Hostname() // of use only to people
		_, err = fmt.Fprintf(f, "process %d on %s\n", os.Getpid(), host)
	}
	if err != nil {
		_ = f.Close()
		return nil, unusable(path, "its lock file cannot be written: "+reason(err))
	}
	return f, nil
}

// holderOf reads what the holder wrote; it may not have come to it yet.
func holderOf(f io.Reader) string {
	b, err := io.ReadAll(io.LimitReader(f, 256))
	who := strings.TrimSpace(string(b))
	if err != nil || who == "" {
		return "an unknown process"
	}
	return who
}

func release(f *os.File) { _ = f.Close() } // closing unlocks
