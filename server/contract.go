package server

import (
	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

// requests are all messages that callers send, as the contract's services name them: their limits are compiled when the server
// is made, so that none is compiled while a caller waits, and one that does not compile is found at the start.
func requests() []proto.Message {
	var all []proto.Message
	contract := tokenbrokerv1.File_tokenbroker_v1_token_broker_service_proto.Package()
	protoregistry.GlobalFiles.RangeFilesByPackage(contract, func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			methods := f.Services().Get(i).Methods()
			for j := range methods.Len() {
				m, err := protoregistry.GlobalTypes.FindMessageByName(methods.Get(j).Input().FullName())
				if err != nil {
					panic(err) // gen has every message of the files that it has
				}
				all = append(all, m.New().Interface())
			}
		}
		return true
	})
	return all
}

// rulesOf are the contract's rules of a field of a message; none is fine, and nil.
func rulesOf(m proto.Message, field protoreflect.Name) *validate.FieldRules {
	options := m.ProtoReflect().Descriptor().Fields().ByName(field).Options()
	rules, _ := proto.GetExtension(options, validate.E_Field).(*validate.FieldRules)
	return rules
}

// The limits of a usual request for a token, as the contract has them.
var (
	namePattern = rulesOf(&tokenbrokerv1.GetTokenRequest{}, "credential").GetString().GetPattern()
	scopesMost  = int(rulesOf(&tokenbrokerv1.GetTokenRequest{}, "scopes").GetRepeated().GetMaxItems())
	scopeLeast  = int(rulesOf(&tokenbrokerv1.GetTokenRequest{}, "scopes").GetRepeated().GetItems().GetString().GetMinLen())
	scopeMost   = int(rulesOf(&tokenbrokerv1.GetTokenRequest{}, "scopes").GetRepeated().GetItems().GetString().GetMaxLen())
	minTTLLeast = rulesOf(&tokenbrokerv1.GetTokenRequest{}, "min_ttl").GetDuration().GetGte().GetSeconds()
	minTTLMost  = rulesOf(&tokenbrokerv1.GetTokenRequest{}, "min_ttl").GetDuration().GetLte().GetSeconds()
)
