// Package installed finds and starts the programs that tests need, which make test-deps installs. It decides that without one a test is skipped, and in CI fails.
package installed

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Tool is where a program of a name is. Without it the test is skipped; in CI it fails.
func Tool(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join(os.Getenv("TOKENBROKER_TEST_TOOLS"), name)
	if _, err := os.Stat(path); err == nil && filepath.IsAbs(path) { //nolint:gosec // the Makefile says where
		return path
	}
	if os.Getenv("CI") != "" {
		t.Fatalf("%s is not installed: make test-deps", name)
	}
	t.Skipf("%s is not installed: make test-deps", name)
	return ""
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
