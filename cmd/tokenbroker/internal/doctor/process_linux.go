package doctor

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/settings"
	"github.com/tokenbroker/tokenbroker/internal/steps"
)

// process looks at this process.
func (r *Report) process(s *settings.Settings) {
	if os.Geteuid() == 0 {
		r.found(RunsAsRoot, "the broker runs as root")
	} else {
		r.self(s)
	}
	var core unix.Rlimit
	dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	if limit := unix.Getrlimit(unix.RLIMIT_CORE, &core); err != nil || limit != nil {
		r.unseen(false, "whether the process may dump core", "the system does not say")
	} else if core.Cur > 0 && dumpable == 1 {
		r.found(CoreDumps, "the process %d may dump core", os.Getpid())
	}
	r.looked("process: user, core dumps, what it may write of what it is started with")
}

// self looks for what the broker is started with and may write, or have lead elsewhere. Root may write everything, and is another finding.
func (r *Report) self(s *settings.Settings) {
	binary, err := os.Executable()
	if err != nil {
		binary = ""
	}
	look := func(what, path string) {
		if path == "" {
			return
		}
		if p := ours(whole(path)); p != "" {
			r.found(SelfWritable, "the broker's user may write %s, or give itself the right, and so change %s", p, what)
		}
	}
	look("its program", binary)
	look("its settings", s.File)
	look("its policy", s.PolicyFile)
	look("its definitions", s.ProvidersDir)
	names, err := os.ReadDir(s.ProvidersDir)
	if err != nil {
		return // that is said where the files are looked at
	}
	for _, n := range names {
		look("its definitions", s.ProvidersDir+string(filepath.Separator)+n.Name())
	}
}

// ours is the last step to a path that this user may write, or turn; empty: there is none. Who may write a directory may put another one in the place of what is in it, and so on down.
func ours(path string) string {
	all, _ := steps.To(path) // what is not there is nobody's
	for _, s := range slices.Backward(all) {
		switch {
		case s.Info == nil:
		case s.IsLink():
			// A link cannot be written. Its owner may take it away where they may write at all, in a sticky directory too.
			if owns(s.Info) && unix.Faccessat(unix.AT_FDCWD, filepath.Dir(s.Path), unix.W_OK, unix.AT_EACCESS) == nil {
				return s.Path
			}
		case canWrite(s.Path, s.Info):
			return s.Path
		}
	}
	return ""
}

// canWrite reports whether this user may write, or give themselves the right. In a sticky directory nobody replaces what is another's.
func canWrite(path string, i fs.FileInfo) bool {
	err := unix.Faccessat(unix.AT_FDCWD, path, unix.W_OK, unix.AT_EACCESS)
	if err == nil {
		return owns(i) || i.Mode()&os.ModeSticky == 0
	}
	return owns(i) && !errors.Is(err, unix.EROFS)
}

func owns(i fs.FileInfo) bool {
	uid, ok := ownerOf(i)
	return ok && uid == os.Geteuid()
}

// roomAt is how many bytes of the file system that a path is on are free to users, and how many it has.
func roomAt(path string) (free, all uint64, ok bool) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return 0, 0, false
	}
	size := uint64(s.Bsize) //nolint:gosec // no file system's is negative
	return s.Bavail * size, s.Blocks * size, true
}
