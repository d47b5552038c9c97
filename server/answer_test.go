package server

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/encoding"
	protocodec "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/tokenbroker/tokenbroker/broker"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

func fullToken() *broker.Token {
	return &broker.Token{
		ID: "id-1", AccessToken: broker.NewSecret("planted-access-token"), TokenType: "Bearer", ExpireTime: time.Unix(2e9, 7),
		RefreshTime: time.Unix(19e8, 0), Scopes: []string{"a", "b"}, Source: broker.ExpiryUpstream,
		Presentation: broker.Presentation{
			Headers: []broker.Field{{Name: "Authorization", Value: broker.NewSecret("Bearer planted-access-token")}},
			Cookies: []broker.Field{{Name: "session", Value: broker.NewSecret("é")}},
			Query:   []broker.Field{{Name: "key", Value: broker.NewSecret("q")}},
			BaseURL: "https://api.example.com", Attributes: map[string]string{"a": "1", "b": "2", "c": "3", "d": "4"},
		},
	}
}

func renderedFor(t *broker.Token) (*rendered, error) {
	made, err := Render(t)
	if err != nil {
		return nil, err
	}
	return renderingOf(made)
}

func TestAnAnswersBytesAreItsMessages(t *testing.T) {
	for _, tok := range []*broker.Token{fullToken(), {}} {
		r, err := renderedFor(tok)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			a    *answer
			want *tokenbrokerv1.GetTokenResponse
		}{
			{r.well, &tokenbrokerv1.GetTokenResponse{Token: tokenMessage(tok)}},
			{r.degraded, &tokenbrokerv1.GetTokenResponse{Token: tokenMessage(tok), Degraded: true}},
		} {
			if !proto.Equal(c.a, c.want) {
				t.Errorf("as a message: got %v, want %v", c.a, c.want)
			}
			want, err := proto.MarshalOptions{Deterministic: true}.Marshal(c.want)
			if err != nil {
				t.Fatal(err)
			}
			sent, err := newCodec().Marshal(c.a)
			if err != nil || !bytes.Equal(sent.Materialize(), want) {
				t.Errorf("got %x, %v; want %x", sent.Materialize(), err, want)
			}
			// Whoever knows nothing of answers has a message like any other.
			encoded, err := encoding.GetCodecV2(protocodec.Name).Marshal(c.a)
			if err != nil || encoded.Len() != len(want) {
				t.Errorf("by gRPC's codec: got %d bytes, %v; want %d", encoded.Len(), err, len(want))
			}
			got := &tokenbrokerv1.GetTokenResponse{}
			if err := newCodec().Unmarshal(encoded, got); err != nil || !proto.Equal(got, c.want) {
				t.Errorf("got %v, %v; want %v", got, err, c.want)
			}
		}
	}
}

// gRPC gets the same bytes for every call. What it does with them, it does to a reader of its own.
func TestNoCallCanAlterAnotherCallsAnswer(t *testing.T) {
	r, err := renderedFor(fullToken())
	if err != nil {
		t.Fatal(err)
	}
	well, degraded := r.well.wire.Materialize(), r.degraded.wire.Materialize()
	for _, a := range []*answer{r.well, r.degraded} {
		sent, err := newCodec().Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		bytesOf := sent[0].ReadOnlyData()
		if extra := cap(bytesOf) - len(bytesOf); extra != 0 {
			t.Errorf("appending would write into %d bytes behind", extra)
		}
		reader := sent.Reader()
		if _, err := reader.Discard(3); err != nil {
			t.Fatal(err)
		}
		reader.Reset(mem.BufferSlice{}) // frees the rest
		sent.Free()
		sent.Free()
	}
	if !bytes.Equal(r.well.wire.Materialize(), well) || !bytes.Equal(r.degraded.wire.Materialize(), degraded) {
		t.Error("the answers have changed")
	}
}

func TestATokenThatNoMessageCanCarryIsNotRendered(t *testing.T) {
	if _, err := Render(&broker.Token{AccessToken: broker.NewSecret("planted\xff")}); err == nil || strings.Contains(err.Error(), "planted") {
		t.Errorf("got %v, want an error without the token", err)
	}
	if _, err := renderingOf(nil); broker.KindOf(err) != broker.Internal {
		t.Errorf("a broker that renders nothing: got %v, want Internal", err)
	}
}

func TestARenderingDoesNotPrint(t *testing.T) {
	tok := fullToken()
	made, err := Render(tok)
	if err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%q"} {
		for _, v := range []any{tok, made} {
			if got := fmt.Sprintf(verb, v); bytes.Contains([]byte(got), []byte("planted")) || bytes.Contains([]byte(got), []byte(fmt.Sprintf("%x", "planted"))) {
				t.Errorf("%s: got %s", verb, got)
			}
		}
	}
}

func BenchmarkRendering(b *testing.B) {
	tok := fullToken()
	b.ReportAllocs()
	for b.Loop() {
		r, err := renderedFor(tok)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := newCodec().Marshal(r.well); err != nil {
			b.Fatal(err)
		}
	}
}
