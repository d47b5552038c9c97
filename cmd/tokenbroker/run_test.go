package main

import (
	"bytes"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
)

func TestOutputOf(t *testing.T) {
	t.Setenv("TOKENBROKER_OUTPUT", "from-environment")
	for _, x := range []struct{ args, want string }{
		{"token get one", "from-environment"},
		{"token get one -o json", "json"},
		{"token get one --output json", "json"},
		{"token get --output=json one", "json"},
		{"token get -ojson one", "json"},
		{"token get one -o", "from-environment"},
		{"run --credential one -- curl -o json", "from-environment"},
	} {
		if got := outputOf(strings.Fields(x.args)); got != x.want {
			t.Errorf("%s: got %q, want %q", x.args, got, x.want)
		}
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, io.ErrShortWrite }

func TestOutputThatCannotBeWritten(t *testing.T) {
	var stderr bytes.Buffer
	p := &console.Process{Context: t.Context(), Stdin: os.Stdin, Stdout: brokenWriter{}, Stderr: &stderr}
	if got := run(p, []string{"version"}); got != console.ExitFailure {
		t.Errorf("got %d, want %d", got, console.ExitFailure)
	}
	if want := "tokenbroker: write the output: short write\n"; stderr.String() != want {
		t.Errorf("got %q, want %q", &stderr, want)
	}
}
