package operator

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
)

// TestCertsDevBelievesNoDirectoryOfOthers: whoever may write to the directory could have put settings, a policy and keys of theirs there, also with --once.
func TestCertsDevBelievesNoDirectoryOfOthers(t *testing.T) {
	there := func(mode os.FileMode, files ...string) string {
		dir := filepath.Join(t.TempDir(), "certs")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if err := os.WriteFile(filepath.Join(dir, f), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	given := func(dir string) string {
		if os.Geteuid() != 0 {
			return ""
		}
		if err := os.Lchown(dir, 65534, 65534); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(there(0o700, "settings.yaml"), link); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		dir   string // empty: this needs root
		once  bool
		wrong string // empty: it is made, or left alone
	}{
		{filepath.Join(t.TempDir(), "new", "certs"), true, ""},
		{there(0o700), false, ""},
		{there(0o755, "settings.yaml"), true, ""},
		{there(0o700, "settings.yaml"), false, "is not empty"},
		{there(0o700, "other"), true, "is not empty"},
		{there(0o777, "settings.yaml"), true, "others may write there"},
		{there(0o770), false, "others may write there"},
		{link, true, "or it is a link"},
		{given(there(0o755)), false, "belongs to another user (65534)"},
		{given(there(0o755)), true, "belongs to another user (65534)"},
		{given(there(0o755, "settings.yaml")), true, "belongs to another user (65534)"},
	} {
		if x.dir == "" {
			continue
		}
		before, _ := os.ReadDir(x.dir)
		var out bytes.Buffer
		c := certsDevCommand{Dir: x.dir, TrustDomain: "example.org", Life: time.Hour, Once: x.once}
		err := c.Run(&console.Process{Context: t.Context(), Stdout: &out, Stderr: &out})
		after, _ := os.ReadDir(x.dir)
		switch {
		case x.wrong == "":
			if _, there := os.Stat(filepath.Join(x.dir, "settings.yaml")); err != nil || there != nil {
				t.Errorf("%s: %v, %v", x.dir, err, there)
			}
		case err == nil || !strings.Contains(err.Error(), x.wrong) || console.ExitCode(err) != console.ExitUsage:
			t.Errorf("%s: got %v, want %q", x.dir, err, x.wrong)
		case len(after) != len(before) || out.Len() > 0:
			t.Errorf("%s: %d files are there, %d were; said %q", x.dir, len(after), len(before), &out)
		}
	}
}
