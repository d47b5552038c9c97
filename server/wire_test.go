package server_test

import (
	"context"
	"net"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	"github.com/tokenbroker/tokenbroker/broker"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/server"
)

func TestAnswersAreTheSameEncodedOnceOrForEveryCall(t *testing.T) {
	s := newStand(t)
	req := &get{Credential: "main"}
	first := s.get()
	each, err := server.DefaultCodec(server.Settings{Broker: s.broker, Providers: s.upstream, Authorizer: broker.LocalOnly{}})
	if err != nil {
		t.Fatal(err)
	}
	l := bufconn.Listen(1 << 16)
	s.serving.Go(func() { _ = each.Serve(l) })
	defer each.Stop()
	conn, err := grpc.NewClient("passthrough:///bufconn", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, tokens := range []tokenbrokerv1.TokenBrokerServiceClient{s.tokens, tokenbrokerv1.NewTokenBrokerServiceClient(conn)} {
		for _, o := range [][]grpc.CallOption{nil, {grpc.MaxCallRecvMsgSize(1 << 20)}} {
			res, err := tokens.GetToken(t.Context(), req, o...)
			if err != nil || !proto.Equal(res, first) {
				t.Errorf("got %v, %v; want %v", res, err, first)
			}
			res.Token.AccessToken = "altered"
			for i := range res.GetToken().GetHeaders() {
				res.Token.Headers[i].Value = "altered"
			}
		}
	}
	if n := s.upstream.exchanges.Load(); n != 1 {
		t.Errorf("got %d exchanges, want 1", n)
	}
}
