package project

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/internal/installed"
)

// breaking holds the contract in a copy of the repository, changed by edit, against the released one.
func breaking(t *testing.T, edit func(text string) string) (output string, ok bool) {
	t.Helper()
	buf := installed.Tool(t, "buf")
	dir := t.TempDir()
	for _, p := range []string{"proto", "third_party"} {
		if err := os.CopyFS(filepath.Join(dir, p), os.DirFS(filepath.Join(root, p))); err != nil {
			t.Fatal(err)
		}
	}
	config, err := os.ReadFile(filepath.Join(root, "buf.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "buf.yaml"), config, 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "proto", "tokenbroker", "v1", "token_broker_service.proto")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	changed := edit(string(text))
	if err := os.WriteFile(file, []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), buf, "breaking", "proto", "--against", "proto/contract.binpb")
	cmd.Dir = dir
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
	return out.String(), err == nil
}

func TestTheContractIsWhatCallersHaveBuiltAgainst(t *testing.T) {
	if out, ok := breaking(t, func(s string) string { return s }); !ok {
		t.Fatalf("the contract breaks its callers:\n%s", out)
	}
}

func TestARenumberedFieldIsSeen(t *testing.T) {
	const field, renumbered = "string token_id = 5;", "string token_id = 50;"
	out, ok := breaking(t, func(s string) string {
		if !strings.Contains(s, field) {
			t.Fatalf("%q is not in the contract", field)
		}
		return strings.Replace(s, field, renumbered, 1)
	})
	if ok || !strings.Contains(out, "token_id") {
		t.Errorf("got %q, want the breaking check to name the field", out)
	}
}

func TestARemovedMethodIsSeen(t *testing.T) {
	out, ok := breaking(t, func(s string) string {
		i := strings.Index(s, "  rpc WatchToken(")
		j := i + strings.Index(s[i:], "\n  }\n") + len("\n  }\n")
		return s[:i] + s[j:]
	})
	if ok || !strings.Contains(out, "WatchToken") {
		t.Errorf("got %q, want the breaking check to name the method", out)
	}
}
