//go:build !linux

package main

import "testing"

func dumpCore(t *testing.T, _ int, _ uint32) { t.Skip("only Linux lets another process do that") }

func listFor(t *testing.T, _ string, _ uint16, _ ...int) {
	t.Skip("access control lists are known of Linux alone")
}

func lowOn(p *patient, _ string) { p.t.Skip("room is looked at on Linux alone") }
