package console

import (
	"errors"
	"io"
	"os"
	"time"
)

// ErrInterrupted says that the operator has ended the command while it waited to be given something.
var ErrInterrupted = errors.New("interrupted")

// Awaited is what read brings from the operator. When the command is interrupted meanwhile it fails, and leaves read behind: no
// deadline ends the read of a terminal, and the process ends anyway.
func Awaited[T any](p *Process, read func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		v, err := read()
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-p.Context.Done():
		var none T
		return none, ErrInterrupted
	}
}

// ReadFile reads a file of at most so many bytes or, for -, standard input.
func ReadFile(p *Process, name string, most int64) ([]byte, error) {
	b, err := ReadAtMost(p, name, most)
	if err != nil {
		return nil, BadInput("read %s: %w", name, err)
	}
	if int64(len(b)) > most {
		return nil, BadInput("%s: larger than %d bytes", name, most)
	}
	return b, nil
}

// patience is how long a file may take until it is said that it is waited for.
const patience = 2 * time.Second

// ReadAtMost reads a file or, for -, standard input, and no more of it than tells that it is too large. The file may be a pipe that somebody
// writes, as <(…) is: until then the command can be interrupted, and says at a terminal what it waits for.
func ReadAtMost(p *Process, name string, most int64) ([]byte, error) {
	if name == "-" {
		return Awaited(p, func() ([]byte, error) { return io.ReadAll(io.LimitReader(p.Stdin, most+1)) })
	}
	if IsTerminal(p.Stderr) {
		defer time.AfterFunc(patience, func() { Printf(p.Stderr, "waiting for somebody to write %s; Ctrl-C ends it\n", name) }).Stop()
	}
	return Awaited(p, func() ([]byte, error) {
		f, err := os.Open(name) //nolint:gosec // the operator names it
		if err != nil {
			return nil, err
		}
		defer f.Close() //nolint:errcheck // it was only read
		return io.ReadAll(io.LimitReader(f, most+1))
	})
}
