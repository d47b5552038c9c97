package redis

import (
	"encoding/base64"
	"strings"

	"github.com/tokenbroker/tokenbroker/store"
)

// The stored form, layout 1. Keys are built in this file and nowhere else; `tokenbroker` is Options.Prefix.
//
//	key                                   type    lives       holds
//	tokenbroker:1:{<group>}:<kind>        string  as the row  revision (16 bytes), then the sealed value
//	tokenbroker:1:{<group>}:<kind>:<id>   string  as the row  the same, of a keyed row; id is base64url without padding
//	tokenbroker:1:{<group>}:listed        string  for ever    revision, then the group's entry of the index
//	tokenbroker:1:{<group>}:rows          zset    for ever    <kind> or <kind>:<id> of each row, scored by when it ends (ms; +inf: never)
//	tokenbroker:1:index                   zset    for ever    <name> NUL <incarnation> NUL <group>, all scored 0
//	tokenbroker:1:orphans                 zset    for ever    entries of the index that no credential has, scored by when they were first seen (ms)
//	tokenbroker:1:sweep                   string  an hour     whoever swept the index last
//
//	channel tokenbroker:1:events: <who> <note> <group>, after each change that somebody may wait for
//
// A group is one hash tag, so that all of a credential lies in one slot of a Cluster, and one script changes it. What is in
// a group's zset and has no key has ended, or somebody has deleted it; or, in a Cluster, its slot is being moved, and the key is at the other master: there it is looked for.
// When something ends its key alone says. What has ended by the zset and has a key lives: it came from a master whose clock is behind, and the next change scores it anew. The scores
// say which members may have no key any more, so that the next change forgets them (in a Cluster, once they are more than a hundred), and in which order rows make room; and brokers
// of a former version list by them.
//
// The index is in a slot of its own: an entry is added before its credential is, and removed after it is gone. One that stays all the same, or is of a former
// credential of that name, is another than the group's listed row says, and swept after an hour. A failover of the master that has the index may take an entry:
// it is made again of the listed row, once an hour, and by whoever goes over all credentials. A credential from before there were listed rows is given one by
// the hourly sweep, where its name has one entry.
//
// Groups and kinds are a-z, 0-9 and colons (see store.Group), and hashes where a name would tell something. Only the index and its entries
// have names.
const layout = "1"

type keys struct{ prefix string }

func newKeys(prefix string) keys { return keys{prefix + ":" + layout + ":"} }

func (k keys) index() string   { return k.prefix + "index" }
func (k keys) orphans() string { return k.prefix + "orphans" }
func (k keys) sweep() string   { return k.prefix + "sweep" }
func (k keys) events() string  { return k.prefix + "events" }

// group is what all keys of a group begin with.
func (k keys) group(g store.Group) string { return k.prefix + "{" + string(g) + "}:" }

func (k keys) rows(g store.Group) string { return k.group(g) + "rows" }

func (k keys) row(g store.Group, key store.Key) string { return k.group(g) + member(key) }

// member names a row within its group.
func member(key store.Key) string {
	if key.ID == ([32]byte{}) {
		return string(key.Kind)
	}
	return string(key.Kind) + ":" + base64.RawURLEncoding.EncodeToString(key.ID[:])
}

// parseMember is the inverse of member.
func parseMember(m string) (store.Key, bool) {
	kind, text, keyed := strings.Cut(m, ":")
	key := store.Key{Kind: store.Kind(kind)}
	if !keyed {
		return key, kind != ""
	}
	id, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(id) != len(key.ID) || kind == "" || strings.ContainsAny(text, "\r\n") { // which the decoder passes over
		return store.Key{}, false
	}
	copy(key.ID[:], id)
	return key, true
}

// kindListed is of the row that says by which entry its group is listed.
const kindListed store.Kind = "listed"

// listedRow is that row. It has the revision of another row of the same change.
func listedRow(l store.Listing, g store.Group, is store.Revision) store.Put {
	return store.Put{Key: store.Key{Kind: kindListed}, Revision: is, Value: []byte(entry(l, g))}
}

const nul = "\x00"

// entry is a listing in the index. Names have no NUL in them, so that entries order as names do.
func entry(l store.Listing, g store.Group) string {
	return l.Name + nul + string(l.Incarnation[:]) + nul + string(g)
}

// parseEntry is the inverse of entry.
func parseEntry(e string) (l store.Listing, g store.Group, ok bool) {
	name, rest, ok := strings.Cut(e, nul)
	if !ok || len(rest) < len(l.Incarnation)+1 || rest[len(l.Incarnation)] != 0 {
		return store.Listing{}, "", false
	}
	l.Name = name
	copy(l.Incarnation[:], rest)
	return l, store.Group(rest[len(l.Incarnation)+1:]), true
}

// Lexical bounds of the index: afterEntry is above every entry of this listing and below the next one's; ofName bounds the
// entries of a name.
func afterEntry(l store.Listing) string {
	if l.Name == "" {
		return "-"
	}
	return "(" + l.Name + nul + string(l.Incarnation[:]) + nul + "\xff"
}

func ofName(name string) (from, to string) { return "[" + name + nul, "(" + name + "\x01" }
