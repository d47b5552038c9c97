package mesh

import (
	"encoding/json"
	"strconv"
	"time"

	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// A refusal is what the client of an Envoy gets instead of the API's answer. It knows nothing of the broker: so it is told in HTTP.
type refusal struct {
	// status is 403 where the caller may not, 429 where they ask too much, 503 where the same may help later, and 500 where an operator has to mend something. It is
	// never a 401, which would be about what the client brings to the API.
	status typev3.StatusCode
	// reason is the contract's ErrorReason without its prefix.
	reason  string
	headers []field
	body    []byte
}

// refusalOf is what a status of an RPC looks like over HTTP.
func refusalOf(s *status.Status) refusal {
	r := refusal{status: typev3.StatusCode_InternalServerError, reason: s.Code().String()}
	var requestID string
	var retry *errdetails.RetryInfo
	for _, d := range s.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			r.reason = d.GetReason()
		case *errdetails.RequestInfo:
			requestID = d.GetRequestId()
		case *errdetails.RetryInfo:
			retry = d
		}
	}
	switch {
	case s.Code() == codes.PermissionDenied || s.Code() == codes.Unauthenticated:
		r.status = typev3.StatusCode_Forbidden
	case r.reason == "CALLER_LIMITED":
		r.status = typev3.StatusCode_TooManyRequests
	case retry != nil || s.Code() == codes.Unavailable || s.Code() == codes.Canceled:
		r.status = typev3.StatusCode_ServiceUnavailable
	}
	r.headers = []field{{"content-type", "application/json"}, {"cache-control", "no-store"}, {"x-tokenbroker-reason", r.reason}}
	if retry != nil { // RFC 9110 section 10.2.3: whole seconds, and never before it may help
		seconds := max(1, int64((retry.GetRetryDelay().AsDuration()+time.Second-1)/time.Second))
		r.headers = append(r.headers, field{"retry-after", strconv.FormatInt(seconds, 10)})
	}
	r.body, _ = json.Marshal(struct { // texts alone
		Reason    string `json:"reason"`
		Message   string `json:"message"`
		RequestID string `json:"request_id,omitempty"`
	}{r.reason, s.Message(), requestID})
	r.body = append(r.body, '\n')
	return r
}
