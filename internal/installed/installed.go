// Package installed finds the programs that tests need, which make test-deps installs. It decides that without one a test is skipped, and in CI fails.
package installed

import (
	"os"
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
