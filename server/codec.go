package server

import (
	"unicode/utf8"

	"google.golang.org/grpc/encoding"
	protocodec "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

// codec is gRPC's for protocol buffers, but for what every hit pays: answers were encoded when their token came, and the usual request for one is read by hand.
type codec struct{ encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2(protocodec.Name)} }

// Marshal implements encoding.CodecV2. gRPC reads from what it gets and frees it, which for bytes of no pool does nothing: all
// calls can have the same.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if a, ok := v.(*answer); ok {
		return a.wire, nil
	}
	return c.CodecV2.Marshal(v)
}

// Unmarshal implements encoding.CodecV2. What cannot be read is marked, and refused where all requests are looked at.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	if r, ok := v.(*tokenbrokerv1.GetTokenRequest); ok && len(data) == 1 && readUsual(data[0].ReadOnlyData(), r) {
		return nil
	}
	m, ok := v.(proto.Message)
	if ok && data.Len() > smallMessage && elements(m.ProtoReflect().Descriptor(), data.Materialize(), elementsMost) < 0 {
		m.ProtoReflect().SetUnknown(overloaded)
		return nil
	}
	err := c.CodecV2.Unmarshal(data, v) // which begins with an empty message
	if err == nil || !ok || !isOurs(m) {
		return err
	}
	proto.Reset(m)
	m.ProtoReflect().SetUnknown(unreadable)
	return nil
}

// usualMost is how long a request may be that is read by hand: all of its texts are parts of one copy, which is kept as long as one of them.
const usualMost = 512

// readUsual reads a request that has nothing but a credential, scopes and an audience, and reports whether it is one. What it makes of that is what
// package proto does.
func readUsual(b []byte, r *tokenbrokerv1.GetTokenRequest) bool {
	if len(b) > usualMost || !utf8.Valid(b) {
		return false // each text is valid if all is: what is between them is ASCII
	}
	for all := string(b); len(all) > 0; {
		if len(all) < 2 || all[1] >= utf8.RuneSelf || len(all) < 2+int(all[1]) {
			return false
		}
		tag, text := all[0], all[2:2+all[1]]
		all = all[2+all[1]:]
		switch tag {
		case credentialTag:
			r.Credential = text
		case scopesTag:
			r.Scopes = append(r.Scopes, text)
		case audienceTag:
			r.Audience = text
		default:
			return false
		}
	}
	return true
}

// Tags of texts, by the numbers that the contract gives their fields.
const (
	credentialTag = 1<<3 | byte(protowire.BytesType)
	scopesTag     = 2<<3 | byte(protowire.BytesType)
	audienceTag   = 3<<3 | byte(protowire.BytesType)
)
