package server

import (
	"container/list"
	"errors"
	"sync"
	"time"
)

// A room bounds how many connections there are. When it is full, one more takes the place of one of the caller that has most: of the one that was
// not used the longest and runs no call. A caller that has most and whose connections all run calls gets no more; where it is another's, the call
// ends. So one process with thousands of idle connections keeps nobody out, and one whose connections are all busy keeps out nobody but those
// who cannot be told from it: on loopback all TCP callers are one, on a Unix socket each user is one.
//
// Strangers go first, whatever they do: the one that is there the longest of the machine that has most, for whoever has a token proves it at once. An eighth
// of the room is theirs, so that there is time to. Safe for concurrent use.
type room struct {
	most int64

	mu   sync.Mutex
	open int64
	// strangers are those of them who are.
	strangers int64
	// of are the connections of each party, whose turn to go is next first.
	of map[party]*list.List
}

// strangersPart is how much of what there is for connections and calls nobody takes from those who have not proven yet who they are: one in so many.
const strangersPart = 8

var errTooMany = errors.New("too many connections")

// enter takes a connection in, and closes another for it where there has to be. It fails where none can go.
func (r *room) enter(k *connection) error {
	r.mu.Lock()
	var gone *connection
	if r.open >= r.most {
		if gone = r.spare(k.party()); gone == nil {
			r.mu.Unlock()
			return errTooMany
		}
		r.remove(gone)
	}
	k.since = time.Now()
	r.add(k)
	r.mu.Unlock()
	if gone != nil {
		gone.of.crowd.leave(gone)
		_ = gone.Conn.Close() // gRPC sees it, and ends what it has of it
	}
	return nil
}

// recount counts a connection as its party's, which has changed.
func (r *room) recount(k *connection) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if k.place != nil {
		r.remove(k)
		r.add(k)
	}
}

// all are the connections that are in.
func (r *room) all() (in []*connection) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, of := range r.of {
		for e := of.Front(); e != nil; e = e.Next() {
			in = append(in, e.Value.(*connection))
		}
	}
	return in
}

// leave takes a connection out, if it is in.
func (r *room) leave(k *connection) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if k.place != nil {
		r.remove(k)
	}
}

// add takes a connection in; the caller holds mu.
func (r *room) add(k *connection) {
	k.roomParty = k.party()
	if r.of == nil {
		r.of = map[party]*list.List{}
	}
	if r.of[k.roomParty] == nil {
		r.of[k.roomParty] = list.New()
	}
	k.place = r.of[k.roomParty].PushBack(k)
	r.open++
	if k.roomParty.stranger {
		r.strangers++
	}
}

// remove takes a connection out; the caller holds mu.
func (r *room) remove(k *connection) {
	all := r.of[k.roomParty]
	all.Remove(k.place)
	k.place = nil
	if r.open--; all.Len() == 0 {
		delete(r.of, k.roomParty)
	}
	if k.roomParty.stranger {
		r.strangers--
	}
}

// spare is the connection that makes room for one of a party; nil: none does. One that was used since it was last looked at is passed over once.
// The caller holds mu.
func (r *room) spare(newcomer party) *connection {
	strangers := r.strangers > 0 && r.strangers >= r.most/strangersPart
	var with party
	most := 0
	for p, all := range r.of {
		if n := all.Len(); p.stranger == strangers && (n > most || n == most && p == newcomer) {
			with, most = p, n
		}
	}
	all := r.of[with]
	if all == nil {
		return nil
	}
	if strangers {
		return all.Front().Value.(*connection)
	}
	var idle *connection
	for range most {
		k := all.Front().Value.(*connection)
		if !k.busy() {
			if !k.used.Swap(false) {
				return k
			}
			if idle == nil {
				idle = k
			}
		}
		all.MoveToBack(k.place)
	}
	if idle == nil && with != newcomer {
		return all.Front().Value.(*connection)
	}
	return idle
}
