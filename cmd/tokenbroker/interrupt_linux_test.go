package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
)

// terminal is a terminal, and the end at which somebody would type.
func terminal(t *testing.T) (tty, keyboard *os.File) {
	t.Helper()
	keyboard, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { keyboard.Close() })
	if err := unix.IoctlSetPointerInt(int(keyboard.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(keyboard.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	return tty, keyboard
}

// echoes reports whether a terminal shows what is typed.
func echoes(t *testing.T, tty *os.File) bool {
	t.Helper()
	state, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return state.Lflag&unix.ECHO != 0
}

// TestInterruptedPrompt: the command ends at once, and the terminal shows again what is typed.
func TestInterruptedPrompt(t *testing.T) {
	t.Parallel()
	tty, keyboard := terminal(t)
	ctx, interrupt := context.WithCancel(t.Context())
	notes, stderr := io.Pipe()
	ended := make(chan int, 1)
	go func() {
		ended <- run(&console.Process{Context: ctx, Stdin: tty, Stdout: io.Discard, Stderr: stderr}, []string{"provider", "try", "officernd", "--input", "client_id=me"})
		stderr.Close()
	}()
	read := bufio.NewReader(notes)
	if _, err := read.ReadString(':'); err != nil {
		t.Fatal(err)
	}
	for start := time.Now(); echoes(t, tty); runtime.Gosched() {
		if time.Since(start) > patience {
			t.Fatal("what is typed at the prompt is shown")
		}
	}
	interrupt()
	rest, err := io.ReadAll(read)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(rest), " \ntokenbroker: read client_secret: interrupted\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if code := <-ended; code != console.ExitFailure {
		t.Errorf("got exit code %d, want %d", code, console.ExitFailure)
	}
	if !echoes(t, tty) {
		t.Error("the terminal is left mute")
	}
	// The read that was left behind ends with a line. A terminal that is gone would not end it: it reads nothing, again and again.
	if _, err := keyboard.WriteString("\n"); err != nil {
		t.Fatal(err)
	}
	stacks := make([]byte, 4<<20)
	for start := time.Now(); bytes.Contains(stacks[:runtime.Stack(stacks, true)], []byte("term.ReadPassword")); <-time.After(time.Millisecond) {
		if time.Since(start) > patience {
			t.Fatal("the read that was left behind does not end")
		}
	}
}

// TestInterruptedInput: standard input that never ends holds up no interrupted command.
func TestInterruptedInput(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{
		"secret": {"credential", "create", "one", "--provider", "officernd", "--secret-stdin", "client_secret"},
		"file":   {"credential", "apply", "-f", "-"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stdin, open, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer open.Close()
			ctx, interrupt := context.WithCancel(t.Context())
			interrupt()
			if code := run(&console.Process{Context: ctx, Stdin: stdin, Stdout: io.Discard, Stderr: io.Discard}, args); code != console.ExitFailure {
				t.Errorf("got exit code %d, want %d", code, console.ExitFailure)
			}
		})
	}
}

// fifo is a named pipe that nobody writes.
func fifo(t *testing.T) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "pipe.yaml")
	if err := unix.Mkfifo(name, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// TestInterruptedPipe: a file that the command line names may be a pipe, and one that nobody writes holds up no interrupted command.
func TestInterruptedPipe(t *testing.T) {
	t.Parallel()
	pipe := fifo(t)
	for _, args := range [][]string{
		{"config", "check", pipe}, {"provider", "check", pipe}, {"provider", "import", "locoia", pipe}, {"credential", "apply", "-f", pipe},
		{"credential", "create", "one", "--provider", "officernd", "--secret", "client_secret=@" + pipe},
	} {
		ctx, interrupt := context.WithCancel(t.Context())
		interrupt()
		var stderr bytes.Buffer
		if code := run(&console.Process{Context: ctx, Stdout: io.Discard, Stderr: &stderr}, args); code != console.ExitFailure {
			t.Errorf("%q: got exit code %d, want %d", args, code, console.ExitFailure)
		}
		if !strings.HasSuffix(stderr.String(), "interrupted\n") {
			t.Errorf("%q: got %q", args, &stderr)
		}
	}
	writer, err := os.OpenFile(pipe, os.O_RDWR, 0) // ends the reads that were left behind
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(pipe); err != nil { // and those that have not begun yet
		t.Error(err)
	}
	writer.Close()
}

// TestAPipeIsWaitedForWithASentence: at a terminal, and what is written to it is read.
func TestAPipeIsWaitedForWithASentence(t *testing.T) {
	t.Parallel()
	pipe := fifo(t)
	tty, screen := terminal(t)
	ended := make(chan int, 1)
	go func() {
		ended <- run(&console.Process{Context: t.Context(), Stdout: io.Discard, Stderr: tty}, []string{"config", "check", pipe})
	}()
	if line, err := bufio.NewReader(screen).ReadString('\n'); err != nil || !strings.Contains(line, "waiting for somebody to write "+pipe) {
		t.Errorf("got %q, %v", line, err)
	}
	if err := os.WriteFile(pipe, []byte("log_level: debug\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code := <-ended; code != console.ExitOK {
		t.Errorf("got exit code %d", code)
	}
}

// TestAPipeIsNoFileOfAFile: what is read without anybody there who would write it is a regular file.
func TestAPipeIsNoFileOfAFile(t *testing.T) {
	t.Parallel()
	pipe := fifo(t)
	declared := filepath.Join(t.TempDir(), "declared.yaml")
	if err := os.WriteFile(declared, []byte("name: a\nprovider: officernd\nsecrets: {client_secret: \"file:"+pipe+"\"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"serve", "--config", pipe}, {"credential", "apply", "-f", declared}} {
		var stderr bytes.Buffer
		code := run(&console.Process{Context: t.Context(), Stdout: io.Discard, Stderr: &stderr}, args)
		if code != console.ExitUsage || !strings.Contains(stderr.String(), pipe+": it is not a regular file") {
			t.Errorf("%q: got exit code %d, %q", args, code, &stderr)
		}
	}
}
