package server

import (
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tokenbroker/tokenbroker/broker"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/internal/tame"
)

// Domain is google.rpc.ErrorInfo.domain of every error.
const Domain = "tokenbroker"

const reasonPrefix = "ERROR_REASON_"

// outcome is what one kind of failure looks like from outside.
type outcome struct {
	code   codes.Code
	reason tokenbrokerv1.ErrorReason
	// retry: asking again, unchanged, may help.
	retry bool
}

// outcomes is the one table from a kind to code, reason and retry.
var outcomes = map[broker.Kind]outcome{
	broker.Internal:                {codes.Internal, tokenbrokerv1.ErrorReason_ERROR_REASON_INTERNAL, false},
	broker.RequestInvalid:          {codes.InvalidArgument, tokenbrokerv1.ErrorReason_ERROR_REASON_REQUEST_INVALID, false},
	broker.ParameterNotDeclared:    {codes.InvalidArgument, tokenbrokerv1.ErrorReason_ERROR_REASON_PARAMETER_NOT_DECLARED, false},
	broker.ParameterRequired:       {codes.InvalidArgument, tokenbrokerv1.ErrorReason_ERROR_REASON_PARAMETER_REQUIRED, false},
	broker.ScopeRefused:            {codes.InvalidArgument, tokenbrokerv1.ErrorReason_ERROR_REASON_SCOPE_REFUSED, false},
	broker.TargetRefused:           {codes.InvalidArgument, tokenbrokerv1.ErrorReason_ERROR_REASON_TARGET_REFUSED, false},
	broker.CallerUnauthenticated:   {codes.Unauthenticated, tokenbrokerv1.ErrorReason_ERROR_REASON_CALLER_UNAUTHENTICATED, false},
	broker.CallerNotAllowed:        {codes.PermissionDenied, tokenbrokerv1.ErrorReason_ERROR_REASON_CALLER_NOT_ALLOWED, false},
	broker.NotFound:                {codes.NotFound, tokenbrokerv1.ErrorReason_ERROR_REASON_NOT_FOUND, false},
	broker.AlreadyExists:           {codes.AlreadyExists, tokenbrokerv1.ErrorReason_ERROR_REASON_ALREADY_EXISTS, false},
	broker.EtagMismatch:            {codes.Aborted, tokenbrokerv1.ErrorReason_ERROR_REASON_ETAG_MISMATCH, false},
	broker.CredentialMisconfigured: {codes.FailedPrecondition, tokenbrokerv1.ErrorReason_ERROR_REASON_CREDENTIAL_MISCONFIGURED, false},
	broker.CredentialIncomplete:    {codes.FailedPrecondition, tokenbrokerv1.ErrorReason_ERROR_REASON_CREDENTIAL_INCOMPLETE, false},
	broker.CredentialDisabled:      {codes.FailedPrecondition, tokenbrokerv1.ErrorReason_ERROR_REASON_CREDENTIAL_DISABLED, false},
	broker.CredentialHeld:          {codes.FailedPrecondition, tokenbrokerv1.ErrorReason_ERROR_REASON_CREDENTIAL_HELD, false},
	broker.ProviderInvalid:         {codes.FailedPrecondition, tokenbrokerv1.ErrorReason_ERROR_REASON_PROVIDER_INVALID, false},
	broker.ReauthorizationRequired: {codes.FailedPrecondition, tokenbrokerv1.ErrorReason_ERROR_REASON_REAUTHORIZATION_REQUIRED, false},
	broker.SecretsRequired:         {codes.FailedPrecondition, tokenbrokerv1.ErrorReason_ERROR_REASON_SECRETS_REQUIRED, false},
	broker.UpstreamRateLimited:     {codes.ResourceExhausted, tokenbrokerv1.ErrorReason_ERROR_REASON_UPSTREAM_RATE_LIMITED, true},
	broker.TooManyTokens:           {codes.ResourceExhausted, tokenbrokerv1.ErrorReason_ERROR_REASON_TOO_MANY_TOKENS, false},
	broker.CallerLimited:           {codes.ResourceExhausted, tokenbrokerv1.ErrorReason_ERROR_REASON_CALLER_LIMITED, true},
	broker.UpstreamUnavailable:     {codes.Unavailable, tokenbrokerv1.ErrorReason_ERROR_REASON_UPSTREAM_UNAVAILABLE, true},
	broker.UpstreamResponseInvalid: {codes.Unavailable, tokenbrokerv1.ErrorReason_ERROR_REASON_UPSTREAM_RESPONSE_INVALID, true},
	broker.FreshTokensRejected:     {codes.Unavailable, tokenbrokerv1.ErrorReason_ERROR_REASON_FRESH_TOKENS_REJECTED, true},
	broker.RefreshUncertain:        {codes.Unavailable, tokenbrokerv1.ErrorReason_ERROR_REASON_REFRESH_UNCERTAIN, true},
	broker.StoreUnavailable:        {codes.Unavailable, tokenbrokerv1.ErrorReason_ERROR_REASON_STORE_UNAVAILABLE, true},
	broker.IssuerUnavailable:       {codes.Unavailable, tokenbrokerv1.ErrorReason_ERROR_REASON_ISSUER_UNAVAILABLE, true},
	broker.AuditUnavailable:        {codes.Unavailable, tokenbrokerv1.ErrorReason_ERROR_REASON_AUDIT_UNAVAILABLE, true},
	broker.ShuttingDown:            {codes.Unavailable, tokenbrokerv1.ErrorReason_ERROR_REASON_SHUTTING_DOWN, true},
	broker.UpstreamSlow:            {codes.DeadlineExceeded, tokenbrokerv1.ErrorReason_ERROR_REASON_UPSTREAM_SLOW, true},
	broker.RecordUnreadable:        {codes.DataLoss, tokenbrokerv1.ErrorReason_ERROR_REASON_RECORD_UNREADABLE, false},
	broker.DeadlinePassed:          {codes.DeadlineExceeded, tokenbrokerv1.ErrorReason_ERROR_REASON_DEADLINE_PASSED, true},
	broker.Canceled:                {codes.Canceled, tokenbrokerv1.ErrorReason_ERROR_REASON_UNSPECIFIED, false},
}

// reasonOf is the reason as it stands in ErrorInfo.
func reasonOf(k broker.Kind) string {
	return strings.TrimPrefix(outcomes[k].reason.String(), reasonPrefix)
}

// Outcome is the code that a failure of a kind has on the wire, and the reason in its ErrorInfo.
func Outcome(k broker.Kind) (codes.Code, string) {
	return outcomes[k].code, reasonOf(k)
}

const violationPrefix = "VIOLATION_REASON_"

// violationReasons is the one table from a violation's code to its reason.
var violationReasons = map[broker.Code]tokenbrokerv1.ViolationReason{
	broker.CodeInvalid:   tokenbrokerv1.ViolationReason_VIOLATION_REASON_INVALID,
	broker.CodeRequired:  tokenbrokerv1.ViolationReason_VIOLATION_REASON_REQUIRED,
	broker.CodeUnknown:   tokenbrokerv1.ViolationReason_VIOLATION_REASON_UNKNOWN,
	broker.CodeTooLarge:  tokenbrokerv1.ViolationReason_VIOLATION_REASON_TOO_LARGE,
	broker.CodeMisplaced: tokenbrokerv1.ViolationReason_VIOLATION_REASON_MISPLACED,
}

// violationReason is the reason as it stands in BadRequest.
func violationReason(c broker.Code) string {
	return strings.TrimPrefix(violationReasons[c].String(), violationPrefix)
}

// retryPushback is gRPC's own trailer (gRFC A6): in how many milliseconds a client's retry policy may try again, and -1:
// never. Without it such a policy would multiply an upstream's failure.
const retryPushback = "grpc-retry-pushback-ms"

// toStatus is what a failure looks like from outside, and the pushback that goes with it.
func toStatus(err error, requestID string, now time.Time) (*status.Status, string) {
	f, ok := err.(*broker.Failure) //nolint:errorlint // a Failure is never wrapped: errors.As on every call would cost
	if !ok {
		f = &broker.Failure{Kind: broker.KindOf(err)}
	}
	o, ok := outcomes[f.Kind]
	if !ok {
		o = outcomes[broker.Internal]
	}
	info := &errdetails.ErrorInfo{
		Domain: Domain, Reason: strings.TrimPrefix(o.reason.String(), reasonPrefix),
		Metadata: map[string]string{"request_id": requestID},
	}
	for k, v := range map[string]string{"credential": string(f.Credential), "provider": f.Provider, "upstream_error": f.UpstreamError} {
		if v != "" {
			info.Metadata[k] = tame.Line(v)
		}
	}
	if f.UpstreamStatus != 0 {
		info.Metadata["upstream_status"] = strconv.Itoa(f.UpstreamStatus)
	}
	details := []protoadapt.MessageV1{info, &errdetails.RequestInfo{RequestId: requestID}}
	pushback := "-1"
	if o.retry {
		wait := max(f.RetryAt.Sub(now), 0)
		if f.RetryAt.IsZero() {
			wait = time.Second
		}
		wait = (wait + time.Millisecond - 1).Truncate(time.Millisecond) // up: never before it may help
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(wait)})
		pushback = strconv.FormatInt(wait.Milliseconds(), 10)
	}
	if len(f.Violations) > 0 {
		bad := &errdetails.BadRequest{}
		for _, v := range f.Violations {
			bad.FieldViolations = append(bad.FieldViolations, &errdetails.BadRequest_FieldViolation{
				Field: tame.Line(v.Field), Description: tame.Line(v.Description), Reason: violationReason(v.Code),
			})
		}
		// The message has the violations in it, for clients that read no details. This one has not, for those that do.
		details = append(details, bad, &errdetails.LocalizedMessage{Locale: "en", Message: tame.Line(f.Summary())})
	}
	s, err := status.New(o.code, tame.Line(f.Error())).WithDetails(details...)
	if err != nil {
		return status.New(codes.Internal, "internal error"), "-1"
	}
	return s, pushback
}
