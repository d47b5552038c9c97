package console

import (
	"errors"
	"io"
	"os"
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
	var b []byte
	var err error
	if name == "-" {
		b, err = Awaited(p, func() ([]byte, error) { return io.ReadAll(io.LimitReader(p.Stdin, most+1)) })
	} else {
		b, err = ReadAtMost(name, most)
	}
	if err != nil {
		return nil, BadInput("read %s: %w", name, err)
	}
	if int64(len(b)) > most {
		return nil, BadInput("%s: larger than %d bytes", name, most)
	}
	return b, nil
}

// ReadAtMost reads a file, and no more of it than tells that it is too large.
func ReadAtMost(name string, most int64) ([]byte, error) {
	f, err := os.Open(name) //nolint:gosec // the operator names it
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // it was only read
	return io.ReadAll(io.LimitReader(f, most+1))
}
