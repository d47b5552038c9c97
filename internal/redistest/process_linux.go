package redistest

import "syscall"

// attributes have the kernel end the server if the tests die without cleaning up, as after -timeout, and give it a process
// group, which is its own children's too.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}

func killAll(p *process) { _ = syscall.Kill(-p.pid, syscall.SIGKILL) }
