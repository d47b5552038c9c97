package operator

import (
	"testing"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"google.golang.org/protobuf/proto"

	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

func TestASecretMayBeAsLargeAsTheContractAllows(t *testing.T) {
	field := (&tokenbrokerv1.CreateCredentialRequest{}).ProtoReflect().Descriptor().Fields().ByName("secrets")
	rules, _ := proto.GetExtension(field.Options(), validate.E_Field).(*validate.FieldRules)
	if got := rules.GetMap().GetValues().GetString().GetMaxBytes(); got != secretMost {
		t.Errorf("the contract says %d bytes, the command %d", got, secretMost)
	}
}
