package console

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
)

func TestExitCode(t *testing.T) {
	want := map[codes.Code]int{
		codes.OK:                 ExitOK,
		codes.Canceled:           ExitFailure,
		codes.Unknown:            ExitFailure,
		codes.InvalidArgument:    ExitUsage,
		codes.DeadlineExceeded:   ExitTemporary,
		codes.NotFound:           ExitNotFound,
		codes.AlreadyExists:      ExitPrecondition,
		codes.PermissionDenied:   ExitNotAllowed,
		codes.ResourceExhausted:  ExitTemporary,
		codes.FailedPrecondition: ExitPrecondition,
		codes.Aborted:            ExitPrecondition,
		codes.OutOfRange:         ExitFailure,
		codes.Unimplemented:      ExitFailure,
		codes.Internal:           ExitFailure,
		codes.Unavailable:        ExitTemporary,
		codes.DataLoss:           ExitFailure,
		codes.Unauthenticated:    ExitNotAllowed,
	}
	for c := codes.OK; c <= codes.Unauthenticated; c++ {
		code, listed := want[c]
		if !listed {
			t.Errorf("%s is not in the table", c)
		}
		err := status.Error(c, "text")
		if got := ExitCode(err); got != code {
			t.Errorf("%s: got %d, want %d", c, got, code)
		}
		if c == codes.OK {
			continue
		}
		if got := ExitCode(fmt.Errorf("a command: %w", err)); got != code {
			t.Errorf("%s, wrapped: got %d, want %d", c, got, code)
		}
	}
	for _, x := range []struct {
		err  error
		want int
	}{
		{nil, ExitOK},
		{errors.New("text"), ExitFailure},
		{BadInput("text"), ExitUsage},
		{fmt.Errorf("a command: %w", BadInput("text")), ExitUsage},
		{Unreachable("127.0.0.1:1"), ExitUnreachable},
	} {
		if got := ExitCode(x.err); got != x.want {
			t.Errorf("%v: got %d, want %d", x.err, got, x.want)
		}
	}
}

func refusal(t *testing.T) error {
	t.Helper()
	s, err := status.New(codes.InvalidArgument, "the request is invalid; and this is still the message; scopes: too many").WithDetails(
		&errdetails.ErrorInfo{Reason: "REQUEST_INVALID", Domain: "tokenbroker"},
		&errdetails.RetryInfo{RetryDelay: durationpb.New(3 * time.Second)},
		&errdetails.RequestInfo{RequestId: "r1"},
		&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: "scopes", Description: "too many", Reason: "TOO_LARGE"}}},
		&errdetails.LocalizedMessage{Locale: "en", Message: "the request is invalid; and this is still the message"},
	)
	if err != nil {
		t.Fatal(err)
	}
	return s.Err()
}

func TestReport(t *testing.T) {
	for _, x := range []struct {
		name, output, want string
		err                error
	}{
		{"text", "text", "tokenbroker: the request is invalid; and this is still the message\n  scopes: too many\n  reason REQUEST_INVALID, try again in 3s, request r1\n", refusal(t)},
		{"wrapped", "", "tokenbroker: the request is invalid; and this is still the message\n  scopes: too many\n  reason REQUEST_INVALID, try again in 3s, request r1\n", fmt.Errorf("kong: %w", refusal(t))},
		{"json", "json", `{"error":{"message":"the request is invalid; and this is still the message","code":"InvalidArgument","reason":"REQUEST_INVALID","retry_after":"3s",` +
			`"request_id":"r1","violations":[{"field":"scopes","reason":"TOO_LARGE","description":"too many"}],"exit_code":2}}` + "\n", refusal(t)},
		{"several", "text", "tokenbroker: a\ntokenbroker: b\n", WrongInput(errors.Join(errors.New("a"), errors.New("b")))},
		{"no status", "json", `{"error":{"message":"a","exit_code":2}}` + "\n", BadInput("a")},
	} {
		t.Run(x.name, func(t *testing.T) {
			var stderr bytes.Buffer
			if got := Report(&Process{Stderr: &stderr}, x.output, x.err); got != ExitUsage {
				t.Errorf("got %d, want %d", got, ExitUsage)
			}
			if stderr.String() != x.want {
				t.Errorf("got\n%s\nwant\n%s", &stderr, x.want)
			}
		})
	}
	if got := Sentence(refusal(t)).Error(); got != "the request is invalid; and this is still the message; scopes too many" {
		t.Errorf("got %q", got)
	}
}
