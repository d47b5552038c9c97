package redistest

import "syscall"

// There is no Redis for Windows: this has the package compile there, and its tests skip.
const (
	sigStop     = syscall.Signal(-1)
	sigContinue = syscall.Signal(-2)
)
