package console

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
	ExitOK = iota
	ExitFailure
	ExitUsage
	ExitNotFound
	ExitNotAllowed
	ExitPrecondition
	ExitTemporary
	ExitUnreachable
)

// An inputError is a mistake in what the operator gave.
type inputError struct{ error }

func (e *inputError) Unwrap() error { return e.error }

// WrongInput is an error that is the operator's to mend.
func WrongInput(err error) error { return &inputError{err} }

// BadInput is one in words.
func BadInput(format string, args ...any) error { return WrongInput(fmt.Errorf(format, args...)) }

// An unreachableError: nobody answers at the address.
type unreachableError struct{ address, why, says string }

// Unreachable says that nobody answers at the address.
func Unreachable(address string) error { return &unreachableError{address: address} }

// UnreachableBy says that nobody answers at the address by TLS, and why as the transport has it.
func UnreachableBy(address, why string) error { return &unreachableError{address: address, why: why} }

// Absent says, in words, that there is nobody who could be asked.
func Absent(says string) error { return &unreachableError{says: says} }

func (e *unreachableError) Error() string {
	if e.says != "" {
		return e.says
	}
	if e.why != "" {
		return fmt.Sprintf("no broker at %s takes this certificate, or it shows one that nobody vouches for, or none answers (its log says whom it refuses, and why): %s", e.address, e.why)
	}
	return fmt.Sprintf("no broker answers at %s: is `tokenbroker serve` running? Another address goes with --address or TOKENBROKER_ADDRESS", e.address)
}

// A reportedError has been told already.
type reportedError struct{ error }

func (e *reportedError) Unwrap() error { return e.error }

// Reported is an error that has been told already, as in a log: it decides the exit code, and is not told again.
func Reported(err error) error { return &reportedError{err} }

// An endedError has the exit code of another program.
type endedError struct {
	error
	code int
}

func (e *endedError) Unwrap() error { return e.error }

// Ended is an error with an exit code that is another program's, as shells have it.
func Ended(code int, err error) error { return &endedError{err, code} }

// ExitCode says how a command ends.
func ExitCode(err error) int {
	var input *inputError
	var away *unreachableError
	var ended *endedError
	switch {
	case err == nil:
		return ExitOK
	case errors.As(err, &ended):
		return ended.code
	case errors.Is(err, ErrInterrupted): // also where an input could not be read for it
		return ExitFailure
	case errors.As(err, &away):
		return ExitUnreachable
	case errors.As(err, &input):
		return ExitUsage
	}
	s, ok := status.FromError(err)
	if !ok {
		return ExitFailure
	}
	switch s.Code() {
	case codes.InvalidArgument:
		return ExitUsage
	case codes.NotFound:
		return ExitNotFound
	case codes.PermissionDenied, codes.Unauthenticated:
		return ExitNotAllowed
	case codes.FailedPrecondition, codes.Aborted, codes.AlreadyExists:
		return ExitPrecondition
	case codes.Unavailable, codes.ResourceExhausted, codes.DeadlineExceeded:
		return ExitTemporary
	default:
		return ExitFailure
	}
}

// Report tells the operator what went wrong, and returns the exit code.
func Report(p *Process, output string, err error) int {
	code := ExitCode(err)
	var told *reportedError
	if errors.As(err, &told) {
		return code
	}
	e := Describe(err)
	e.ExitCode = code
	if output == "json" {
		b, mErr := json.Marshal(map[string]any{"error": e})
		if mErr == nil {
			Printf(p.Stderr, "%s\n", b)
			return code
		}
	}
	for line := range strings.Lines(e.Message) {
		Printf(p.Stderr, "tokenbroker: %s\n", strings.TrimSuffix(line, "\n"))
	}
	for _, v := range e.Violations {
		Printf(p.Stderr, "  %s: %s\n", v.Field, v.Description)
	}
	if e.Reason != "" {
		Printf(p.Stderr, "  reason %s", e.Reason)
		if e.RetryAfter != "" {
			Printf(p.Stderr, ", try again in %s", e.RetryAfter)
		}
		if e.RequestID != "" {
			Printf(p.Stderr, ", request %s", e.RequestID)
		}
		Println(p.Stderr)
	}
	return code
}

// Warn says what does not keep a command from being run.
func Warn(p *Process, output string, warnings ...string) {
	for _, w := range warnings {
		if output == "json" {
			Printf(p.Stderr, "%s\n", fmt.Sprintf(`{"warning":%q}`, w))
			continue
		}
		Printf(p.Stderr, "tokenbroker: warning: %s\n", w)
	}
}

// Described is an error for people and for scripts.
type Described struct {
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

// Describe makes of an error, which may wrap a status, what people and scripts are told; the exit code is left to ExitCode.
func Describe(err error) Described {
	// Not status.FromError: of an error that wraps a status it makes a message with the status's own words around it.
	var grpc interface{ GRPCStatus() *status.Status }
	if !errors.As(err, &grpc) || grpc.GRPCStatus().Code() == codes.OK {
		return Described{Message: err.Error()}
	}
	s := grpc.GRPCStatus()
	d := Described{Message: s.Message(), Code: s.Code().String()}
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

// Sentence is a status as one line, with its violations.
func Sentence(err error) error {
	d := Describe(err)
	var b strings.Builder
	b.WriteString(d.Message)
	for _, v := range d.Violations {
		fmt.Fprintf(&b, "; %s %s", v.Field, v.Description)
	}
	return errors.New(b.String())
}
