package server

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

// requestsOnTheWire are some of all shapes, and what of each is read by hand.
func requestsOnTheWire(t testing.TB) map[string]struct {
	wire  []byte
	usual bool
} {
	wire := func(r *tokenbrokerv1.GetTokenRequest) []byte {
		b, err := proto.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	usual := wire(&tokenbrokerv1.GetTokenRequest{Credential: "main", Scopes: []string{"a", "", "é"}, Audience: "https://a.example"})
	return map[string]struct {
		wire  []byte
		usual bool
	}{
		"nothing":                   {nil, true},
		"all that is usual":         {usual, true},
		"a field twice":             {append(bytes.Clone(usual), wire(&tokenbrokerv1.GetTokenRequest{Credential: "other"})...), true},
		"a text of 127 bytes":       {wire(&tokenbrokerv1.GetTokenRequest{Audience: strings.Repeat("a", 127)}), true},
		"a text of 128 bytes":       {wire(&tokenbrokerv1.GetTokenRequest{Audience: strings.Repeat("a", 128)}), false},
		"longer than is usual":      {bytes.Repeat(usual, 20), false},
		"a time":                    {wire(&tokenbrokerv1.GetTokenRequest{Credential: "main", MinTtl: durationpb.New(time.Minute)}), false},
		"parameters":                {wire(&tokenbrokerv1.GetTokenRequest{Credential: "main", Parameters: map[string]string{"a": "b"}}), false},
		"a field that nobody knows": {append(bytes.Clone(usual), 0x7a, 1, 'x'), false},
		"a number":                  {append(bytes.Clone(usual), 0x08, 1), false},
		"a length without a text":   {[]byte{0x0a, 5, 'm'}, false},
		"a tag alone":               {[]byte{0x0a}, false},
		"a long tag":                {[]byte{0x8a, 0x00, 1, 'm'}, false},
		"a long length":             {[]byte{0x0a, 0x81, 0x00, 'm'}, false},
		"half a character":          {[]byte{0x0a, 1, 0xc3, 0x12, 1, 0xa9}, false},
		"no UTF-8":                  {[]byte{0x0a, 1, 0xff}, false},
	}
}

// readAlike fails unless the server's codec makes of bytes what gRPC's does, or marks them as unreadable.
func readAlike(t *testing.T, b []byte) {
	t.Helper()
	c := newCodec()
	ours, theirs := &tokenbrokerv1.GetTokenRequest{}, &tokenbrokerv1.GetTokenRequest{}
	if err := c.Unmarshal(mem.BufferSlice{mem.SliceBuffer(b)}, ours); err != nil {
		t.Errorf("%x: %v", b, err)
	}
	switch err := c.CodecV2.Unmarshal(mem.BufferSlice{mem.SliceBuffer(b)}, theirs); {
	case err != nil && readable(ours) == nil:
		t.Errorf("%x: read as %v, and cannot be read: %v", b, ours, err)
	case err == nil && readable(ours) == nil && !proto.Equal(ours, theirs):
		t.Errorf("%x: read as %v, want %v", b, ours, theirs)
	case err == nil && errors.Is(readable(ours), errUnreadable) && readable(theirs) == nil:
		t.Errorf("%x: marked as unreadable, want %v", b, theirs)
	}
}

func TestRequestsThatAreReadByHandAreAsTheLibraryReadsThem(t *testing.T) {
	for name, is := range requestsOnTheWire(t) {
		t.Run(name, func(t *testing.T) {
			readAlike(t, is.wire)
			if got := readUsual(is.wire, &tokenbrokerv1.GetTokenRequest{}); got != is.usual {
				t.Errorf("read by hand: %v, want %v", got, is.usual)
			}
		})
	}
}

func FuzzRequestsReadByHand(f *testing.F) {
	for _, is := range requestsOnTheWire(f) {
		f.Add(is.wire)
	}
	f.Fuzz(func(t *testing.T, b []byte) { readAlike(t, b) })
}

func BenchmarkReadRequest(b *testing.B) {
	c := newCodec()
	wire := mem.BufferSlice{mem.SliceBuffer(requestsOnTheWire(b)["all that is usual"].wire)}
	for name, codec := range map[string]interface {
		Unmarshal(data mem.BufferSlice, v any) error
	}{"by hand": c, "by the library": c.CodecV2} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := codec.Unmarshal(wire, &tokenbrokerv1.GetTokenRequest{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
