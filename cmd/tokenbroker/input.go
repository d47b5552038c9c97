package main

import (
	"errors"
	"io"
	"os"
)

// errInterrupted: the operator has ended the command while it waited to be given something.
var errInterrupted = errors.New("interrupted")

// awaited is what read brings from the operator. When the command is interrupted meanwhile it fails, and leaves read behind: no
// deadline ends the read of a terminal, and the process ends anyway.
func awaited[T any](p *process, read func() (T, error)) (T, error) {
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
	case <-p.ctx.Done():
		var none T
		return none, errInterrupted
	}
}

// readFile reads a file of at most so many bytes or, for -, standard input.
func readFile(p *process, name string, most int64) ([]byte, error) {
	var b []byte
	var err error
	if name == "-" {
		b, err = awaited(p, func() ([]byte, error) { return io.ReadAll(io.LimitReader(p.stdin, most+1)) })
	} else {
		b, err = readAtMost(name, most)
	}
	if err != nil {
		return nil, badInput("read %s: %w", name, err)
	}
	if int64(len(b)) > most {
		return nil, badInput("%s: larger than %d bytes", name, most)
	}
	return b, nil
}

// readAtMost reads a file, and no more of it than tells that it is too large.
func readAtMost(name string, most int64) ([]byte, error) {
	f, err := os.Open(name) //nolint:gosec // the operator names it
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // it was only read
	return io.ReadAll(io.LimitReader(f, most+1))
}
