package operator

import (
	"errors"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	"github.com/tokenbroker/tokenbroker/provider"
	"github.com/tokenbroker/tokenbroker/server"
)

// A tryFailure is why a try did not work: the command ends as `token get` would.
type tryFailure struct{ *broker.Failure }

func (f *tryFailure) Error() string { return f.GRPCStatus().Message() }

// GRPCStatus says how the command ends (console.ExitCode). There is no credential yet, which would be tried again.
func (f *tryFailure) GRPCStatus() *status.Status {
	code, reason := server.Outcome(f.Kind)
	s := status.New(code, "it did not work: "+f.Failure.Error())
	if with, err := s.WithDetails(&errdetails.ErrorInfo{Reason: reason, Domain: server.Domain}); err == nil {
		return with
	}
	return s
}

// failed says why it did not work; nil: it did.
func (c *providerTryCommand) failed(rep provider.TryReport) error {
	switch e := rep.Failure; {
	case e != nil:
		f := &broker.Failure{Kind: e.Kind(), UpstreamStatus: e.Status, UpstreamError: e.Code, Detail: e.Detail}
		return &tryFailure{c.blamed(f)}
	case rep.Unread != "":
		return errors.New("it did not work: " + broker.UnreadAdvice(rep.Unread))
	}
	return nil
}

// blamed says, as a broker would, that what nobody has chosen here is the operator's to mend.
func (c *providerTryCommand) blamed(f *broker.Failure) *broker.Failure {
	what := ""
	switch {
	case f.Kind == broker.ScopeRefused && len(c.Scope) == 0:
		what = "no --scope is given, and what the definition asks for by itself is refused: try others, and give them to the credential with `credential update --default-scope`"
	case f.Kind == broker.TargetRefused && c.Audience == "" && len(c.Resource) == 0:
		what = "neither --audience nor --resource is given, and what the definition asks for by itself is refused"
	case f.Kind == broker.RequestInvalid && len(c.Scope) == 0 && c.Audience == "" && len(c.Resource) == 0 && len(c.Parameter) == 0:
		if what = f.Detail; what == "" {
			what = "it may want scopes, an audience or parameters: give --scope, --audience or --parameter"
		}
		f.Detail = ""
	default:
		return f
	}
	f.Kind = broker.CredentialMisconfigured
	f.Detail = strings.TrimSuffix(what+"; "+f.Detail, "; ")
	return f
}

// asFlags names in a failure of the inputs the flags with which they are given.
func asFlags(err error) error {
	var f *broker.Failure
	if !errors.As(err, &f) || len(f.Violations) == 0 {
		return console.WrongInput(err)
	}
	var lines []string
	for _, v := range f.Violations {
		field := v.Field
		if name, ok := strings.CutPrefix(field, "credential.inputs."); ok {
			field = "--input " + name
		} else if name, ok := strings.CutPrefix(field, "secrets."); ok {
			field = "--secret " + name
		}
		lines = append(lines, field+": "+v.Description)
	}
	return console.BadInput("%s", strings.Join(lines, "\n"))
}
