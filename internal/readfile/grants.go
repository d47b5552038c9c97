package readfile

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"slices"
)

// A grant is to whom a file's group bits give something: one user, or a group.
type grant struct {
	user bool
	id   uint32
	perm fs.FileMode // of 0o7
}

// The form of an access control list in an extended attribute, as linux/posix_acl_xattr.h has it: a version, then entries of a tag, rights and an id, all little-endian.
const (
	listVersion = 2
	listHead    = 4
	listEntry   = 8

	tagUser  = 0x02
	tagGroup = 0x04 // the file's group
	tagNamed = 0x08 // another group
	tagMask  = 0x10
)

var errList = errors.New("its access control list is not understood")

// grants are those for which the group bits of a file's mode stand. Without an access control list that is the file's group alone. With one the bits are the list's mask, and the grants
// are the users and groups that it names, and the file's group (acl(5)). What the mask takes away is not given.
func grants(mode fs.FileMode, gid uint32, list []byte) ([]grant, error) {
	if len(list) == 0 {
		return []grant{{id: gid, perm: mode >> 3 & 0o7}}, nil
	}
	if len(list) < listHead || (len(list)-listHead)%listEntry != 0 || binary.LittleEndian.Uint32(list) != listVersion {
		return nil, errList
	}
	mask := fs.FileMode(0o7)
	var out []grant
	for e := range slices.Chunk(list[listHead:], listEntry) {
		perm, id := fs.FileMode(binary.LittleEndian.Uint16(e[2:]))&0o7, binary.LittleEndian.Uint32(e[4:])
		switch binary.LittleEndian.Uint16(e) {
		case tagUser:
			out = append(out, grant{true, id, perm})
		case tagGroup:
			out = append(out, grant{false, gid, perm})
		case tagNamed:
			out = append(out, grant{false, id, perm})
		case tagMask:
			mask = perm
		}
	}
	for i := range out {
		out[i].perm &= mask
	}
	return out, nil
}
