package product

import (
	"context"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"

	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

// A refusal is everything that a client is told when a call fails.
type refusal struct {
	code     codes.Code
	message  string
	info     *errdetails.ErrorInfo
	retry    *errdetails.RetryInfo
	bad      *errdetails.BadRequest
	request  *errdetails.RequestInfo
	pushback []string
	// text is the whole status, every detail in it.
	text string
}

func refusalOf(err error, trailer metadata.MD) refusal {
	s := status.Convert(err)
	r := refusal{code: s.Code(), message: s.Message(), pushback: trailer.Get("grpc-retry-pushback-ms"), text: prototext.Format(s.Proto())}
	for _, d := range s.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			r.info = d
		case *errdetails.RetryInfo:
			r.retry = d
		case *errdetails.BadRequest:
			r.bad = d
		case *errdetails.RequestInfo:
			r.request = d
		}
	}
	return r
}

// refused asks for a token and returns why there is none.
func (r *rig) refused(ctx context.Context, req *tokenbrokerv1.GetTokenRequest) refusal {
	r.t.Helper()
	var trailer metadata.MD
	_, err := r.tokens.GetToken(ctx, req, grpc.Trailer(&trailer))
	if err == nil {
		r.t.Fatal("got a token, want a refusal")
	}
	return refusalOf(err, trailer)
}

// want holds a refusal against code and reason, and against what every refusal has: the domain, the request's id in both
// places, and RetryInfo and pushback that say the same.
func (r refusal) want(t testing.TB, code codes.Code, reason string) {
	t.Helper()
	if r.code != code || r.info.GetReason() != reason {
		t.Fatalf("got %v %s (%s), want %v %s", r.code, r.info.GetReason(), r.message, code, reason)
	}
	if r.info.GetDomain() != "tokenbroker" || r.request.GetRequestId() == "" || r.request.GetRequestId() != r.info.GetMetadata()["request_id"] {
		t.Errorf("got %v and %v, want the domain tokenbroker and one request id", r.info, r.request)
	}
	pushback := "-1"
	if r.retry != nil {
		pushback = strconv.FormatInt(r.retry.GetRetryDelay().AsDuration().Milliseconds(), 10)
	}
	if len(r.pushback) != 1 || r.pushback[0] != pushback {
		t.Errorf("got pushback %q, want %s", r.pushback, pushback)
	}
	retryable := code == codes.Unavailable || code == codes.DeadlineExceeded || reason == "UPSTREAM_RATE_LIMITED"
	if retryable != (r.retry != nil) {
		t.Errorf("%v %s: got RetryInfo %v, want one: %v", code, reason, r.retry, retryable)
	}
	if (code == codes.InvalidArgument && r.bad == nil) && (reason == "REQUEST_INVALID" || strings.HasPrefix(reason, "PARAMETER_")) {
		t.Errorf("%s: no BadRequest says what to change", reason)
	}
}

// wantFields holds the paths of what is wrong, each with a description, against fields.
func (r refusal) wantFields(t testing.TB, fields ...string) {
	t.Helper()
	var got []string
	for _, v := range r.bad.GetFieldViolations() {
		got = append(got, v.GetField())
		if len(v.GetDescription()) < 8 {
			t.Errorf("%s: the description %q says nothing", v.GetField(), v.GetDescription())
		}
	}
	if strings.Join(got, " ") != strings.Join(fields, " ") {
		t.Errorf("got violations of %q, want %q (%s)", got, fields, r.message)
	}
}

// eventually asks as a client does that honours RetryInfo, until there is a token.
func (r *rig) eventually(req *tokenbrokerv1.GetTokenRequest) *tokenbrokerv1.GetTokenResponse {
	r.t.Helper()
	ctx := testContext(r.t)
	for {
		res, err := r.tokens.GetToken(ctx, req)
		if err == nil {
			return res
		}
		again := refusalOf(err, nil).retry
		if again == nil {
			r.t.Fatalf("got %v, which no waiting helps", err)
		}
		timer := time.NewTimer(again.GetRetryDelay().AsDuration())
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			r.t.Fatal("no token came in time")
		}
	}
}
