// Package installed finds and starts the programs that tests need, which make test-deps installs. It decides that a test that cannot run is skipped, and in CI
// fails.
package installed

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Without ends a test that cannot run here, and says why: it is skipped, and in CI it fails.
func Without(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf(format+" (and this is CI)", args...)
	}
	t.Skipf(format, args...)
}

// Tool is where a program of a name is: among the tools of this tree, else in $PATH. The test goes no further without it.
func Tool(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join(os.Getenv("TOKENBROKER_TEST_TOOLS"), name)
	if _, err := os.Stat(path); err == nil && filepath.IsAbs(path) { //nolint:gosec // the Makefile says where
		return path
	}
	path, err := exec.LookPath(name)
	if err != nil {
		Without(t, "%s is not installed: make test-deps", name)
	}
	return path
}

// Start starts a program that ends with its input, or is killed when the test ends.
func Start(t testing.TB, cmd *exec.Cmd) (in io.Writer, out io.Reader) {
	t.Helper()
	to, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	from, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = to.Close()
		_ = cmd.Wait()
	})
	return to, from
}
