package server_test

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

// callers are how many ask at a time.
var callers = []int{1, 64}

// inParallel runs call from so many goroutines at a time, b.N times in all.
func inParallel(b *testing.B, n int, call func() error) {
	b.ReportAllocs()
	b.SetParallelism(max(1, n/runtime.GOMAXPROCS(0)))
	b.ResetTimer()
	if n == 1 {
		for b.Loop() {
			if err := call(); err != nil {
				b.Fatal(err)
			}
		}
		return
	}
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := call(); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// BenchmarkGetToken is a hit over loopback TCP, on one connection. Hold it against BenchmarkNoop.
func BenchmarkGetToken(b *testing.B) {
	s := newStand(b)
	s.get()
	req := &get{Credential: "main"}
	for _, n := range callers {
		b.Run(fmt.Sprintf("callers=%d", n), func(b *testing.B) {
			inParallel(b, n, func() error {
				_, err := s.tokens.GetToken(context.Background(), req)
				return err
			})
		})
	}
	if n := s.upstream.exchanges.Load(); n != 1 {
		b.Errorf("got %d exchanges, want 1", n)
	}
}

const noopMethod = "/tokenbroker.test.Noop/Call"

// noop gives everybody the same answer: what gRPC alone costs.
func noop(answer any) *grpc.ServiceDesc {
	return &grpc.ServiceDesc{ServiceName: "tokenbroker.test.Noop", HandlerType: (*any)(nil), Methods: []grpc.MethodDesc{{
		MethodName: "Call",
		Handler: func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			if err := decode(&get{}); err != nil {
				return nil, err
			}
			return answer, nil
		},
	}}}
}

// BenchmarkNoop is a call with the same request and the same answer, to a handler that does nothing; no interceptors, no
// limits.
func BenchmarkNoop(b *testing.B) {
	res := newStand(b).get()
	srv := grpc.NewServer()
	srv.RegisterService(noop(res), struct{}{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	conn, err := grpc.NewClient("passthrough:///"+l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		b.Fatal(err)
	}
	req := &get{Credential: "main"}
	for _, n := range callers {
		b.Run(fmt.Sprintf("callers=%d", n), func(b *testing.B) {
			inParallel(b, n, func() error {
				return conn.Invoke(context.Background(), noopMethod, req, &tokenbrokerv1.GetTokenResponse{})
			})
		})
	}
	_ = conn.Close()
	srv.GracefulStop()
	if err := <-done; err != nil {
		b.Error(err)
	}
}
