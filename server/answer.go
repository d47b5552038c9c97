package server

import (
	"errors"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/tokenbroker/tokenbroker/broker"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

// An answer is GetToken's: a message, and its bytes. Whoever stands in between, be it a log, another codec or a compressor, has
// a message before it like any other; this server's codec takes the bytes. Shared by all callers: it must not be changed.
type answer struct {
	*tokenbrokerv1.GetTokenResponse
	wire mem.BufferSlice
}

// A rendered is everything that is made of a token for its callers.
type rendered struct {
	token          *tokenbrokerv1.Token
	well, degraded *answer
}

// A rendering holds a token's rendered where no verb of fmt reaches it: with one that does not fit, fmt follows a pointer.
type rendering func() *rendered

// Render is engine.Settings.Render: what is made of a token, once, for all of its callers. It fails for a token that is no UTF-8,
// which no message can carry.
func Render(t *broker.Token) (any, error) {
	m := tokenMessage(t)
	well, degraded := &tokenbrokerv1.GetTokenResponse{Token: m}, &tokenbrokerv1.GetTokenResponse{Token: m, Degraded: true}
	// Two encoded messages behind each other are the encoding of both together: with the flag behind it, the same memory
	// serves for both answers.
	flag := protowire.AppendVarint(protowire.AppendTag(nil, degradedField, protowire.VarintType), 1)
	n := proto.Size(well)
	wire, err := proto.MarshalOptions{Deterministic: true}.MarshalAppend(make([]byte, 0, n+len(flag)), well)
	if err != nil {
		return nil, errors.New("a token that no message can carry") // the library's error could quote it
	}
	wire = append(wire, flag...)
	r := &rendered{
		token: m, well: &answer{well, mem.BufferSlice{mem.SliceBuffer(wire[:n:n])}},
		degraded: &answer{degraded, mem.BufferSlice{mem.SliceBuffer(wire)}},
	}
	return rendering(func() *rendered { return r }), nil
}

// renderingOf is what Render made.
func renderingOf(made any) (*rendered, error) {
	r, ok := made.(rendering)
	if !ok {
		return nil, &broker.Failure{Kind: broker.Internal, Detail: "the broker was not told to render tokens"}
	}
	return r(), nil
}

var degradedField = (&tokenbrokerv1.GetTokenResponse{}).ProtoReflect().Descriptor().Fields().ByName("degraded").Number()

func tokenMessage(t *broker.Token) *tokenbrokerv1.Token {
	m := &tokenbrokerv1.Token{
		AccessToken: t.AccessToken.Reveal(), TokenType: t.TokenType, ExpireTime: stamp(t.ExpireTime), RefreshTime: stamp(t.RefreshTime),
		TokenId: t.ID, Scopes: t.Scopes, BaseUrl: t.BaseURL, Attributes: t.Attributes, ExpirySource: expirySources[t.Source],
	}
	for _, f := range t.Headers {
		m.Headers = append(m.Headers, &tokenbrokerv1.Header{Name: f.Name, Value: f.Value.Reveal()})
	}
	for _, f := range t.Cookies {
		m.Cookies = append(m.Cookies, &tokenbrokerv1.Cookie{Name: f.Name, Value: f.Value.Reveal()})
	}
	for _, f := range t.Query {
		m.QueryParameters = append(m.QueryParameters, &tokenbrokerv1.QueryParameter{Name: f.Name, Value: f.Value.Reveal()})
	}
	return m
}
