package main

import (
	little "encoding/binary"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tokenbroker/tokenbroker/internal/installed"
)

// dumpCore lets a process of a user dump core, as that user can. A limit that holds for this test as well cannot be raised.
func dumpCore(t *testing.T, pid int, uid uint32) {
	t.Helper()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &limit); err != nil || limit.Max == 0 {
		installed.Without(t, "nobody here may dump core: %v", err)
	}
	cmd := exec.CommandContext(t.Context(), "prlimit", "--pid", strconv.Itoa(pid), "--core=4096:")
	if uid != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// listFor gives a file an access control list that lets these users do something, beside what its mode says (linux/posix_acl_xattr.h).
func listFor(t *testing.T, path string, may uint16, uids ...int) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	mode := uint16(info.Mode().Perm())
	list := little.LittleEndian.AppendUint32(nil, 2)
	entry := func(tag, perm uint16, id uint32) {
		list = little.LittleEndian.AppendUint16(list, tag)
		list = little.LittleEndian.AppendUint16(list, perm)
		list = little.LittleEndian.AppendUint32(list, id)
	}
	const nobodys = ^uint32(0)
	entry(0x01, mode>>6, nobodys)
	for _, uid := range uids {
		entry(0x02, may, uint32(uid))
	}
	entry(0x04, mode>>3&7, nobodys)
	entry(0x10, mode>>3&7|may, nobodys)
	entry(0x20, mode&7, nobodys)
	if err := unix.Setxattr(path, "system.posix_acl_access", list, 0); errors.Is(err, unix.ENOTSUP) {
		installed.Without(t, "this file system has no access control lists")
	} else if err != nil {
		t.Fatal(err)
	}
}

// lowOn gives a directory of the patient a file system of four megabytes, which is all but full.
func lowOn(p *patient, name string) {
	p.t.Helper()
	if err := unix.Mount("tmpfs", p.at(name), "tmpfs", 0, "size=4m,mode=0700,uid="+strconv.Itoa(int(p.uid))+",gid="+strconv.Itoa(int(p.uid))); err != nil {
		installed.Without(p.t, "nobody here may mount a file system: %v", err)
	}
	p.t.Cleanup(func() {
		if err := unix.Unmount(p.at(name), unix.MNT_DETACH); err != nil { // a broker may write to it still
			p.t.Error(err)
		}
	})
	p.write(name+"/much", make([]byte, 4<<20-100<<10), 0o600)
}
