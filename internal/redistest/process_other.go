//go:build !linux

package redistest

import "syscall"

// attributes are none: in the terminal's process group the server ends with the tests on an interrupt.
func attributes() *syscall.SysProcAttr { return nil }

func killAll(p *process) { _ = p.os.Kill() }
