package steps_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tokenbroker/tokenbroker/internal/steps"
)

// A tree is a directory of a test, by its own name.
type tree struct {
	t   *testing.T
	dir string
}

func newTree(t *testing.T) tree {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return tree{t, dir}
}

func (r tree) at(name string) string { return filepath.Join(r.dir, name) }

func (r tree) put(names ...string) {
	r.t.Helper()
	for _, name := range names {
		if err := errors.Join(os.MkdirAll(filepath.Dir(r.at(name)), 0o700), os.WriteFile(r.at(name), nil, 0o600)); err != nil {
			r.t.Fatal(err)
		}
	}
}

func (r tree) link(name, to string) {
	r.t.Helper()
	to = strings.ReplaceAll(to, "DIR", r.dir)
	if err := errors.Join(os.MkdirAll(filepath.Dir(r.at(name)), 0o700), os.Symlink(to, r.at(name))); err != nil {
		r.t.Fatal(err)
	}
}

// names are those of steps in the tree, from its directory on.
func (r tree) names(all []steps.Step) []string {
	var out []string
	for _, s := range all {
		switch name, within := strings.CutPrefix(s.Path, r.dir+"/"); {
		case !within:
		case s.Info == nil:
			out = append(out, name+" ?")
		case s.IsLink():
			out = append(out, name+" @")
		default:
			out = append(out, name)
		}
	}
	return out
}

// TestTo: each name is looked up where the system looks it up, and the last is what the system finds.
func TestTo(t *testing.T) {
	r := newTree(t)
	r.put("file", "real/policy.yaml", "real/deep/file", "other/file")
	r.link("etc/policy.yaml", "DIR/shared/current")
	r.link("shared/current", "../real/policy.yaml")
	r.link("middle", "real/deep")
	r.link("way/up", "../middle/..")
	r.link("dangling", "real/none/file")
	r.link("loop", "loop2")
	r.link("loop2", "loop")
	r.link("slash", "real/")
	r.link("real/here", ".")
	r.link("real/deep/above", "..")
	r.link("through a file", "file/../other/file")
	for path, want := range map[string][]string{
		"file":                                   {"file"},
		"real//./deep/file":                      {"real", "real/deep", "real/deep/file"},
		"etc/policy.yaml":                        {"etc", "etc/policy.yaml @", "shared", "shared/current @", "real", "real/policy.yaml"},
		"middle/file":                            {"middle @", "real", "real/deep", "real/deep/file"},
		"middle/../policy.yaml":                  {"middle @", "real", "real/deep", "real/policy.yaml"},
		"way/up/policy.yaml":                     {"way", "way/up @", "middle @", "real", "real/deep", "real/policy.yaml"},
		"real/../other/file":                     {"real", "other", "other/file"},
		"slash/policy.yaml":                      {"slash @", "real", "real/policy.yaml"},
		"middle/":                                {"middle @", "real", "real/deep"},
		"real/here":                              {"real", "real/here @", "real"},
		"real/deep/above":                        {"real", "real/deep", "real/deep/above @", "real"},
		"real/deep/..":                           {"real", "real/deep", "real"},
		"none/file":                              {"none ?"},
		"real/none":                              {"real", "real/none ?"},
		"dangling":                               {"dangling @", "real", "real/none ?"},
		"file/more":                              {"file"},
		"file/":                                  {"file"},
		"through a file":                         {"through a file @", "file"},
		strings.Repeat("real/../", 100) + "file": append(strings.Split(strings.Repeat("real ", 100), " ")[:100], "file"),
	} {
		got, err := steps.To(r.dir + "/" + path)
		if d := cmp.Diff(want, r.names(got)); d != "" {
			t.Errorf("%s: got the other (+) steps:\n%s", path, d)
		}
		asTheSystem(t, r.dir+"/"+path, got, err)
	}
	got, err := steps.To(r.at("loop"))
	if !errors.Is(err, syscall.ELOOP) {
		t.Errorf("a loop: got %v", err)
	}
	asTheSystem(t, r.at("loop"), got, err)
	if _, err := steps.To(""); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no path: got %v", err)
	}
	t.Chdir(r.at("way"))
	got, err = steps.To("up/policy.yaml")
	if d := cmp.Diff([]string{"way", "way/up @", "middle @", "real", "real/deep", "real/policy.yaml"}, r.names(got)); d != "" || err != nil {
		t.Errorf("a relative path: %v, %s", err, d)
	}
	asTheSystem(t, "up/policy.yaml", got, err)
}

// asTheSystem holds what was found against what the system finds.
func asTheSystem(t *testing.T, path string, got []steps.Step, err error) {
	t.Helper()
	want, failed := os.Stat(path)
	if (err == nil) != (failed == nil) || failed != nil && !errors.Is(err, errors.Unwrap(failed)) {
		t.Errorf("%s: got %v, and the system says %v", path, err, failed)
	} else if err == nil && !os.SameFile(got[len(got)-1].Info, want) {
		t.Errorf("%s: got another file than the system", path)
	}
}

// TestHowManyLinks are followed: 40, and no more.
func TestHowManyLinks(t *testing.T) {
	r := newTree(t)
	r.put("0")
	for n := 1; n <= 41; n++ {
		r.link(fmt.Sprint(n), fmt.Sprint(n-1))
	}
	got, err := steps.To(r.at("40"))
	if err != nil || got[len(got)-1].Path != r.at("0") {
		t.Errorf("40: got %v", err)
	}
	if _, err := steps.To(r.at("41")); !errors.Is(err, syscall.ELOOP) {
		t.Errorf("41: got %v", err)
	}
}

// FuzzTo: whatever links say, the last step is what the system finds, or it finds nothing either.
func FuzzTo(f *testing.F) {
	f.Add("b/c", "../dir/file", "link", "a/../b")
	f.Add("dir/b", "..", "dir/../c", "a/a/a")
	f.Add("b", "c", "a", "a")
	f.Add("dir/", "dir/file/", "./dir//file", "c/")
	f.Fuzz(func(t *testing.T, a, b, c, path string) {
		for _, s := range []string{a, b, c, path} {
			if s == "" || strings.HasPrefix(s, "/") || strings.ContainsRune(s, 0) || strings.Count(s, "..") > 3 || len(s) > 200 {
				return // what is outside of the tree changes meanwhile
			}
		}
		r := newTree(t)
		r.put("x/y/z/w/v/dir/file")
		in := r.at("x/y/z/w/v")
		for name, to := range map[string]string{"a": a, "b": b, "c": c} {
			if os.Symlink(to, filepath.Join(in, name)) != nil {
				return
			}
		}
		got, err := steps.To(in + "/" + path)
		asTheSystem(t, in+"/"+path, got, err)
	})
}
