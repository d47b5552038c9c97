package mesh

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	procv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tokenbroker/tokenbroker/broker"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

// processor is envoy.service.ext_proc.v3.ExternalProcessor: as an upstream filter it has a stream for each try of the router, and sees what the API answers.
type processor struct {
	procv3.UnimplementedExternalProcessorServer
	broker Broker
}

// waits is how long a request waits for its token. Envoy gives a message message_timeout, and then answers 504 by itself: that has to be longer.
const waits = 5 * time.Second

// A try is one stream.
type try struct {
	*processor
	whom Whom
	// request is what has brought the token; nil: this stream has put none on.
	request *tokenbrokerv1.GetTokenRequest
	tokenID string
	// again: the router has tried before.
	again bool
}

// Process implements procv3.ExternalProcessorServer.
func (p *processor) Process(stream grpc.BidiStreamingServer[procv3.ProcessingRequest, procv3.ProcessingResponse]) error {
	t := &try{processor: p}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil // the request is over
		}
		if err != nil { // never nil: of a stream that ends well an Envoy reads that the request may go as it is
			return err
		}
		out, err := t.answer(stream.Context(), m)
		if err != nil {
			return stream.Send(immediate(p.broker.Refused(stream.Context(), err)))
		}
		if m.GetObservabilityMode() {
			continue // nobody hears
		}
		if err := stream.Send(out); err != nil {
			return err
		}
	}
}

// answer is what becomes of a message. Those that are not about headers go on as they are.
func (t *try) answer(ctx context.Context, m *procv3.ProcessingRequest) (*procv3.ProcessingResponse, error) {
	switch is := m.GetRequest().(type) {
	case *procv3.ProcessingRequest_RequestHeaders:
		mutation, err := t.dress(ctx, m, is.RequestHeaders)
		if err != nil {
			return nil, err
		}
		return &procv3.ProcessingResponse{Response: &procv3.ProcessingResponse_RequestHeaders{
			RequestHeaders: &procv3.HeadersResponse{Response: &procv3.CommonResponse{HeaderMutation: mutation}},
		}}, nil
	case *procv3.ProcessingRequest_ResponseHeaders:
		if headers(is.ResponseHeaders)(":status") == strconv.Itoa(http.StatusUnauthorized) {
			t.reject(ctx, m)
		}
		return &procv3.ProcessingResponse{Response: &procv3.ProcessingResponse_ResponseHeaders{ResponseHeaders: &procv3.HeadersResponse{}}}, nil
	case *procv3.ProcessingRequest_RequestBody:
		return &procv3.ProcessingResponse{Response: &procv3.ProcessingResponse_RequestBody{RequestBody: &procv3.BodyResponse{}}}, nil
	case *procv3.ProcessingRequest_ResponseBody:
		return &procv3.ProcessingResponse{Response: &procv3.ProcessingResponse_ResponseBody{ResponseBody: &procv3.BodyResponse{}}}, nil
	case *procv3.ProcessingRequest_RequestTrailers:
		return &procv3.ProcessingResponse{Response: &procv3.ProcessingResponse_RequestTrailers{RequestTrailers: &procv3.TrailersResponse{}}}, nil
	case *procv3.ProcessingRequest_ResponseTrailers:
		return &procv3.ProcessingResponse{Response: &procv3.ProcessingResponse_ResponseTrailers{ResponseTrailers: &procv3.TrailersResponse{}}}, nil
	}
	return &procv3.ProcessingResponse{}, nil
}

// dress puts a token on a try.
func (t *try) dress(ctx context.Context, m *procv3.ProcessingRequest, sent *procv3.HttpHeaders) (*procv3.HeaderMutation, error) {
	const where = "metadata " + Namespace
	words, err := wordsOf(where, m.GetMetadataContext().GetFilterMetadata()[Namespace])
	if err != nil {
		return nil, err
	}
	request, itself, err := asked(where, words)
	if err != nil {
		return nil, err
	}
	t.whom = whomOf(m, itself)
	t.again = attribute(m, "upstream.request_attempt_count").GetNumberValue() > 1
	token, err := t.get(ctx, request)
	if err != nil {
		return nil, err
	}
	t.request, t.tokenID = request, token.GetTokenId()
	header := headers(sent)
	names := func(yield func(string) bool) {
		for _, h := range sent.GetHeaders().GetHeaders() {
			if !yield(h.GetKey()) {
				return
			}
		}
	}
	set, remove := headersOf(token, names, header("cookie"))
	if q := token.GetQueryParameters(); len(q) > 0 {
		path := header(":path")
		if path == "" {
			return nil, broker.Invalid(broker.Violation{
				Field: where, Code: broker.CodeInvalid, Description: "is of a token that has query parameters, and Envoy does not send :path (forward_rules)",
			})
		}
		set = append(set, field{":path", withQuery(path, q)})
	}
	return &procv3.HeaderMutation{SetHeaders: options(set, true), RemoveHeaders: remove}, nil
}

func (t *try) get(ctx context.Context, r *tokenbrokerv1.GetTokenRequest) (*tokenbrokerv1.Token, error) {
	ctx, cancel := context.WithTimeout(ctx, waits)
	defer cancel()
	res, err := t.broker.GetTokenFor(ctx, t.whom, r)
	return res.GetToken(), err
}

// reject has the broker get another token, before the router tries again. A second try is refused with one that is new: then it is not the token, and the answer is the
// API's. Where the caller may not reject, or there is no other, whoever asks next is told.
func (t *try) reject(ctx context.Context, m *procv3.ProcessingRequest) {
	if t.request == nil && !t.authorized(m) || t.again {
		return
	}
	r := proto.CloneOf(t.request)
	r.RejectedTokenId = t.tokenID
	if _, err := t.get(ctx, r); err != nil {
		t.broker.Refused(ctx, err)
	}
}

// authorized finds the token that the filter ext_authz of the same Envoy was given, and reports whether there is one.
func (t *try) authorized(m *procv3.ProcessingRequest) bool {
	fields := maps.Clone(m.GetMetadataContext().GetFilterMetadata()[authorized].GetFields())
	t.tokenID = fields[wordTokenID].GetStringValue()
	delete(fields, wordTokenID)
	delete(fields, "ext_authz_duration") // Envoy's own
	words, err := wordsOf("metadata", &structpb.Struct{Fields: fields})
	if err != nil || t.tokenID == "" {
		return false
	}
	request, itself, err := asked("metadata", words)
	t.request, t.whom = request, whomOf(m, itself)
	return err == nil
}

// whomOf is for whom an Envoy asks: the first URI of the certificate that whoever is connected to it has shown.
func whomOf(m *procv3.ProcessingRequest, itself bool) Whom {
	return Whom{attribute(m, "connection.uri_san_peer_certificate").GetStringValue(), itself}
}

// Denied is a response that ends the request: a stream that fails instead has Envoy answer as it likes.
func (*processor) Denied(s *status.Status) any { return immediate(s) }

func immediate(s *status.Status) *procv3.ProcessingResponse {
	r := refusalOf(s)
	return &procv3.ProcessingResponse{Response: &procv3.ProcessingResponse_ImmediateResponse{ImmediateResponse: &procv3.ImmediateResponse{
		Status: &typev3.HttpStatus{Code: r.status}, Headers: &procv3.HeaderMutation{SetHeaders: options(r.headers, true)}, Body: r.body,
		Details: "tokenbroker_" + r.reason,
	}}}
}

// attribute is one of those that Envoy was told to send.
func attribute(m *procv3.ProcessingRequest, name string) *structpb.Value {
	return m.GetAttributes()["envoy.filters.http.ext_proc"].GetFields()[name]
}

// headers are those of a message; one that is not there is empty. Of several lines, as a client may have of cookies (RFC 9113 section 8.2.3), it is all.
func headers(h *procv3.HttpHeaders) func(name string) string {
	return func(name string) string {
		var all []string
		for _, v := range h.GetHeaders().GetHeaders() {
			if v.GetKey() == name {
				all = append(all, valueOf(v))
			}
		}
		return strings.Join(all, "; ")
	}
}

func valueOf(v *corev3.HeaderValue) string {
	if raw := v.GetRawValue(); len(raw) > 0 {
		return string(raw)
	}
	return v.GetValue()
}
