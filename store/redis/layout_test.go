package redis

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/tokenbroker/tokenbroker/store"
)

// TestMembersAndEntriesAreReadAsTheyWereWritten, whatever is in an id or an incarnation.
func TestMembersAndEntriesAreReadAsTheyWereWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		key := store.Key{Kind: store.Kind(rapid.StringMatching(`[a-z]{1,10}`).Draw(t, "kind"))}
		copy(key.ID[:], rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "id"))
		if got, ok := parseMember(member(key)); !ok || got != key {
			t.Fatalf("got %v, want %v", got, key)
		}
		l := store.Listing{Name: rapid.StringMatching(`[a-z0-9][a-z0-9._-]{0,62}`).Draw(t, "name")}
		copy(l.Incarnation[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "incarnation"))
		group := store.Group(rapid.StringMatching(`c:[0-9a-f]{64}`).Draw(t, "group"))
		got, g, ok := parseEntry(entry(l, group))
		if !ok || got != l || g != group {
			t.Fatalf("got %v %q, want %v %q", got, g, l, group)
		}
	})
}

// TestAGroupIsOneHashTag: all keys of a group are in one slot, and no group's keys are another's.
func TestAGroupIsOneHashTag(t *testing.T) {
	k := newKeys("p")
	seen := map[string]bool{}
	for _, g := range []store.Group{"c:a", "c:ab", "c:a:b", "u:a"} {
		for _, name := range []string{k.rows(g), k.row(g, store.Key{Kind: "token"}), k.row(g, store.Key{Kind: "token", ID: [32]byte{1}})} {
			tag := name[strings.Index(name, "{")+1 : strings.Index(name, "}")]
			if tag != string(g) || seen[name] {
				t.Errorf("%s of %s: hash tag %s, seen before: %v", name, g, tag, seen[name])
			}
			seen[name] = true
		}
	}
}

func FuzzParseEntry(f *testing.F) {
	f.Add(entry(store.Listing{Name: "n", Incarnation: [16]byte{1}}, "c:a"))
	f.Add("n\x00short")
	f.Add(member(store.Key{Kind: "t", ID: [32]byte{1}}) + "\r")
	f.Fuzz(func(t *testing.T, text string) {
		if l, g, ok := parseEntry(text); ok && entry(l, g) != text {
			t.Errorf("%q is read as %v %q", text, l, g)
		}
		if k, ok := parseMember(text); ok && k.ID != [32]byte{} && member(k) != text {
			t.Errorf("%q is read as %v", text, k)
		}
	})
}
