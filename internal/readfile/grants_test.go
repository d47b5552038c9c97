package readfile

import (
	"io/fs"
	"slices"
	"testing"
)

// FuzzGrants: a list gives nobody more than the mask does, and what is none is refused.
func FuzzGrants(f *testing.F) {
	entries := []byte{2, 0, 4, 0, 0x67, 0x12, 0, 0, 4, 0, 0, 0, 255, 255, 255, 255, 16, 0, 4, 0, 255, 255, 255, 255}
	f.Add(append([]byte{2, 0, 0, 0}, entries...))
	f.Add(append([]byte{3, 0, 0, 0}, entries...))
	f.Add([]byte{2, 0, 0, 0, 1})
	f.Add([]byte{2, 0})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, list []byte) {
		got, err := grants(0o640, 4712, list)
		switch whole := len(list) >= 4 && len(list)%8 == 4 && slices.Equal(list[:4], []byte{2, 0, 0, 0}); {
		case len(list) == 0:
			if err != nil || !slices.Equal(got, []grant{{id: 4712, perm: 4}}) {
				t.Fatalf("no list: got %v, %v", got, err)
			}
			return
		case whole != (err == nil):
			t.Fatalf("%v: got %v", list, err)
		}
		most := fs.FileMode(7)
		for e := range slices.Chunk(list[min(4, len(list)):], 8) {
			if err == nil && e[0] == tagMask && e[1] == 0 {
				most = fs.FileMode(e[2]) & 7
			}
		}
		for _, g := range got {
			if g.perm&^most != 0 {
				t.Fatalf("%v: got %v", list, g)
			}
		}
	})
}
