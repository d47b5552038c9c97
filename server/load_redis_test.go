package server_test

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/tokenbroker/tokenbroker/broker"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/internal/redistest"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/redis"
	"github.com/tokenbroker/tokenbroker/store/seal"
)

const readEach = "a read of Redis for each call"

// readingServer is what a broker without a cache would be: each call reads credential and token from Redis in one script, opens
// and decodes both, and encodes its answer. No interceptors, no limits.
func readingServer(s *stand, answer *tokenbrokerv1.GetTokenResponse) answering {
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	address, err := redis.ParseAddress(redistest.Start(s.t, redistest.Options{}).URL())
	must(err)
	db, err := redis.Open(redis.Options{Address: address})
	must(err)
	s.t.Cleanup(func() { _ = db.Close() })
	keys, err := seal.New()
	must(err)
	st, err := store.New(db, keys, store.Options{})
	must(err)
	ctx, now := context.Background(), time.Now()
	c := broker.Credential{
		Name: "main", Provider: "officernd", Incarnation: broker.NewID(), Version: broker.NewID(), Epoch: broker.NewID(), Etag: broker.NewID(),
		Secrets: map[string]broker.SecretInput{"client_secret": {Value: broker.NewSecret("a secret of the usual length, 40 bytes..")}},
	}
	must(st.CreateCredential(ctx, c, nil))
	key := broker.TokenKey{Credential: c.Name, Token: [32]byte{1}, Digest: "d"}
	view, err := st.Read(ctx, key, "")
	must(err)
	lease, err := view.Acquire(ctx, time.Minute, false)
	must(err)
	_, err = lease.Commit(ctx, broker.Outcome{Now: now, Token: &broker.Issued{
		ID: answer.GetToken().GetTokenId(), Values: map[string]broker.Secret{"token": broker.NewSecret(answer.GetToken().GetAccessToken())},
		SentAt: now, ExpireAt: now.Add(time.Hour), RefreshAt: now.Add(50 * time.Minute),
	}})
	must(err)
	srv := noopServer(answer)
	srv.RegisterService(&grpc.ServiceDesc{
		ServiceName: tokenbrokerv1.TokenBrokerService_ServiceDesc.ServiceName, HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{
			MethodName: "GetToken",
			Handler: func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
				if err := decode(&get{}); err != nil {
					return nil, err
				}
				v, err := st.Read(ctx, key, "")
				if err != nil || v.Token == nil {
					return nil, status.Error(codes.Unavailable, "nothing was read")
				}
				m := proto.CloneOf(answer)
				m.Token.AccessToken = v.Token.Values["token"].Reveal()
				return m, nil
			},
		}},
	}, struct{}{})
	return srv
}
