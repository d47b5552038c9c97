package mesh

import (
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	procv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

// A double is a Broker that gives one token, and notes what it was asked.
type double struct {
	token *tokenbrokerv1.Token
	err   error
	asked []*tokenbrokerv1.GetTokenRequest
	whom  []Whom
}

func (d *double) GetTokenFor(_ context.Context, whom Whom, r *tokenbrokerv1.GetTokenRequest) (*tokenbrokerv1.GetTokenResponse, error) {
	d.asked, d.whom = append(d.asked, r), append(d.whom, whom)
	if d.err != nil {
		return nil, d.err
	}
	return &tokenbrokerv1.GetTokenResponse{Token: d.token}, nil
}

func (d *double) WatchFor(ctx context.Context, _ *tokenbrokerv1.WatchTokenRequest, _ func(*tokenbrokerv1.WatchTokenResponse) error) error {
	<-ctx.Done()
	return ctx.Err()
}

func (d *double) CurrentFor(ctx context.Context, _ *tokenbrokerv1.WatchTokenRequest) (*tokenbrokerv1.Token, time.Duration, error) {
	<-ctx.Done()
	return nil, 0, ctx.Err()
}

func (d *double) Refused(_ context.Context, err error) *status.Status { return status.Convert(err) }

func bearer() *tokenbrokerv1.Token {
	return &tokenbrokerv1.Token{TokenId: "id-1", Headers: []*tokenbrokerv1.Header{{Name: "Authorization", Value: "Bearer x"}}}
}

// everything is a token that is shown in all ways there are.
func everything() *tokenbrokerv1.Token {
	return &tokenbrokerv1.Token{
		TokenId: "id-1", Headers: []*tokenbrokerv1.Header{{Name: "X-Api-Key", Value: "k"}}, Cookies: []*tokenbrokerv1.Cookie{{Name: "sid", Value: "s=1"}},
		QueryParameters: []*tokenbrokerv1.QueryParameter{{Name: "key", Value: "a b&c"}},
	}
}

func lines(all []*corev3.HeaderValueOption) (out []string) {
	for _, o := range all {
		if o.GetAppendAction() != corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD {
			out = append(out, "not in its place: ")
		}
		out = append(out, o.GetHeader().GetKey()+": "+valueOf(o.GetHeader()))
	}
	return out
}

// A stream is one of an Envoy, which has sent messages and then is over, well or not.
type stream struct {
	grpc.BidiStreamingServer[procv3.ProcessingRequest, procv3.ProcessingResponse]
	ctx  context.Context
	in   []*procv3.ProcessingRequest
	end  error
	sent []*procv3.ProcessingResponse
}

func (s *stream) Context() context.Context { return s.ctx }

func (s *stream) Recv() (*procv3.ProcessingRequest, error) {
	if len(s.in) == 0 {
		return nil, s.end
	}
	m := s.in[0]
	s.in = s.in[1:]
	return m, nil
}

func (s *stream) Send(m *procv3.ProcessingResponse) error {
	s.sent = append(s.sent, m)
	return nil
}

// passes has a processor see messages, and gives what it has answered.
func passes(t *testing.T, b Broker, in ...*procv3.ProcessingRequest) []*procv3.ProcessingResponse {
	t.Helper()
	s := &stream{ctx: t.Context(), in: in, end: io.EOF}
	if err := (&processor{broker: b}).Process(s); err != nil {
		t.Fatal(err)
	}
	return s.sent
}

// message reads one as protojson writes it.
func message(t *testing.T, text string) *procv3.ProcessingRequest {
	t.Helper()
	m := &procv3.ProcessingRequest{}
	if err := protojson.Unmarshal([]byte(text), m); err != nil {
		t.Fatal(err)
	}
	return m
}

const (
	// request is of a shop, with all that can be asked for.
	request = `{"requestHeaders": {"headers": {"headers": [{"key": ":path", "rawValue": "L3g/YT0xJmtleT1vbGQmYj0y"}, {"key": "cookie", "value": "a=1; sid=old; b=2"}]}},
		"metadataContext": {"filterMetadata": {"tokenbroker": {"credential": "main", "scopes": ["read", "write"], "audience": "x", "resources": "https://a https://b", "parameters": {"tenant": "t"}}}},
		"attributes": {"envoy.filters.http.ext_proc": {"connection.uri_san_peer_certificate": "spiffe://corp.example/shop", "upstream.request_attempt_count": 1}}}`
	refused  = `{"responseHeaders": {"headers": {"headers": [{"key": ":status", "rawValue": "NDAx"}]}}}`
	accepted = `{"responseHeaders": {"headers": {"headers": [{"key": ":status", "value": "200"}]}}}`
)

// TestWhatIsAskedFor: all that a request for a token can have is said by Envoy's configuration, in either form.
func TestWhatIsAskedFor(t *testing.T) {
	want := `{"credential":"main", "scopes":["read", "write"], "audience":"x", "parameters":{"tenant":"t"}, "resources":["https://a", "https://b"]}`
	same := func(t *testing.T, d *double) {
		t.Helper()
		if len(d.asked) != 1 || d.whom[0] != (Whom{Principal: "spiffe://corp.example/shop"}) {
			t.Fatalf("asked %v for %v", d.asked, d.whom)
		}
		w := &tokenbrokerv1.GetTokenRequest{}
		if err := protojson.Unmarshal([]byte(want), w); err != nil {
			t.Fatal(err)
		}
		if got := d.asked[0]; protojson.Format(got) != protojson.Format(w) {
			t.Errorf("asked %v, want %v", got, w)
		}
	}
	d := &double{token: bearer()}
	passes(t, d, message(t, request))
	same(t, d)
	d = &double{token: bearer()}
	if _, err := (&authorization{broker: d}).Check(t.Context(), &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Source:            &authv3.AttributeContext_Peer{Principal: "spiffe://corp.example/shop"},
		ContextExtensions: map[string]string{"credential": "main", "scopes": "read write", "audience": "x", "resources": "https://a https://b", "parameters.tenant": "t"},
	}}); err != nil {
		t.Fatal(err)
	}
	same(t, d)
}

// TestWordsThatAreNone: what cannot be meant is said, and nothing is asked.
func TestWordsThatAreNone(t *testing.T) {
	text := structpb.NewStringValue
	list := func(all ...*structpb.Value) *structpb.Value {
		return structpb.NewListValue(&structpb.ListValue{Values: all})
	}
	of := func(name string, v *structpb.Value) *structpb.Value {
		return structpb.NewStructValue(&structpb.Struct{Fields: map[string]*structpb.Value{name: v}})
	}
	for name, words := range map[string]map[string]*structpb.Value{
		"none":                  nil,
		"no credential":         {"scopes": text("a")},
		"one that is no word":   {"credential": text("main"), "scope": text("a")},
		"no name":               {"credential": text("main"), "parameters.": text("a")},
		"a number":              {"credential": text("main"), "audience": structpb.NewNumberValue(1)},
		"a list of numbers":     {"credential": text("main"), "scopes": list(structpb.NewNumberValue(1))},
		"a text that is two":    {"credential": text("main"), "scopes": list(text("a b"))},
		"parameters no texts":   {"credential": text("main"), "parameters": of("a", structpb.NewBoolValue(true))},
		"a structure elsewhere": {"credential": of("a", text("b"))},
		"another caller":        {"credential": text("main"), "caller": text("client")},
	} {
		d := &double{token: bearer()}
		m := message(t, request)
		m.MetadataContext.FilterMetadata[Namespace] = &structpb.Struct{Fields: words}
		if got := passes(t, d, m); len(got) != 1 || got[0].GetImmediateResponse() == nil || len(d.asked) != 0 {
			t.Errorf("%s: got %v, asked %v", name, got, d.asked)
		}
	}
}

// TestHowATokenIsPutOn: what is there of the same names makes room, the rest stays, and no Authorization of the client's passes.
func TestHowATokenIsPutOn(t *testing.T) {
	got := passes(t, &double{token: everything()}, message(t, request))[0].GetRequestHeaders().GetResponse().GetHeaderMutation()
	want := []string{"x-api-key: k", "cookie: a=1; b=2; sid=s=1", ":path: /x?a=1&b=2&key=a+b%26c"}
	if !slices.Equal(lines(got.GetSetHeaders()), want) || !slices.Equal(got.GetRemoveHeaders(), []string{"authorization"}) {
		t.Errorf("got %v", got)
	}
	res, err := (&authorization{broker: &double{token: everything()}}).Check(t.Context(), &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		ContextExtensions: map[string]string{"credential": "main"},
		Request:           &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{Path: "/x?a=1&key=old&b=2", Headers: map[string]string{"cookie": "a=1; sid=old; b=2"}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	ok := res.GetOkResponse()
	if !slices.Equal(lines(ok.GetHeaders()), want) || !slices.Equal(ok.GetHeadersToRemove(), []string{"authorization"}) {
		t.Errorf("got %v", ok)
	}
	got = passes(t, &double{token: bearer()}, message(t, request))[0].GetRequestHeaders().GetResponse().GetHeaderMutation()
	if !slices.Equal(lines(got.GetSetHeaders()), []string{"authorization: Bearer x"}) || len(got.GetRemoveHeaders()) != 0 {
		t.Errorf("got %v, want nothing removed that is set", got)
	}
	// What some servers read as the token's header goes too; of two that are the token's, neither.
	alike := &tokenbrokerv1.Token{Headers: []*tokenbrokerv1.Header{{Name: "X-Api-Key", Value: "k"}, {Name: "x-shop_id", Value: "1"}, {Name: "x-shop-id", Value: "2"}}}
	sent := strings.Replace(request, `{"key": "cookie"`, `{"key": "x_api_key", "value": "mine"}, {"key": "x_api-key", "value": "mine"}, {"key": "x-shop_id"}, {"key": "x-shop-id"}, {"key": "x_api_keys"}, {"key": "x.api~key"}, {"key": "cookie"`, 1)
	got = passes(t, &double{token: alike}, message(t, sent))[0].GetRequestHeaders().GetResponse().GetHeaderMutation()
	if want := []string{"authorization", "x_api_key", "x_api-key", "x.api~key"}; !slices.Equal(got.GetRemoveHeaders(), want) {
		t.Errorf("removed %q, want %q", got.GetRemoveHeaders(), want)
	}
	hidden := message(t, request)
	hidden.GetRequestHeaders().Headers = nil
	if got := passes(t, &double{token: everything()}, hidden); got[0].GetImmediateResponse() == nil {
		t.Errorf("a path that Envoy does not show: got %v", got)
	}
}

// TestWhatAClientSendsUnderATokensName: none of it passes, however it is kept apart from the rest, and the rest stays as it was written.
func TestWhatAClientSendsUnderATokensName(t *testing.T) {
	for header, want := range map[string]string{
		"":                              "sid=s=1",
		"sid=mine":                      "sid=s=1",
		"a=1; sid=mine; sid=mine; b=2":  "a=1; b=2; sid=s=1",
		"a=1,sid=mine":                  "a=1; sid=s=1",
		"a=1, sid=mine, b=2;c=3":        "a=1; b=2; c=3; sid=s=1",
		"sid=mine,a=1":                  "a=1; sid=s=1",
		"sid; sid =mine;\tsid=mine,sid": "sid=s=1",
		"%73id=mine; a=%73":             "a=%73; sid=s=1",
		"a=1\tsid=mine; b=2":            "b=2; sid=s=1",
		"a=b sid=mine; [":               "sid=s=1",
		`@="\"; a=1`:                    "a=1; sid=s=1",
		"\u00a0sid=mine; SID=mine":      "sid=s=1",
		`a=!#-+.:<[]~; b="x y"; c=`:     "a=!#-+.:<[]~; c=; sid=s=1",
		`a="1; b="2"; c=3`:              `b="2"; c=3; sid=s=1`,
		"a=1,2,3; aside=4":              "aside=4; sid=s=1",
		`%u0073id=1; a%zz=2; [sid]=3; a="; b=""; =5; sid`: `b=""; sid=s=1`,
	} {
		if got := withCookies(header, everything().GetCookies()); got != want {
			t.Errorf("cookies %q: got %q, want %q", header, got, want)
		}
	}
	for path, want := range map[string]string{
		"/x":                           "/x?key=a+b%26c",
		"/x?key=1&%6Bey=2&k%65y=3&b=4": "/x?b=4&key=a+b%26c",
		"/x?KEY=1&key[]=2&key%00=3&%u006bey=4&keys=5": "/x?keys=5&key=a+b%26c",
		"/x?x=1;key=mine":                             "/x?x=1&key=a+b%26c",
		"/x?key=mine;x=1;%6Bey=mine&&;":               "/x?x=1&;&key=a+b%26c",
		"/x?key;key&a=1;b=%20;c=+":                    "/x?a=1;b=%20;c=+&key=a+b%26c",
		"/x?x=%zz&monkey=4&k%zzey=5":                  "/x?x=%zz&monkey=4&key=a+b%26c",
		"/x?[key]=1&%5Bkey%5D=2&[[key=3&key]=4&[a]=5": "/x?[a]=5&key=a+b%26c",
		"/x??key=1&%3Fkey=2&%E2%84%AAey=3&?k=4":       "/x??k=4&key=a+b%26c",
	} {
		if got := withQuery(path, everything().GetQueryParameters()); got != want {
			t.Errorf("path %q: got %q, want %q", path, got, want)
		}
	}
	several := message(t, strings.Replace(request, `{"key": "cookie", "value": "a=1; sid=old; b=2"}`, `{"key": "cookie", "value": "a=1"}, {"key": "cookie", "value": "sid=old; b=2"}`, 1))
	got := passes(t, &double{token: everything()}, several)[0].GetRequestHeaders().GetResponse().GetHeaderMutation()
	if !slices.Contains(lines(got.GetSetHeaders()), "cookie: a=1; b=2; sid=s=1") {
		t.Errorf("cookies of several lines: got %v", got)
	}
}

// TestForWhomAnEnvoyAsks: for its client, of whom it may know nothing, and for itself where its configuration says so and nowhere else.
func TestForWhomAnEnvoyAsks(t *testing.T) {
	shop := "spiffe://corp.example/shop"
	for _, c := range []struct {
		principal, caller string
		want              Whom
	}{
		{shop, "", Whom{Principal: shop}},
		{"", "", Whom{}},
		{shop, "envoy", Whom{Principal: shop, Envoy: true}},
		{"", "envoy", Whom{Envoy: true}},
	} {
		words := map[string]string{"credential": "main"}
		m := message(t, strings.Replace(request, shop, c.principal, 1))
		if c.caller != "" {
			words["caller"] = c.caller
			m.MetadataContext.FilterMetadata[Namespace].Fields["caller"] = structpb.NewStringValue(c.caller)
		}
		d := &double{token: bearer()}
		passes(t, d, m)
		if _, err := (&authorization{broker: d}).Check(t.Context(), &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
			Source: &authv3.AttributeContext_Peer{Principal: c.principal}, ContextExtensions: words,
		}}); err != nil || !slices.Equal(d.whom, []Whom{c.want, c.want}) {
			t.Errorf("%q, caller %q: asked for %v, %v, want %v", c.principal, c.caller, d.whom, err, c.want)
		}
	}
}

// TestWhatIsRejected: a token that the API has refused at the first try, whoever put it on, and nothing else.
func TestWhatIsRejected(t *testing.T) {
	again := strings.Replace(request, `"upstream.request_attempt_count": 1`, `"upstream.request_attempt_count": 2`, 1)
	// The filter that authorizes has written down what it was given.
	authorized := `{"responseHeaders": {"headers": {"headers": [{"key": ":status", "value": "401"}]}},
		"metadataContext": {"filterMetadata": {"envoy.filters.http.ext_authz": {"credential": "main", "parameters.tenant": "t", "token_id": "id-1", "ext_authz_duration": 3}}},
		"attributes": {"envoy.filters.http.ext_proc": {"connection.uri_san_peer_certificate": "spiffe://corp.example/shop"}}}`
	for name, c := range map[string]struct {
		in   []string
		want string
	}{
		"refused":           {[]string{request, refused}, "id-1"},
		"accepted":          {[]string{request, accepted}, ""},
		"refused again":     {[]string{again, refused}, ""},
		"no token":          {[]string{refused}, ""},
		"of another filter": {[]string{authorized}, "id-1"},
	} {
		d := &double{token: bearer()}
		var in []*procv3.ProcessingRequest
		for _, text := range c.in {
			in = append(in, message(t, text))
		}
		if got := passes(t, d, in...); got[len(got)-1].GetResponseHeaders() == nil {
			t.Errorf("%s: got %v, want the answer to go on", name, got)
		}
		got := ""
		for i, r := range d.asked {
			if got += r.GetRejectedTokenId(); r.GetRejectedTokenId() != "" && (r.GetCredential() != "main" || r.GetParameters()["tenant"] != "t" || d.whom[i] != (Whom{Principal: "spiffe://corp.example/shop"})) {
				t.Errorf("%s: asked %v for %v", name, r, d.whom[i])
			}
		}
		if got != c.want {
			t.Errorf("%s: rejected %q, want %q", name, got, c.want)
		}
	}
}

// TestNothingEndsWellThatIsNotOver: of a stream that ends well an Envoy reads that the request may go on without a token.
func TestNothingEndsWellThatIsNotOver(t *testing.T) {
	lost := errors.New("the stream is broken")
	s := &stream{ctx: t.Context(), in: []*procv3.ProcessingRequest{message(t, request)}, end: lost}
	if err := (&processor{broker: &double{token: bearer()}}).Process(s); !errors.Is(err, lost) {
		t.Errorf("got %v", err)
	}
}

// TestOtherMessagesGoOn: an Envoy that is told to send more than headers gets them back as they are.
func TestOtherMessagesGoOn(t *testing.T) {
	for _, text := range []string{`{"requestBody": {}}`, `{"responseBody": {}}`, `{"requestTrailers": {}}`, `{"responseTrailers": {}}`} {
		in := message(t, text)
		out := passes(t, &double{token: bearer()}, in)
		word := slices.Collect(maps.Keys(fields(t, protojson.Format(in))))
		if len(out) != 1 || fields(t, protojson.Format(out[0]))[word[0]] == nil {
			t.Errorf("%s: got %v", text, out)
		}
	}
}

func fields(t *testing.T, text string) map[string]*structpb.Value {
	t.Helper()
	s := &structpb.Struct{}
	if err := protojson.Unmarshal([]byte(text), s); err != nil {
		t.Fatal(err)
	}
	return s.GetFields()
}

// TestHowARefusalLooks: by its status a client knows whether the same may help later, and by its reason somebody else what to mend.
func TestHowARefusalLooks(t *testing.T) {
	for _, c := range []struct {
		code   codes.Code
		reason string
		retry  time.Duration // negative: none
		status int
		after  string
	}{
		{codes.PermissionDenied, "CALLER_NOT_ALLOWED", -1, 403, ""},
		{codes.Unauthenticated, "CALLER_UNAUTHENTICATED", -1, 403, ""},
		{codes.ResourceExhausted, "CALLER_LIMITED", 1500 * time.Millisecond, 429, "2"},
		{codes.ResourceExhausted, "UPSTREAM_RATE_LIMITED", time.Minute, 503, "60"},
		{codes.Unavailable, "STORE_UNAVAILABLE", 0, 503, "1"},
		{codes.DeadlineExceeded, "UPSTREAM_SLOW", time.Second, 503, "1"},
		{codes.FailedPrecondition, "REAUTHORIZATION_REQUIRED", -1, 500, ""},
		{codes.NotFound, "NOT_FOUND", -1, 500, ""},
		{codes.InvalidArgument, "REQUEST_INVALID", -1, 500, ""},
		{codes.Internal, "INTERNAL", -1, 500, ""},
	} {
		s, err := status.New(c.code, "why").WithDetails(&errdetails.ErrorInfo{Reason: c.reason}, &errdetails.RequestInfo{RequestId: "r1"})
		if err == nil && c.retry >= 0 {
			s, err = s.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(c.retry)})
		}
		if err != nil {
			t.Fatal(err)
		}
		denied := (&authorization{}).Denied(s).(*authv3.CheckResponse)
		at := denied.GetDeniedResponse()
		if denied.GetStatus().GetCode() == 0 || int(at.GetStatus().GetCode()) != c.status || at.GetBody() != `{"reason":"`+c.reason+`","message":"why","request_id":"r1"}`+"\n" {
			t.Errorf("%s: got %v", c.reason, denied)
		}
		after := ""
		for _, l := range lines(at.GetHeaders()) {
			if v, ok := strings.CutPrefix(l, "retry-after: "); ok {
				after += v
			}
		}
		if after != c.after {
			t.Errorf("%s: to be asked again after %q, want %q", c.reason, after, c.after)
		}
		ended := (&processor{}).Denied(s).(*procv3.ProcessingResponse).GetImmediateResponse()
		if int(ended.GetStatus().GetCode()) != c.status || string(ended.GetBody()) != at.GetBody() || !slices.Equal(lines(ended.GetHeaders().GetSetHeaders()), lines(at.GetHeaders())) {
			t.Errorf("%s: a processor says %v", c.reason, ended)
		}
	}
}
