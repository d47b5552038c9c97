package product

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"github.com/tokenbroker/tokenbroker/broker"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

// hear writes down what clients are told: every error in full, and every answer but tokens.
func (r *rig) hear(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, call grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	r.called.Store(method, true)
	var header, trailer metadata.MD
	err := call(ctx, method, req, reply, cc, append(opts, grpc.Header(&header), grpc.Trailer(&trailer))...)
	if err != nil {
		r.hearError(err, header, trailer)
	} else if m, ok := reply.(proto.Message); ok && method != tokenbrokerv1.TokenBrokerService_GetToken_FullMethodName {
		fmt.Fprintln(r.heard, prototext.Format(m), header, trailer)
	}
	return err
}

func (r *rig) hearError(err error, header, trailer metadata.MD) {
	s := status.Convert(err).Proto()
	raw, _ := proto.Marshal(s)
	fmt.Fprintf(r.heard, "%+v\n%#v\n%+v\n%s\n%s\n%v %v\n", err, err, s, prototext.Format(s), raw, header, trailer)
}

func (r *rig) hearStream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	r.called.Store(method, true)
	s, err := open(ctx, desc, cc, method, opts...)
	if err != nil {
		r.hearError(err, nil, nil)
		return nil, err
	}
	return &heardStream{ClientStream: s, r: r}, nil
}

type heardStream struct {
	grpc.ClientStream
	r *rig
}

func (s *heardStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if err != nil && !errors.Is(err, io.EOF) {
		s.r.hearError(err, nil, s.Trailer())
	}
	return err
}

// A spy stands between broker and definitions and keeps what goes through: every secret, to look for it elsewhere.
type spy struct {
	broker.Upstream
	mu      sync.Mutex
	secrets map[string]bool
	seen    []any
	// panics makes exchanges and definitions panic with a value that holds a secret.
	panics func(run string)
}

func (s *spy) Definition(name string) (broker.Definition, error) {
	s.panicking("definition")
	d, err := s.Upstream.Definition(name)
	if err != nil {
		return nil, err
	}
	return &spiedDefinition{Definition: d, spy: s}, nil
}

func (s *spy) panicking(where string) {
	s.mu.Lock()
	p := s.panics
	s.mu.Unlock()
	if p != nil {
		p(where)
	}
}

func (s *spy) setPanics(p func(string)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.panics = p
}

// keep remembers secrets, and what held them.
func (s *spy) keep(holder any, secrets ...broker.Secret) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.seen) < 100 {
		s.seen = append(s.seen, holder)
	}
	for _, x := range secrets {
		s.plant(x.Reveal())
	}
}

// plant remembers a secret that is long enough to be looked for; s.mu is held, or nobody else has s.
func (s *spy) plant(x string) {
	if len(x) >= 8 {
		s.secrets[x] = true
	}
}

type spiedDefinition struct {
	broker.Definition
	spy *spy
}

func (d *spiedDefinition) Exchange(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
	d.spy.panicking("exchange")
	d.spy.keep(x, x.RefreshToken)
	for _, in := range x.Credential.Secrets {
		d.spy.keep(in, in.Value, in.Former)
	}
	a, err := d.Definition.Exchange(ctx, x)
	d.spy.keep(a, a.RefreshToken)
	if err != nil {
		d.spy.keep(err)
	}
	for name, v := range a.Values {
		if name == "token" || name == "browser_id" {
			d.spy.keep(v, v)
		}
	}
	return a, err
}
