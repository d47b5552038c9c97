package server

import (
	"bytes"
	"strings"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/tokenbroker/tokenbroker/broker"
)

// errUnreadable is what a message is refused with that cannot be decoded.
var errUnreadable = broker.Invalid(broker.Violation{
	Field: "request", Description: "cannot be read: it is not the message of this method, or a text in it is no UTF-8",
})

// unreadable marks a message that could not be decoded, as a field that nobody has. gRPC would refuse it before a handler sees it, with a
// status that has no details and says that the fault is ours; so it goes on to where all requests are looked at.
var unreadable = protowire.AppendString(protowire.AppendTag(nil, protowire.MaxValidNumber, protowire.BytesType), "unreadable")

// Unmarshal implements encoding.CodecV2.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	err := c.CodecV2.Unmarshal(data, v)
	m, ok := v.(proto.Message)
	if err == nil || !ok || !isOurs(m) {
		return err
	}
	proto.Reset(m)
	m.ProtoReflect().SetUnknown(unreadable)
	return nil
}

func isOurs(m proto.Message) bool {
	return strings.HasPrefix(string(m.ProtoReflect().Descriptor().FullName()), ours)
}

func isUnreadable(m proto.Message) bool {
	return bytes.Equal(m.ProtoReflect().GetUnknown(), unreadable)
}
