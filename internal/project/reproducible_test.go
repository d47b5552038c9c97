package project

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"
)

var isCommand = regexp.MustCompile(`(?m)^package main$`)

// copyTree copies what is built from, without what git and make keep here. Each Go file of a package that is no command gets a last line: the
// compiler has not seen it, and does all of its work again, which may make no difference.
func copyTree(t *testing.T, to, last string) {
	t.Helper()
	files := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if rel != "." && (strings.HasPrefix(rel, ".") || rel == "bin") {
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		}
		if !d.Type().IsRegular() {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if last != "" && strings.HasSuffix(rel, ".go") && !isCommand.Match(text) {
			files++
			text = append(text, last...)
		}
		return os.WriteFile(filepath.Join(to, rel), text, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	if last != "" && files < 100 {
		t.Fatalf("found %d files to compile again", files)
	}
}

// TestTheSameSourcesGiveTheSameBytes builds as make build and as the Dockerfile do, in two directories, one of them a repository of git.
//
// Our packages are compiled for each of the two and the command is linked for each. The commands' own packages, the modules and the standard
// library come from the build cache: to compile them again takes minutes (go build -a).
func TestTheSameSourcesGiveTheSameBytes(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it compiles and links the command several times")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	base := t.TempDir()
	one, two := filepath.Join(base, "one"), filepath.Join(base, "two", "elsewhere")
	copyTree(t, one, "")
	copyTree(t, two, fmt.Sprintf("\n// %d\n", time.Now().UnixNano()))

	run := func(dir, command string, env ...string) {
		t.Helper()
		cmd := exec.CommandContext(ctx, "sh", "-euc", command)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), append([]string{"GOFLAGS=-buildvcs=auto", "MAKEFLAGS=", "PWD=" + dir}, env...)...)
		cmd.WaitDelay = time.Second
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", command, err, out)
		}
	}
	run(two, `git init -q && git add . && git -c user.name=x -c user.email=x -c commit.gpgsign=false commit -qm x && git tag v0.9.0`)

	var image string
	for _, r := range readDockerfile(t)[0].all("RUN") {
		if strings.Contains(r.arguments, "go build ") {
			image = strings.ReplaceAll(r.arguments, " /out/", " bin/image/")
		}
	}
	for _, way := range []struct{ name, command, binary string }{
		{"make build", "make build VERSION=v1.2.3", "bin/tokenbroker"},
		{"the Dockerfile", image, "bin/image/tokenbroker"},
	} {
		run(one, way.command, "VERSION=v1.2.3", "TARGETOS=linux", "TARGETARCH="+runtime.GOARCH)
		run(two, way.command, "VERSION=v1.2.3", "TARGETOS=linux", "TARGETARCH="+runtime.GOARCH, "TZ=Asia/Tokyo", "LC_ALL=C")
		a, err := os.ReadFile(filepath.Join(one, way.binary))
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(two, way.binary))
		if err != nil {
			t.Fatal(err)
		}
		if len(a) < 1<<20 || !bytes.Contains(a, []byte("v1.2.3")) {
			t.Errorf("%s: got %d bytes, want the command with its version in it", way.name, len(a))
		}
		if bytes.Contains(a, []byte(base)) {
			t.Errorf("%s: the directory's name is in the binary", way.name)
		}
		if !bytes.Equal(a, b) {
			at := 0
			for at < min(len(a), len(b)) && a[at] == b[at] {
				at++
			}
			t.Errorf("%s: two binaries, of %d and %d bytes, differ from byte %d on: see go version -m of each", way.name, len(a), len(b), at)
		}
	}
}
