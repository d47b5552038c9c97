package main

import (
	"os/exec"
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// dumpCore lets a process of a user dump core, as that user can. A limit that holds for this test as well cannot be raised.
func dumpCore(t *testing.T, pid int, uid uint32) {
	t.Helper()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &limit); err != nil || limit.Max == 0 {
		t.Skipf("nobody here may dump core: %v", err)
	}
	cmd := exec.CommandContext(t.Context(), "prlimit", "--pid", strconv.Itoa(pid), "--core=4096:")
	if uid != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}
