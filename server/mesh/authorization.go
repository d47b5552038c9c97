package mesh

import (
	"context"
	"maps"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"
)

// authorization is envoy.service.auth.v3.Authorization: Envoy asks it once for a request, before it is sent.
type authorization struct {
	authv3.UnimplementedAuthorizationServer
	broker Broker
}

// Check implements authv3.AuthorizationServer. A failure is one of the RPC; whoever stands before it makes a response of it by Denied.
func (a *authorization) Check(ctx context.Context, r *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	attributes := r.GetAttributes()
	request, itself, err := asked("context_extensions", attributes.GetContextExtensions())
	if err != nil {
		return nil, err
	}
	res, err := a.broker.GetTokenFor(ctx, Whom{attributes.GetSource().GetPrincipal(), itself}, request)
	if err != nil {
		return nil, err
	}
	token := res.GetToken()
	http := attributes.GetRequest().GetHttp()
	set, remove := headersOf(token, maps.Keys(http.GetHeaders()), http.GetHeaders()["cookie"])
	if q := token.GetQueryParameters(); len(q) > 0 { // what Envoy has for query parameters neither reads percent-encoding nor semicolons
		set = append(set, field{":path", withQuery(http.GetPath(), q)})
	}
	ok := &authv3.OkHttpResponse{Headers: options(set, false), HeadersToRemove: remove}
	return &authv3.CheckResponse{
		Status: status.New(codes.OK, "").Proto(), HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: ok},
		DynamicMetadata: given(attributes.GetContextExtensions(), token.GetTokenId()),
	}, nil
}

// authorized is the namespace of the metadata that Envoy's filter writes down: which token was asked for and given, for access logs, and for the processor where the API refuses it.
const authorized = "envoy.filters.http.ext_authz"

const wordTokenID = "token_id"

// given has no secret.
func given(words map[string]string, tokenID string) *structpb.Struct {
	out := &structpb.Struct{Fields: map[string]*structpb.Value{wordTokenID: structpb.NewStringValue(tokenID)}}
	for word, value := range words {
		out.Fields[word] = structpb.NewStringValue(value)
	}
	return out
}

// Denied is a response that denies: a call that fails instead lets the request pass where Envoy's failure_mode_allow says so.
func (*authorization) Denied(s *status.Status) any {
	r := refusalOf(s)
	return &authv3.CheckResponse{
		Status: status.New(codes.PermissionDenied, r.reason).Proto(),
		HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{
			Status: &typev3.HttpStatus{Code: r.status}, Headers: options(r.headers, false), Body: string(r.body),
		}},
	}
}

// options are headers, each in the place of all of its name. raw: as bytes, which an external processor's have to be.
func options(all []field, raw bool) (out []*corev3.HeaderValueOption) {
	for _, f := range all {
		h := &corev3.HeaderValue{Key: f.name, Value: f.value}
		if raw {
			h = &corev3.HeaderValue{Key: f.name, RawValue: []byte(f.value)}
		}
		out = append(out, &corev3.HeaderValueOption{Header: h, AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD})
	}
	return out
}
