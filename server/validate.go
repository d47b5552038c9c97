package server

import (
	"fmt"
	"strings"

	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tokenbroker/tokenbroker/broker"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

// ours begins the full name of every message that has limits; health and reflection have messages of their own.
const ours = "tokenbroker."

const (
	// allTold is how many bytes a message may have of which more than the first violation is told.
	allTold = 16 << 10
	// violationsMost bounds what one refusal lists: a request can be wrong in more places than a client takes trailers.
	violationsMost = 16
	// pathBytes bounds the path of a field, in which a map's key stands as the caller wrote it.
	pathBytes = 256
)

// validate holds a message against the limits in the contract.
func (e *edge) validate(m any) error {
	if r, ok := m.(*tokenbrokerv1.GetTokenRequest); ok && plainlyValid(r) {
		return nil
	}
	msg, ok := m.(proto.Message)
	if !ok || !isOurs(msg) {
		return nil
	}
	if err := readable(msg); err != nil {
		return err
	}
	// Up to the first that is wrong: of a list that is too long, each element could be, and all of that is kept.
	err := e.validator.Validate(msg, protovalidate.WithFailFast())
	if err == nil {
		return broker.Invalid(malformed(msg)...)
	}
	if proto.Size(msg) <= allTold {
		err = e.validator.Validate(msg)
	}
	verr, ok := err.(*protovalidate.ValidationError) //nolint:errorlint // as its documentation says
	if !ok {
		return &broker.Failure{Kind: broker.Internal}
	}
	var v []broker.Violation
	for _, x := range verr.Violations {
		if len(v) == violationsMost {
			v[len(v)-1].Description += fmt.Sprintf("; and %d more are wrong", len(verr.Violations)-len(v))
			break
		}
		v = append(v, violationOf(x))
	}
	return broker.Invalid(v...)
}

// malformed are the durations of a message that mean nothing, such as one of minus a nanosecond and five seconds: the contract's limits are held
// against what is made of them.
func malformed(m proto.Message) (v []broker.Violation) {
	m.ProtoReflect().Range(func(f protoreflect.FieldDescriptor, x protoreflect.Value) bool {
		if f.Message() == nil || f.IsList() || f.IsMap() {
			return true
		}
		if d, ok := x.Message().Interface().(*durationpb.Duration); ok && d.CheckValid() != nil {
			v = append(v, broker.Violation{Field: string(f.Name()), Description: "is no duration: seconds and nanos have one sign, and nanos are less than a second"})
		}
		return true
	})
	return v
}

func violationOf(x *protovalidate.Violation) broker.Violation {
	v := broker.Violation{Field: protovalidate.FieldPathString(x.Proto.GetField()), Code: codeOf(x), Description: x.Proto.GetMessage()}
	if len(v.Field) > pathBytes {
		v.Field = strings.ToValidUTF8(v.Field[:pathBytes], "") + "…"
	}
	if x.RuleValue.IsValid() && x.RuleDescriptor.Kind() == protoreflect.StringKind && x.RuleValue.String() == namePattern {
		v.Description = broker.NameForm
	}
	return v
}

// codeOf is what the broken rule finds wrong.
func codeOf(x *protovalidate.Violation) broker.Code {
	if x.FieldDescriptor != nil && x.FieldDescriptor.Kind() == protoreflect.StringKind && x.FieldValue.IsValid() && x.FieldValue.Interface() == "" {
		return broker.CodeRequired
	}
	id := x.Proto.GetRuleId() // such as string.max_len
	switch id[strings.LastIndexByte(id, '.')+1:] {
	case "required", "min_len", "min_pairs", "min_items":
		return broker.CodeRequired
	case "max_len", "max_bytes", "max_pairs", "max_items":
		return broker.CodeTooLarge
	}
	return broker.CodeInvalid
}

// plainlyValid reports whether a request for a token is of the usual kind, a name and perhaps scopes and a min_ttl, and within
// the contract's limits. It says false where it does not know: what is refused, and how, is the contract's to say. A hit is
// answered in the time that the general way takes to look at the fields that are not there.
func plainlyValid(r *tokenbrokerv1.GetTokenRequest) bool {
	if r.GetAudience() != "" || len(r.GetParameters()) != 0 || len(r.GetResources()) != 0 || r.GetRejectedTokenId() != "" {
		return false
	}
	if len(r.GetScopes()) > scopesMost {
		return false
	}
	for _, s := range r.GetScopes() {
		if len(s) < scopeLeast || len(s) > scopeMost { // bytes, of which a text has no fewer than the characters that count
			return false
		}
	}
	if d := r.GetMinTtl(); d != nil && (d.GetSeconds() < minTTLLeast || d.GetSeconds() >= minTTLMost || d.GetNanos() < 0 || d.GetNanos() >= 1e9) {
		return false
	}
	return broker.IsCredentialName(r.GetCredential())
}
