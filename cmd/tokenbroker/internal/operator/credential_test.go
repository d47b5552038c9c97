package operator

import (
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

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

// TestATestThatFailsEndsAsGetTokenWould, and says the same; of a broker that gives no code it is a failure.
func TestATestThatFailsEndsAsGetTokenWould(t *testing.T) {
	for code, want := range map[codes.Code]int{
		codes.FailedPrecondition: console.ExitPrecondition, codes.Unavailable: console.ExitTemporary, codes.InvalidArgument: console.ExitUsage,
		codes.OK: console.ExitFailure,
	} {
		err := &testFailure{&tokenbrokerv1.TestCredentialResponse{Reason: "WHY", Code: int32(code), Message: "what to do"}}
		if got := console.ExitCode(err); got != want {
			t.Errorf("%v: got exit code %d, want %d", code, got, want)
		}
		if d := console.Describe(err); d.Message != "the test failed: what to do" || d.Reason != "WHY" {
			t.Errorf("%v: got %+v", code, d)
		}
	}
}

// TestATestThatWasMadeBefore is told from one's own, and one without a request from both.
func TestATestThatWasMadeBefore(t *testing.T) {
	asked := time.Now()
	made := func(ago time.Duration) *tokenbrokerv1.Attempt {
		return &tokenbrokerv1.Attempt{StartTime: timestamppb.New(asked.Add(-ago))}
	}
	for name, x := range map[string]struct {
		all  []*tokenbrokerv1.Attempt
		want bool
	}{
		"none":                 {nil, false},
		"its own":              {[]*tokenbrokerv1.Attempt{made(-time.Second)}, false},
		"somebody else's":      {[]*tokenbrokerv1.Attempt{made(3 * time.Second)}, true},
		"of clocks apart, its": {[]*tokenbrokerv1.Attempt{made(100 * time.Millisecond)}, false},
		"its own, the last":    {[]*tokenbrokerv1.Attempt{made(3 * time.Second), made(-time.Second)}, false},
	} {
		if got := madeBefore(x.all, asked); got != x.want {
			t.Errorf("%s: got %v", name, got)
		}
	}
}
