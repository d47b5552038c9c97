package console

import (
	"os"
	"path/filepath"
	"testing"
)

func TestAFileIsReadUpToItsLimit(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, []byte("1234"), 0o600); err != nil {
		t.Fatal(err)
	}
	for most, want := range map[int64]string{3: file + ": larger than 3 bytes", 4: "", 5: ""} {
		stdin, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		defer stdin.Close()
		for _, name := range []string{file, "-"} {
			b, err := ReadFile(&Process{Context: t.Context(), Stdin: stdin}, name, most)
			if want == "" && (err != nil || string(b) != "1234") || want != "" && ExitCode(err) != ExitUsage {
				t.Errorf("%s, %d: got %q, %v", name, most, b, err)
			}
		}
	}
}
