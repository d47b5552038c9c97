package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
)

// TestCompletion: each shell that is here reads its script, and bash completes with it.
func TestCompletion(t *testing.T) {
	for shell, check := range map[string][]string{"bash": {"-n"}, "zsh": {"-n"}, "fish": {"--no-execute"}} {
		var out bytes.Buffer
		p := &console.Process{Context: t.Context(), Stdin: os.Stdin, Stdout: &out, Stderr: os.Stderr}
		if code := run(p, []string{"completion", shell}); code != console.ExitOK {
			t.Fatalf("%s: got exit code %d", shell, code)
		}
		for _, want := range []string{"rotate-secret", "min-ttl", "upstream-ca-file"} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%s: no %s in it", shell, want)
			}
		}
		program, err := exec.LookPath(shell)
		if err != nil {
			t.Logf("there is no %s: its script is not run", shell)
			continue
		}
		file := filepath.Join(t.TempDir(), shell)
		if err := os.WriteFile(file, out.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		runs(t, program, append(check, file)...)
		if shell == "fish" {
			for typed, want := range map[string]string{"credential rot": "rotate-secret", "completion z": "zsh"} {
				got := runs(t, program, "--no-config", "-c", "source $argv[1]; complete -C $argv[2]", file, "tokenbroker "+typed)
				if !strings.HasPrefix(got, want) {
					t.Errorf("fish, %s: got %q, want %q", typed, got, want)
				}
			}
		}
		if shell != "bash" {
			continue
		}
		for typed, want := range map[string]string{
			"cred": "credential", "credential rot": "rotate-secret", "token get a --min": "--min-ttl", "--config x serve --upstream-ca": "--upstream-ca-file", "credential apply --da": "--data-dir", "completion z": "zsh",
		} {
			script := `. "$0"; COMP_WORDS=(tokenbroker $1); COMP_CWORD=$((${#COMP_WORDS[@]}-1)); _tokenbroker; echo "${COMPREPLY[@]}"`
			if got := strings.TrimSpace(runs(t, program, "-c", script, file, typed)); got != want {
				t.Errorf("%s: got %q, want %q", typed, got, want)
			}
		}
	}
}
