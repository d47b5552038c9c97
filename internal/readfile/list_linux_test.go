package readfile_test

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tokenbroker/tokenbroker/internal/installed"
	"github.com/tokenbroker/tokenbroker/internal/readfile"
)

// An entry of an access control list.
type entry struct {
	tag, perm uint16
	id        uint32
}

// The tags, as linux/posix_acl.h has them.
const (
	userObject, user, groupObject, group, mask, other = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20

	nobodys = ^uint32(0) // of an entry that names nobody
)

// give sets a file's access control list, of what root may do and of these.
func give(t *testing.T, path string, entries ...entry) {
	t.Helper()
	list := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range append([]entry{{userObject, 6, nobodys}}, append(entries, entry{other, 0, nobodys})...) {
		list = binary.LittleEndian.AppendUint16(list, e.tag)
		list = binary.LittleEndian.AppendUint16(list, e.perm)
		list = binary.LittleEndian.AppendUint32(list, e.id)
	}
	if err := unix.Setxattr(path, "system.posix_acl_access", list, 0); errors.Is(err, unix.ENOTSUP) {
		installed.Without(t, "this file system has no access control lists")
	} else if err != nil {
		t.Fatal(err)
	}
}

// TestAFileThatAListGives is read where its access control list names nobody but its reader, as systemd's does, whatever its mode shows.
func TestAFileThatAListGives(t *testing.T) {
	broker := reader{4711, 4712, []int{4712, 4713}}
	const us, another = 4711, 4720
	for name, x := range map[string]struct {
		gid  int
		list []entry
		open bool
		// unread: its reader could not open it.
		unread bool
	}{
		"as systemd does":            {0, []entry{{user, 4, us}, {groupObject, 0, nobodys}, {mask, 4, nobodys}}, false, false},
		"another as well":            {0, []entry{{user, 4, us}, {user, 4, another}, {groupObject, 0, nobodys}, {mask, 4, nobodys}}, true, false},
		"another may nothing":        {0, []entry{{user, 4, us}, {user, 0, another}, {groupObject, 0, nobodys}, {mask, 4, nobodys}}, false, false},
		"root by name":               {0, []entry{{user, 6, 0}, {user, 4, us}, {groupObject, 0, nobodys}, {mask, 4, nobodys}}, false, false},
		"root's group":               {0, []entry{{user, 4, us}, {groupObject, 4, nobodys}, {mask, 4, nobodys}}, true, false},
		"a group of ours by name":    {0, []entry{{groupObject, 0, nobodys}, {group, 4, 4713}, {mask, 4, nobodys}}, false, false},
		"another's group by name":    {0, []entry{{user, 4, us}, {groupObject, 0, nobodys}, {group, 4, 4720}, {mask, 4, nobodys}}, true, false},
		"root's group by name":       {4712, []entry{{groupObject, 4, nobodys}, {group, 4, 0}, {mask, 4, nobodys}}, true, false},
		"our group, and another":     {4712, []entry{{user, 4, another}, {groupObject, 4, nobodys}, {mask, 4, nobodys}}, true, false},
		"our group, and us":          {4712, []entry{{user, 4, us}, {groupObject, 4, nobodys}, {mask, 4, nobodys}}, false, false},
		"we may write, by the mask":  {0, []entry{{user, 6, us}, {groupObject, 0, nobodys}, {mask, 4, nobodys}}, false, false},
		"we may write":               {0, []entry{{user, 6, us}, {groupObject, 0, nobodys}, {mask, 6, nobodys}}, true, false},
		"the mask takes all of that": {0, []entry{{user, 4, us}, {user, 4, another}, {groupObject, 4, nobodys}, {mask, 0, nobodys}}, false, true},
		"another, and not us":        {0, []entry{{user, 4, another}, {groupObject, 0, nobodys}, {mask, 4, nobodys}}, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			path := rootsFile(t)
			if err := os.Chown(path, 0, x.gid); err != nil {
				t.Fatal(err)
			}
			give(t, path, x.list...)
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			broker.is(t, func() {
				if got := readfile.OthersRead(path, info); got != x.open {
					t.Errorf("mode %o: got open %v", info.Mode(), got)
				}
				got, err := readfile.Private(path, 10)
				switch loose := (*readfile.TooOpen)(nil); {
				case x.unread:
					if !errors.Is(err, fs.ErrPermission) {
						t.Errorf("got %q, %v, want that the system refuses", got, err)
					}
				case x.open:
					if !errors.As(err, &loose) || !loose.List || !strings.HasSuffix(err.Error(), "see getfacl") || got != nil {
						t.Errorf("got %q, %v", got, err)
					}
				case err != nil || string(got) != "secret":
					t.Errorf("got %q, %v", got, err)
				}
			})
		})
	}
}

// TestAListOfOnesOwnFile opens it to others, however its mode is meant.
func TestAListOfOnesOwnFile(t *testing.T) {
	path := rootsFile(t)
	give(t, path, entry{user, 4, 4720}, entry{groupObject, 0, nobodys}, entry{mask, 4, nobodys})
	for _, owner := range []int{0, 4711} {
		if err := os.Chown(path, owner, 0); err != nil {
			t.Fatal(err)
		}
		reader{owner, owner, nil}.is(t, func() {
			if got, err := readfile.Private(path, 10); !errors.As(err, new(*readfile.TooOpen)) || got != nil {
				t.Errorf("of %d: got %q, %v", owner, got, err)
			}
		})
	}
}

// TestWhoWritesByAList: the bits of root's group may stand for somebody else.
func TestWhoWritesByAList(t *testing.T) {
	for name, x := range map[string]struct {
		list []entry
		want bool
	}{
		"root's group":  {[]entry{{user, 4, 4720}, {groupObject, 6, nobodys}, {mask, 6, nobodys}}, false},
		"another":       {[]entry{{user, 6, 4720}, {groupObject, 4, nobodys}, {mask, 6, nobodys}}, true},
		"another group": {[]entry{{groupObject, 4, nobodys}, {group, 6, 4720}, {mask, 6, nobodys}}, true},
		"this user":     {[]entry{{user, 6, 0}, {groupObject, 4, nobodys}, {mask, 6, nobodys}}, false},
	} {
		path := rootsFile(t)
		give(t, path, x.list...)
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := readfile.OthersWrite(path, info); got != x.want {
			t.Errorf("%s: got %v", name, got)
		}
	}
}
