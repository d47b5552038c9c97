package server

import (
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/tokenbroker/tokenbroker/broker"
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

// codeOf is what the contract's rule of this id finds wrong, such as `string.max_len` or `required`.
func codeOf(rule string) broker.Code {
	switch rule[strings.LastIndexByte(rule, '.')+1:] {
	case "required", "min_len", "min_pairs", "min_items":
		return broker.CodeRequired
	case "max_len", "max_bytes", "max_pairs", "max_items":
		return broker.CodeTooLarge
	}
	return broker.CodeInvalid
}

// plainlyValid reports whether a request for a token is of the usual kind, a name and perhaps scopes and a min_ttl, and well
// within the contract's limits. It says false where it does not know: what is refused, and how, is the contract's to say. A hit
// is answered in the time that the general way takes to look at the fields that are not there.
func plainlyValid(r *tokenbrokerv1.GetTokenRequest) bool {
	if r.GetAudience() != "" || len(r.GetParameters()) != 0 || len(r.GetResources()) != 0 || r.GetRejectedTokenId() != "" {
		return false
	}
	if len(r.GetScopes()) > mostScopes {
		return false
	}
	for _, s := range r.GetScopes() {
		if s == "" || len(s) > scopeBytes {
			return false
		}
	}
	if d := r.GetMinTtl(); d != nil && (d.GetSeconds() < 0 || d.GetSeconds() >= plainTTL || d.GetNanos() < 0 || d.GetNanos() >= 1e9) {
		return false
	}
	return plainName(r.GetCredential())
}

// plainTTL is a day: less than the contract allows.
const plainTTL = 24 * 60 * 60

// plainName reports whether s is a credential's name (broker.ParseCredentialName).
func plainName(s string) bool {
	if s == "" || len(s) > 63 || !letterOrDigit(s[0]) || !letterOrDigit(s[len(s)-1]) {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !letterOrDigit(c) && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

func letterOrDigit(c byte) bool { return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' }
