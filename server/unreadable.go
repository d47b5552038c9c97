package server

import (
	"bytes"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/tokenbroker/tokenbroker/broker"
)

// errUnreadable is what a message is refused with that cannot be decoded.
var errUnreadable = broker.Invalid(broker.Violation{
	Field: "request", Description: "cannot be read: it is not the message of this method, or a text in it is no UTF-8",
})

// unreadable marks a message that could not be decoded, as a field that nobody has. gRPC would refuse it before a handler sees it, with a
// status that has no details and says that the fault is ours; so it goes on to where all requests are looked at.
var unreadable = protowire.AppendString(protowire.AppendTag(nil, protowire.MaxValidNumber, protowire.BytesType), "unreadable")

// What is decoded is larger than what came: an element of two bytes takes a hundred. Nothing that keeps the contract's limits has so many.
const (
	smallMessage = 4 << 10
	elementsMost = 10_000
)

// errOverloaded is what a message is refused with that has more elements; overloaded marks it, as unreadable does.
var (
	errOverloaded = broker.Invalid(broker.Violation{
		Field: "request", Code: broker.CodeTooLarge, Description: "has more elements than any that keeps the limits of its lists and maps",
	})
	overloaded = protowire.AppendString(protowire.AppendTag(nil, protowire.MaxValidNumber, protowire.BytesType), "overloaded")
)

// elements returns how many fields and elements may follow those of an encoded message, of so many; negative: it has more. What cannot be read is somebody
// else's to refuse.
func elements(of protoreflect.MessageDescriptor, data []byte, left int) int {
	for len(data) > 0 && left >= 0 {
		number, kind, n := protowire.ConsumeTag(data)
		if n < 0 {
			return left
		}
		value := protowire.ConsumeFieldValue(number, kind, data[n:])
		if value < 0 {
			return left
		}
		left--
		if f := of.Fields().ByNumber(number); f != nil && kind == protowire.BytesType {
			inner, _ := protowire.ConsumeBytes(data[n:])
			switch {
			case f.Message() != nil:
				left = elements(f.Message(), inner, left)
			case f.IsPacked():
				left -= len(inner)
			}
		}
		data = data[n+value:]
	}
	return left
}

func isOurs(m proto.Message) bool {
	return strings.HasPrefix(string(m.ProtoReflect().Descriptor().FullName()), ours)
}

// readable says why a message could not be, or was not, decoded.
func readable(m proto.Message) error {
	switch unknown := m.ProtoReflect().GetUnknown(); {
	case bytes.Equal(unknown, unreadable):
		return errUnreadable
	case bytes.Equal(unknown, overloaded):
		return errOverloaded
	}
	return nil
}
