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

// readFile reads a file or, for -, standard input.
func readFile(p *process, name string) ([]byte, error) {
	var b []byte
	var err error
	if name == "-" {
		b, err = awaited(p, func() ([]byte, error) { return io.ReadAll(p.stdin) })
	} else {
		b, err = os.ReadFile(name) //nolint:gosec // the operator names it
	}
	if err != nil {
		return nil, badInput("read %s: %w", name, err)
	}
	return b, nil
}
