package product

import (
	"bytes"
	"context"
	"maps"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/internal/upstreamsim"
)

// TestWhatMeansNothingIsRefused: and nothing is asked of anybody.
func TestWhatMeansNothingIsRefused(t *testing.T) {
	r := newRig(t, rigOptions{})
	a := r.account(upstreamsim.OfficeRnD)
	r.create("main", a)
	for field, req := range map[string]*get{
		"min_ttl":      {Credential: "main", MinTtl: &durationpb.Duration{Seconds: 5, Nanos: -1}},
		"scopes":       {Credential: "main", Scopes: []string{"officernd.api.read officernd.api.write"}},
		"audience":     {Credential: "main", Audience: "a\r\nb"},
		"parameters.p": {Credential: "main", Parameters: map[string]string{"p": "a\u0085b"}},
		"parameters":   {Credential: "main", Parameters: map[string]string{"p\n": "a"}},
	} {
		got := r.refused(testContext(t), req)
		got.want(t, codes.InvalidArgument, "REQUEST_INVALID")
		got.wantFields(t, field)
	}
	rotate := &tokenbrokerv1.RotateSecretRequest{Name: "main", Secrets: a.Secrets, KeepFormer: &durationpb.Duration{Nanos: 2e9}}
	refuse(t, r.credentials.RotateSecret, rotate).wantFields(t, "keep_former")
	refuse(t, r.credentials.CreateCredential, &create{
		Credential: &cred{Name: "other", Provider: "officernd", Inputs: a.Inputs, DefaultScopes: []string{"a b"}}, Secrets: a.Secrets,
	}).wantFields(t, "credential.default_scopes")
	refuse(t, r.credentials.CreateCredential, &create{
		Credential: &cred{Name: "other", Provider: "officernd", Inputs: a.Inputs, DefaultAudience: "a\x00"}, Secrets: a.Secrets,
	}).wantFields(t, "credential.default_audience")
	none := strings.Repeat("0", 32)
	refuse(t, r.credentials.DeleteCredential, &tokenbrokerv1.DeleteCredentialRequest{Name: "main", Etag: none}).wantFields(t, "etag")
	refuse(t, r.credentials.UpdateCredential, &update{Credential: &cred{Name: "main", Etag: none, Disabled: true}}).wantFields(t, "credential.etag")
	r.mustGet("main")
}

// TestARequestIDOfAnotherRequestIsRefused: it must not seem to be done.
func TestARequestIDOfAnotherRequestIsRefused(t *testing.T) {
	r := newRig(t, rigOptions{})
	a := r.account(upstreamsim.OfficeRnD)
	const id = "0b8c7a3e-5f2d-4c1b-9e8a-7d6f5e4c3b2a"
	req := &create{Credential: &cred{Name: "main", Provider: "officernd", Inputs: a.Inputs}, Secrets: a.Secrets, RequestId: id}
	do(t, r.credentials.CreateCredential, req)
	do(t, r.credentials.CreateCredential, req)
	rotate := &tokenbrokerv1.RotateSecretRequest{Name: "main", Secrets: map[string]string{"client_secret": "another"}, RequestId: id}
	refuse(t, r.credentials.RotateSecret, rotate).want(t, codes.AlreadyExists, "ALREADY_EXISTS")
	req.Secrets = maps.Clone(req.Secrets)
	req.Secrets["client_secret"] = "another"
	got := refuse(t, r.credentials.CreateCredential, req)
	got.want(t, codes.AlreadyExists, "ALREADY_EXISTS")
	if !strings.Contains(got.message, "request_id") {
		t.Errorf("got %q, want what to do", got.message)
	}
	r.mustGet("main")
}

func TestAWatchThatReachesItsDeadlineSaysSo(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.create("main", r.account(upstreamsim.OfficeRnD))
	soon, over := context.WithTimeout(testContext(t), time.Nanosecond)
	defer over()
	err := r.broker.Watch(soon, here, engine.Request{Credential: "main"}, "", func(engine.Event) error { return nil })
	if broker.KindOf(err) != broker.DeadlinePassed {
		t.Errorf("got %v, want that its deadline has passed", err)
	}
	ctx, cancel := context.WithTimeout(testContext(t), 300*time.Millisecond)
	defer cancel()
	stream := r.watch(ctx, &tokenbrokerv1.WatchTokenRequest{Credential: "main"})
	for {
		if _, err := stream.Recv(); err != nil {
			if got := refusalOf(err, nil); got.code != codes.DeadlineExceeded {
				t.Errorf("got %s, want DeadlineExceeded", got.text)
			}
			break
		}
	}
	if bytes.Contains(r.log.Bytes(), []byte(`"level":"ERROR"`)) {
		t.Errorf("got %s", r.log.Bytes())
	}
}

// TestAMessageThatCannotBeReadIsARequestThatIsWrong: like any other, with a reason and no word of trying again.
func TestAMessageThatCannotBeReadIsARequestThatIsWrong(t *testing.T) {
	r := newRig(t, rigOptions{})
	bad := wrapperspb.Bytes([]byte("\xff")) // field 1, which is a text in all of these requests
	for _, method := range []string{
		"/tokenbroker.v1.TokenBrokerService/GetToken", "/tokenbroker.v1.TokenBrokerService/Invalidate", "/tokenbroker.v1.CredentialService/GetCredential",
		"/tokenbroker.v1.ProviderService/GetProvider",
	} {
		var trailer metadata.MD
		err := r.conn.Invoke(testContext(t), method, bad, &emptypb.Empty{}, grpc.Trailer(&trailer))
		refusalOf(err, trailer).want(t, codes.InvalidArgument, "REQUEST_INVALID")
	}
	stream, err := r.conn.NewStream(testContext(t), &grpc.StreamDesc{ServerStreams: true}, "/tokenbroker.v1.TokenBrokerService/WatchToken")
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.SendMsg(bad); err != nil {
		t.Fatal(err)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	err = stream.RecvMsg(&emptypb.Empty{})
	refusalOf(err, stream.Trailer()).want(t, codes.InvalidArgument, "REQUEST_INVALID")
}
