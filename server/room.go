package server

import (
	"container/list"
	"errors"
	"sync"
)

// A room bounds how many connections there are. When it is full, one more takes the place of one of the caller that has most: of the one that was
// not used the longest and runs no call. A caller that has most and whose connections all run calls gets no more; where it is another's, the call
// ends. So one process with thousands of idle connections keeps nobody out, and one whose connections are all busy keeps out nobody but those
// who cannot be told from it: on loopback all TCP callers are one, on a Unix socket each user is one. Safe for concurrent use.
type room struct {
	most int64

	mu   sync.Mutex
	open int64
	// of are the connections of each caller, by identity, whose turn to go is next first.
	of map[string]*list.List
}

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
	if r.of == nil {
		r.of = map[string]*list.List{}
	}
	if r.of[k.party()] == nil {
		r.of[k.party()] = list.New()
	}
	k.place = r.of[k.party()].PushBack(k)
	r.open++
	r.mu.Unlock()
	if gone != nil {
		_ = gone.Conn.Close() // gRPC sees it, and ends what it has of it
	}
	return nil
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

// remove takes a connection out; the caller holds mu.
func (r *room) remove(k *connection) {
	all := r.of[k.party()]
	all.Remove(k.place)
	k.place = nil
	if r.open--; all.Len() == 0 {
		delete(r.of, k.party())
	}
}

// spare is the connection that makes room for one of a caller; nil: none does. One that was used since it was last looked at is passed over once.
// The caller holds mu.
func (r *room) spare(newcomer string) *connection {
	with, most := newcomer, 0
	if all := r.of[newcomer]; all != nil {
		most = all.Len()
	}
	for caller, all := range r.of {
		if all.Len() > most {
			with, most = caller, all.Len()
		}
	}
	all := r.of[with]
	if all == nil {
		return nil
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
