package provider

import "slices"

// knownCodes are the error codes that leave the broker: those of OAuth's registry (RFC 6749 section 11.4) that a token endpoint may say, of
// OpenID Connect Core section 3.1.2.6, and of rate limits. Any other may be a secret that the upstream echoes, whole, in part or encoded.
var knownCodes = map[string]bool{
	// RFC 6749, 6750, 7009
	"invalid_request": true, "invalid_client": true, "invalid_grant": true, "unauthorized_client": true, "unsupported_grant_type": true,
	"invalid_scope": true, "access_denied": true, "unsupported_response_type": true, "server_error": true, "temporarily_unavailable": true,
	"invalid_token": true, "insufficient_scope": true, "unsupported_token_type": true,
	// RFC 7591, 8628, 8707, 9101, 9396, 9449, 9470
	"invalid_redirect_uri": true, "invalid_client_metadata": true, "invalid_software_statement": true, "unapproved_software_statement": true,
	"authorization_pending": true, "slow_down": true, "expired_token": true, "invalid_target": true, "invalid_authorization_details": true,
	"invalid_dpop_proof": true, "use_dpop_nonce": true, "insufficient_user_authentication": true,
	// User-Managed Access 2.0, Client-Initiated Backchannel Authentication
	"need_info": true, "request_denied": true, "request_submitted": true, "unknown_user_id": true, "transaction_failed": true,
	"expired_login_hint_token": true, "missing_user_code": true, "invalid_user_code": true, "invalid_binding_message": true,
	// OpenID Connect
	"interaction_required": true, "login_required": true, "account_selection_required": true, "consent_required": true,
	"invalid_request_uri": true, "invalid_request_object": true, "request_not_supported": true, "request_uri_not_supported": true,
	"registration_not_supported": true, "unmet_authentication_requirements": true,
	// of rate limits, as many servers spell them
	"rate_limited": true, "rate_limit_exceeded": true, "too_many_requests": true,
}

// public is a code that may be told; empty: it may not. The definition's own words are known to whoever may read it.
func (e *errorRules) public(code string) string {
	if code == "" || knownCodes[code] || slices.ContainsFunc(e.rules, func(r rule) bool {
		return r.code != nil && slices.ContainsFunc(r.code.is, func(x any) bool { return x == code })
	}) {
		return code
	}
	return ""
}
