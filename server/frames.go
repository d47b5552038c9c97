package server

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
)

// A call is open for gRPC from its headers until its last frame has been written, or either side has reset it: also after its handler has returned, for as
// long as whoever called does not take the answer. gRPC tells nobody when that is; the frames do (RFC 9113 sections 4.1, 5.1).

// frames follow one direction of a connection, over as many reads or writes as a frame takes. For one goroutine at a time.
type frames struct {
	// skip is how much is to be passed over: the client's preface, and payloads.
	skip int
	head [frameHead]byte
	have int
}

const (
	frameHead     = 9
	clientPreface = 24 // bytes, section 3.4

	frameHeaders   = 1
	frameRstStream = 3
	flagEndStream  = 1
)

// follow calls see with each frame's type, flags and stream, as soon as its head is there.
func (f *frames) follow(p []byte, see func(kind, flags byte, stream uint32)) {
	for len(p) > 0 {
		if f.skip > 0 {
			n := min(f.skip, len(p))
			f.skip -= n
			p = p[n:]
			continue
		}
		n := copy(f.head[f.have:], p)
		f.have += n
		p = p[n:]
		if f.have < frameHead {
			return
		}
		f.have = 0
		f.skip = int(f.head[0])<<16 | int(f.head[1])<<8 | int(f.head[2])
		see(f.head[3], f.head[4], binary.BigEndian.Uint32(f.head[5:])&^(1<<31))
	}
}

// opened are the streams of a connection that are not over. Safe for concurrent use.
type opened struct {
	in, out frames
	mu      sync.Mutex
	ids     map[uint32]struct{}
	// n is how many they are.
	n atomic.Int64
}

// comes follows what comes.
func (o *opened) comes(p []byte) {
	o.in.follow(p, func(kind, _ byte, stream uint32) {
		switch kind {
		case frameHeaders:
			o.mu.Lock()
			if o.ids == nil {
				o.ids = map[uint32]struct{}{}
			}
			o.ids[stream] = struct{}{}
			o.n.Store(int64(len(o.ids)))
			o.mu.Unlock()
		case frameRstStream:
			o.over(stream)
		}
	})
}

// goes follows what is written.
func (o *opened) goes(p []byte) {
	o.out.follow(p, func(kind, flags byte, stream uint32) {
		if kind == frameRstStream || kind == frameHeaders && flags&flagEndStream != 0 {
			o.over(stream)
		}
	})
}

func (o *opened) over(stream uint32) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.ids, stream)
	o.n.Store(int64(len(o.ids)))
}
