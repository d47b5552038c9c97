package settings

import (
	"encoding/hex"
	"time"

	"github.com/tokenbroker/tokenbroker/store"
)

// What is said at the admin socket about keys, in JSON: what `tokenbroker keys` prints with -o json too.

// A KeysOrder is what is to be done with keys.
type KeysOrder struct {
	// ID is of which key, where it is one.
	ID string `json:"id,omitzero"`
	// Rate bounds a rewrap, in rows a second; 0: nothing does.
	Rate int `json:"rate,omitzero"`
}

// KeyChanged names the key that an order was about.
type KeyChanged struct {
	ID string `json:"id"`
}

// Keys is what there is to say of keys.
type Keys struct {
	KEK        string   `json:"kek,omitzero"`
	StoreID    string   `json:"store_id,omitzero"`
	Generation uint64   `json:"generation"`
	Keys       []Key    `json:"keys"`
	Readers    []Reader `json:"readers"`
	Rewrap     *Rewrap  `json:"rewrap,omitzero"`
}

// A Key is one of them.
type Key struct {
	ID       string    `json:"id"`
	State    string    `json:"state"`
	Added    time.Time `json:"added,omitzero"`
	Promoted time.Time `json:"promoted,omitzero"`
	Retired  time.Time `json:"retired,omitzero"`
}

// A Reader is a broker that holds keys.
type Reader struct {
	Name       string `json:"name,omitzero"`
	Instance   string `json:"instance"`
	Generation uint64 `json:"generation"`
	This       bool   `json:"this,omitzero"`
}

// A Rewrap is how one stands.
type Rewrap struct {
	To          string    `json:"to"`
	Pass        int       `json:"pass"`
	Credentials int       `json:"credentials"`
	Rows        int       `json:"rows"`
	Unreadable  int       `json:"unreadable,omitzero"`
	Why         string    `json:"why,omitzero"`
	Done        bool      `json:"done"`
	At          time.Time `json:"at"`
}

// A RewrapLine is a line of the answer to an order to rewrap: how it stands or, the last one, why it ended.
type RewrapLine struct {
	Rewrap *Rewrap `json:"rewrap,omitzero"`
	Status int     `json:"status,omitzero"`
	Error  string  `json:"error,omitzero"`
}

// KeysOf is what a store says of its keys.
func KeysOf(k store.Keys) Keys {
	out := Keys{KEK: k.KEK, StoreID: k.StoreID, Generation: k.Generation, Keys: []Key{}, Readers: []Reader{}}
	for _, i := range k.Keys {
		out.Keys = append(out.Keys, Key{ID: i.ID, State: string(i.State), Added: i.Added, Promoted: i.Promoted, Retired: i.Retired})
	}
	for _, r := range k.Readers {
		out.Readers = append(out.Readers, Reader{Name: r.Name, Instance: r.Instance, Generation: r.Generation, This: r.This})
	}
	if k.Rewrap != nil {
		out.Rewrap = RewrapOf(*k.Rewrap)
	}
	return out
}

// RewrapOf is what a store says of a rewrap.
func RewrapOf(r store.Rewrap) *Rewrap {
	return &Rewrap{To: r.To, Pass: r.Pass, Credentials: r.Credentials, Rows: r.Rows, Unreadable: r.Unreadable, Why: r.Why, Done: r.Done, At: r.At}
}

// IsKeyID reports whether a text has the form of a key's id: another is not repeated anywhere.
func IsKeyID(id string) bool {
	b, err := hex.DecodeString(id)
	return err == nil && len(b) == 4
}
