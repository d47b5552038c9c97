// Package steps says by which steps a path leads to a file. It decides nothing about any of them.
package steps

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// mostLinks is how many links a path may lead through: as many as Linux follows.
const mostLinks = 40

// A Step is one name that is looked up on the way to a file.
type Step struct {
	// Path is absolute. The directory above its last name has neither links nor ".." in it: it is the one in which the name was looked up.
	Path string
	// Info is of what has that name, and of a link itself; nil: it cannot be looked at.
	Info fs.FileInfo
}

// IsLink reports whether the step leads elsewhere.
func (s Step) IsLink() bool { return s.Info != nil && s.Info.Mode()&fs.ModeSymlink != 0 }

// To returns the steps to what a path leads to, in the order in which the system takes them: the root, each directory and each link, and last the file itself. An absolute link starts
// at the root again, and what is passed twice is there twice. ".." is no step of its own, because the directory that it leads to was one before.
//
// Where a path leads nowhere, the steps are those up to the name that cannot be looked up, and the error is what the system says of it. So it is with more links than a system follows.
// What is so may have changed before To returns.
func To(path string) ([]Step, error) {
	if path == "" {
		return nil, &fs.PathError{Op: "lstat", Path: path, Err: fs.ErrNotExist}
	}
	const separator = string(filepath.Separator)
	if !filepath.IsAbs(path) {
		here, err := os.Getwd()
		if err != nil {
			return nil, err
		}
		path = here + separator + path // filepath.Join drops what stands before "..", which may be a link
	}
	root := filepath.VolumeName(path) + separator
	info, err := os.Lstat(root)
	out := []Step{{root, info}}
	if err != nil {
		return out, err
	}
	at, links := root, 0
	rest := strings.Split(path[len(root):], separator)
	for len(rest) > 0 {
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			at = filepath.Dir(at)
			continue
		}
		p := filepath.Join(at, name)
		info, err := os.Lstat(p)
		out = append(out, Step{p, info})
		switch {
		case err != nil:
			return out, err
		case info.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(p)
			if links++; err == nil && links > mostLinks {
				err = &fs.PathError{Op: "readlink", Path: p, Err: syscall.ELOOP}
			}
			if err != nil {
				return out, err
			}
			if filepath.IsAbs(to) {
				at = root
				to = to[len(filepath.VolumeName(to)):]
			}
			rest = append(strings.Split(to, separator), rest...)
		case !info.IsDir() && len(rest) > 0:
			return out, &fs.PathError{Op: "lstat", Path: p, Err: syscall.ENOTDIR}
		default:
			at = p
		}
	}
	if out[len(out)-1].Path != at { // it ends with a link to the root, to "." or to ".."
		info, err := os.Lstat(at)
		return append(out, Step{at, info}), err
	}
	return out, nil
}
