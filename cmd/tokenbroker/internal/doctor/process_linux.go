package doctor

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/settings"
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

// self looks for what the broker is started with and may write. Root may write everything, and is another finding.
func (r *Report) self(s *settings.Settings) {
	binary, err := os.Executable()
	if err != nil {
		binary = ""
	}
	for _, x := range []struct{ what, path string }{
		{"its program", binary}, {"its settings", s.File}, {"its policy", s.PolicyFile}, {"its definitions", s.ProvidersDir},
	} {
		if x.path == "" {
			continue
		}
		for _, p := range []string{x.path, filepath.Dir(x.path)} {
			if canWrite(p) {
				r.found(SelfWritable, "the broker's user may write %s, or give itself the right, and so change %s", p, x.what)
				break
			}
		}
	}
}

// canWrite reports whether this user may write, or give themselves the right. In a sticky directory nobody replaces what is another's.
func canWrite(path string) bool {
	i, err := os.Stat(path)
	if err != nil {
		return false
	}
	uid, ok := ownerOf(i)
	own := ok && uid == os.Geteuid()
	err = unix.Faccessat(unix.AT_FDCWD, path, unix.W_OK, unix.AT_EACCESS)
	if err == nil {
		return own || i.Mode()&os.ModeSticky == 0
	}
	return own && !errors.Is(err, unix.EROFS)
}
