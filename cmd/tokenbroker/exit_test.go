package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
)

func TestExitCode(t *testing.T) {
	want := map[codes.Code]int{
		codes.OK:                 exitOK,
		codes.Canceled:           exitFailure,
		codes.Unknown:            exitFailure,
		codes.InvalidArgument:    exitUsage,
		codes.DeadlineExceeded:   exitTemporary,
		codes.NotFound:           exitNotFound,
		codes.AlreadyExists:      exitPrecondition,
		codes.PermissionDenied:   exitNotAllowed,
		codes.ResourceExhausted:  exitTemporary,
		codes.FailedPrecondition: exitPrecondition,
		codes.Aborted:            exitPrecondition,
		codes.OutOfRange:         exitFailure,
		codes.Unimplemented:      exitFailure,
		codes.Internal:           exitFailure,
		codes.Unavailable:        exitTemporary,
		codes.DataLoss:           exitFailure,
		codes.Unauthenticated:    exitNotAllowed,
	}
	for c := codes.OK; c <= codes.Unauthenticated; c++ {
		code, listed := want[c]
		if !listed {
			t.Errorf("%s is not in the table", c)
		}
		err := status.Error(c, "text")
		if got := exitCode(err); got != code {
			t.Errorf("%s: got %d, want %d", c, got, code)
		}
		if c == codes.OK {
			continue
		}
		if got := exitCode(fmt.Errorf("a command: %w", err)); got != code {
			t.Errorf("%s, wrapped: got %d, want %d", c, got, code)
		}
	}
	for _, x := range []struct {
		err  error
		want int
	}{
		{nil, exitOK},
		{errors.New("text"), exitFailure},
		{errTestFailed, exitFailure},
		{badInput("text"), exitUsage},
		{fmt.Errorf("a command: %w", badInput("text")), exitUsage},
		{&unreachableError{"127.0.0.1:1"}, exitUnreachable},
	} {
		if got := exitCode(x.err); got != x.want {
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
		{"several", "text", "tokenbroker: a\ntokenbroker: b\n", &inputError{errors.Join(errors.New("a"), errors.New("b"))}},
		{"no status", "json", `{"error":{"message":"a","exit_code":2}}` + "\n", badInput("a")},
	} {
		t.Run(x.name, func(t *testing.T) {
			var stderr bytes.Buffer
			if got := report(&process{stderr: &stderr}, x.output, x.err); got != exitUsage {
				t.Errorf("got %d, want %d", got, exitUsage)
			}
			if stderr.String() != x.want {
				t.Errorf("got\n%s\nwant\n%s", &stderr, x.want)
			}
		})
	}
	if got := sentence(refusal(t)).Error(); got != "the request is invalid; and this is still the message; scopes too many" {
		t.Errorf("got %q", got)
	}
}

func TestOutputOf(t *testing.T) {
	t.Setenv("TOKENBROKER_OUTPUT", "from-environment")
	for _, x := range []struct{ args, want string }{
		{"token get one", "from-environment"},
		{"token get one -o json", "json"},
		{"token get one --output json", "json"},
		{"token get --output=json one", "json"},
		{"token get -ojson one", "json"},
		{"token get one -o", "from-environment"},
	} {
		if got := outputOf(strings.Fields(x.args)); got != x.want {
			t.Errorf("%s: got %q, want %q", x.args, got, x.want)
		}
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, io.ErrShortWrite }

func TestOutputThatCannotBeWritten(t *testing.T) {
	var stderr bytes.Buffer
	p := &process{ctx: t.Context(), stdin: os.Stdin, stdout: brokenWriter{}, stderr: &stderr}
	if got := run(p, []string{"version"}); got != exitFailure {
		t.Errorf("got %d, want %d", got, exitFailure)
	}
	if want := "tokenbroker: write the output: short write\n"; stderr.String() != want {
		t.Errorf("got %q, want %q", &stderr, want)
	}
}

func TestMissingSecrets(t *testing.T) {
	bad := func(fields ...string) error {
		var b errdetails.BadRequest
		for i := 0; i+2 < len(fields); i += 3 {
			b.FieldViolations = append(b.FieldViolations, &errdetails.BadRequest_FieldViolation{Field: fields[i], Reason: fields[i+1], Description: fields[i+2]})
		}
		s, err := status.New(codes.InvalidArgument, "text").WithDetails(&b)
		if err != nil {
			t.Fatal(err)
		}
		return s.Err()
	}
	for _, x := range []struct {
		name string
		err  error
		want string
	}{
		{"nothing wrong", nil, ""},
		{"no status", io.EOF, ""},
		{"two are missing", bad("secrets.a", "REQUIRED", "give it", "secrets.b", "REQUIRED", "the first refresh token is wanted"), "a b"},
		{"something else is wrong too", bad("secrets.a", "REQUIRED", "is required", "credential.inputs.c", "REQUIRED", "is required"), ""},
		{"a secret is wrong", bad("secrets.a", "UNKNOWN", "is required, and not known"), ""},
	} {
		if got := strings.Join(missingSecrets(x.err), " "); got != x.want {
			t.Errorf("%s: got %q, want %q", x.name, got, x.want)
		}
	}
}
