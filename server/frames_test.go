package server

import (
	"bytes"
	"testing"

	"golang.org/x/net/http2"
)

// TestStreamsAreFollowedByTheirFrames, in however many pieces they come, and over is over once.
func TestStreamsAreFollowedByTheirFrames(t *testing.T) {
	for size := 1; size < 70; size++ {
		var in, out bytes.Buffer
		in.WriteString(http2.ClientPreface)
		client, srv := http2.NewFramer(&in, nil), http2.NewFramer(&out, nil)
		_ = client.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 7})
		for id := uint32(1); id <= 9; id += 2 {
			_ = client.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: []byte("headers"), EndHeaders: true})
			_ = client.WriteData(id, true, bytes.Repeat([]byte{1}, 30)) // what looks like a frame's head is none
		}
		_ = client.WriteRSTStream(3, http2.ErrCodeCancel)
		_ = srv.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte("headers"), EndHeaders: true})
		_ = srv.WriteData(1, false, bytes.Repeat([]byte{3}, 30))
		_ = srv.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte("trailers"), EndHeaders: true, EndStream: true})
		_ = srv.WriteRSTStream(1, http2.ErrCodeNo)
		_ = srv.WriteRSTStream(5, http2.ErrCodeRefusedStream)
		_ = srv.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: []byte("trailers"), EndHeaders: true, EndStream: true})
		o := &opened{in: frames{skip: clientPreface}}
		for _, x := range []struct {
			of     []byte
			follow func([]byte)
			open   int64
			bytes  int64
		}{{in.Bytes(), o.comes, 4, 4 * (30 + frameKept)}, {out.Bytes(), o.goes, 2, 2 * (30 + frameKept)}} {
			for rest := x.of; len(rest) > 0; {
				n := min(size, len(rest))
				x.follow(rest[:n])
				rest = rest[n:]
			}
			if got, bytes := o.n.Load(), o.bytes.Load(); got != x.open || bytes != x.bytes {
				t.Fatalf("in pieces of %d: %d are open, and have %d bytes, want %d, %d", size, got, bytes, x.open, x.bytes)
			}
		}
	}
}
