package server

import (
	"google.golang.org/protobuf/proto"

	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

// requests are all messages that callers send: their limits are compiled when the server is made, so that none is compiled
// while a caller waits, and one that does not compile is found at the start.
func requests() []proto.Message {
	return []proto.Message{
		&tokenbrokerv1.GetTokenRequest{}, &tokenbrokerv1.InvalidateRequest{}, &tokenbrokerv1.WatchTokenRequest{},
		&tokenbrokerv1.CreateCredentialRequest{}, &tokenbrokerv1.GetCredentialRequest{}, &tokenbrokerv1.ListCredentialsRequest{},
		&tokenbrokerv1.UpdateCredentialRequest{}, &tokenbrokerv1.DeleteCredentialRequest{}, &tokenbrokerv1.RotateSecretRequest{},
		&tokenbrokerv1.RetireSecretRequest{}, &tokenbrokerv1.TestCredentialRequest{}, &tokenbrokerv1.GetCredentialStatusRequest{},
		&tokenbrokerv1.ListProvidersRequest{}, &tokenbrokerv1.GetProviderRequest{}, &tokenbrokerv1.ExplainProviderRequest{},
	}
}
