package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// The exit codes, as --help lists them.
const (
	exitOK = iota
	exitFailure
	exitUsage
	exitNotFound
	exitNotAllowed
	exitPrecondition
	exitTemporary
	exitUnreachable
)

// An inputError is a mistake in what the operator gave.
type inputError struct{ error }

func (e *inputError) Unwrap() error { return e.error }

func badInput(format string, args ...any) error {
	return &inputError{fmt.Errorf(format, args...)}
}

// An unreachableError: nobody answers at the address.
type unreachableError struct{ address string }

func (e *unreachableError) Error() string {
	return fmt.Sprintf("no broker answers at %s: is `tokenbroker serve` running? Another address goes with --address or TOKENBROKER_ADDRESS", e.address)
}

// exitCode says how a command ends.
func exitCode(err error) int {
	var input *inputError
	var away *unreachableError
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errInterrupted): // also where an input could not be read for it
		return exitFailure
	case errors.As(err, &away):
		return exitUnreachable
	case errors.As(err, &input):
		return exitUsage
	}
	s, ok := status.FromError(err)
	if !ok {
		return exitFailure
	}
	switch s.Code() {
	case codes.InvalidArgument:
		return exitUsage
	case codes.NotFound:
		return exitNotFound
	case codes.PermissionDenied, codes.Unauthenticated:
		return exitNotAllowed
	case codes.FailedPrecondition, codes.Aborted, codes.AlreadyExists:
		return exitPrecondition
	case codes.Unavailable, codes.ResourceExhausted, codes.DeadlineExceeded:
		return exitTemporary
	default:
		return exitFailure
	}
}

// report tells the operator what went wrong, and returns the exit code.
func report(p *process, output string, err error) int {
	code := exitCode(err)
	e := describe(err)
	e.ExitCode = code
	if output == "json" {
		b, mErr := json.Marshal(map[string]any{"error": e})
		if mErr == nil {
			printf(p.stderr, "%s\n", b)
			return code
		}
	}
	for line := range strings.Lines(e.Message) {
		printf(p.stderr, "tokenbroker: %s\n", strings.TrimSuffix(line, "\n"))
	}
	for _, v := range e.Violations {
		printf(p.stderr, "  %s: %s\n", v.Field, v.Description)
	}
	if e.Reason != "" {
		printf(p.stderr, "  reason %s", e.Reason)
		if e.RetryAfter != "" {
			printf(p.stderr, ", try again in %s", e.RetryAfter)
		}
		if e.RequestID != "" {
			printf(p.stderr, ", request %s", e.RequestID)
		}
		printline(p.stderr)
	}
	return code
}

// described is an error for people and for scripts.
type described struct {
	Message    string      `json:"message"`
	Code       string      `json:"code,omitempty"`
	Reason     string      `json:"reason,omitempty"`
	RetryAfter string      `json:"retry_after,omitempty"`
	RequestID  string      `json:"request_id,omitempty"`
	Violations []violation `json:"violations,omitempty"`
	ExitCode   int         `json:"exit_code"`
}

type violation struct {
	Field       string `json:"field"`
	Reason      string `json:"reason,omitempty"`
	Description string `json:"description"`
}

func describe(err error) described {
	// Not status.FromError: of an error that wraps a status it makes a message with the status's own words around it.
	var grpc interface{ GRPCStatus() *status.Status }
	if !errors.As(err, &grpc) || grpc.GRPCStatus().Code() == codes.OK {
		return described{Message: err.Error()}
	}
	s := grpc.GRPCStatus()
	d := described{Message: s.Message(), Code: s.Code().String()}
	for _, x := range s.Details() {
		switch x := x.(type) {
		case *errdetails.ErrorInfo:
			d.Reason = x.GetReason()
		case *errdetails.RetryInfo:
			d.RetryAfter = x.GetRetryDelay().AsDuration().String()
		case *errdetails.RequestInfo:
			d.RequestID = x.GetRequestId()
		case *errdetails.BadRequest:
			for _, v := range x.GetFieldViolations() {
				d.Violations = append(d.Violations, violation{v.GetField(), v.GetReason(), v.GetDescription()})
			}
		case *errdetails.LocalizedMessage:
			d.Message = x.GetMessage() // the status's own lists the violations as well
		}
	}
	return d
}
