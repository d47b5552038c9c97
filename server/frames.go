package server

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"
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

	// frameKept is what gRPC keeps of a frame beside what is in it.
	frameKept = 64

	frameData      = 0
	frameHeaders   = 1
	frameRstStream = 3
	flagEndStream  = 1
)

// follow calls see with each frame's type, flags, stream and length, as soon as its head is there.
func (f *frames) follow(p []byte, see func(kind, flags byte, stream uint32, length int)) {
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
		see(f.head[3], f.head[4], binary.BigEndian.Uint32(f.head[5:])&^(1<<31), f.skip)
	}
}

// opened are the streams of a connection that are not over. Safe for concurrent use.
type opened struct {
	in, out frames
	mu      sync.Mutex
	// brought is how many bytes of messages each has brought. They count until it is over, read or not: whoever reads them holds them as well.
	brought map[uint32]int64
	// n is how many they are, and bytes what all have brought.
	n, bytes atomic.Int64
	// reset are those that whoever called has ended, in this second, which is the at-th, and in the one before: what gRPC has begun for them may not be over.
	reset, before, at int64
	// recent is how many these are.
	recent atomic.Int64
}

// second is the time, as resets are counted by.
func second() int64 { return time.Now().Unix() }

// comes follows what comes.
func (o *opened) comes(p []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.in.follow(p, func(kind, _ byte, stream uint32, length int) {
		switch kind {
		case frameHeaders:
			if o.brought == nil {
				o.brought = map[uint32]int64{}
			}
			if _, there := o.brought[stream]; !there { // else it is its trailer
				o.brought[stream] = 0
			}
		case frameData:
			if brought, there := o.brought[stream]; there {
				o.brought[stream] = brought + int64(length) + frameKept
				o.bytes.Add(int64(length) + frameKept)
			}
		case frameRstStream:
			if _, there := o.brought[stream]; there {
				o.over(stream)
				o.passes()
				o.reset++
				o.recent.Add(1)
			}
		}
	})
	o.n.Store(int64(len(o.brought)))
}

// goes follows what is written.
func (o *opened) goes(p []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.out.follow(p, func(kind, flags byte, stream uint32, _ int) {
		if kind == frameRstStream || kind == frameHeaders && flags&flagEndStream != 0 {
			o.over(stream)
		}
	})
	o.n.Store(int64(len(o.brought)))
}

// over forgets a stream; the caller holds mu.
func (o *opened) over(stream uint32) {
	o.bytes.Add(-o.brought[stream])
	delete(o.brought, stream)
}

// passes has time pass for resets; the caller holds mu.
func (o *opened) passes() {
	switch now := second(); now - o.at {
	case 0:
	case 1:
		o.before, o.reset, o.at = o.reset, 0, now
	default:
		o.before, o.reset, o.at = 0, 0, now
	}
	o.recent.Store(o.reset + o.before)
}

// open is how many calls count: those that are open, and those that were reset a second ago or two.
func (o *opened) open() int64 {
	if o.recent.Load() > 0 {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.passes()
	}
	return o.n.Load() + o.recent.Load()
}
