package operator

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/internal/readfile"
)

// remote is what every command has that talks to a broker.
type remote struct {
	Address string        `group:"Which broker:" env:"TOKENBROKER_ADDRESS" help:"The broker: host:port, or unix:PATH of its socket, which may be that of another user who owns its directory. Default: the socket in the data directory. Where none is named (--data-dir, --config) and nobody answers there, ${address}, which is sent no secrets."`
	Timeout time.Duration `group:"Which broker:" default:"${timeout}" help:"${timeout_help}; 0: for ever."`
	TLS     tlsFlags      `embed:"" prefix:"tls-" group:"Which broker:"`
	Bearer  bearerFile    `name:"bearer-token-file" group:"Which broker:" env:"TOKENBROKER_BEARER_TOKEN_FILE" help:"A JWT to show it over TLS, instead of a certificate. The file is read for each call."`
	console.Format
	whereabouts
}

// tlsFlags are how a command shows who it is, at an address of a listener for services or operators.
type tlsFlags struct {
	CAFile   string `name:"ca-file" env:"TOKENBROKER_TLS_CA_FILE" help:"Mutual TLS at host:port: who may vouch for the broker, in PEM. Default: the system's."`
	CertFile string `name:"cert-file" env:"TOKENBROKER_TLS_CERT_FILE" help:"Certificate in PEM to show it."`
	KeyFile  string `name:"key-file" env:"TOKENBROKER_TLS_KEY_FILE" help:"Its key in PEM."`
}

// A bearerFile has a token that each call brings. It implements credentials.PerRPCCredentials.
type bearerFile string

// token is what is in the file.
func (f bearerFile) token() (string, error) {
	data, err := readfile.Read(string(f), bearerMost)
	if err != nil && strings.Count(string(f), ".") >= 2 && !strings.ContainsAny(string(f), `/\`) { // a JWT has two; it would be in logs of whoever runs this
		return "", console.BadInput("--bearer-token-file: %v: the name of a file is wanted, and not the token", readfile.Why(err))
	}
	if err != nil {
		return "", console.BadInput("--bearer-token-file: %s: %v", string(f), readfile.Why(err))
	}
	token := strings.TrimSpace(string(data))
	if token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return "", console.BadInput("--bearer-token-file: %s has no token in it, or more than one", string(f))
	}
	return token, nil
}

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (f bearerFile) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	token, err := f.token()
	if err != nil {
		return nil, status.Error(codes.Unauthenticated, err.Error())
	}
	return map[string]string{"authorization": "Bearer " + token}, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials.
func (bearerFile) RequireTransportSecurity() bool { return true }

// bearerMost bounds a file with a token: a header of gRPC has no more.
const bearerMost = 16 << 10

// credentials are for a connection to a target. Where nothing is to be proven, and to a Unix socket, nothing is encrypted.
func (f tlsFlags) credentials(target string, bearer bearerFile) (credentials.TransportCredentials, error) {
	if f == (tlsFlags{}) && bearer == "" || strings.HasPrefix(target, "unix:") {
		return insecure.NewCredentials(), nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if f.CAFile != "" {
		data, err := readfile.Read(f.CAFile, certificatesMost)
		if err != nil {
			return nil, console.BadInput("--tls-ca-file: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(data) {
			return nil, console.BadInput("--tls-ca-file: %s has no certificate in PEM", f.CAFile)
		}
	}
	if (f.CertFile == "") != (f.KeyFile == "") {
		return nil, console.BadInput("--tls-cert-file and --tls-key-file belong together: give both")
	}
	if f.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(f.CertFile, f.KeyFile)
		if err != nil {
			return nil, console.BadInput("--tls-cert-file, --tls-key-file: %w", err)
		}
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil } // whoever the broker says it trusts
	}
	return credentials.NewTLS(c), nil
}

// certificatesMost bounds a file with certificates.
const certificatesMost = 1 << 20

// client is a connection to a broker, with the services on it.
type client struct {
	conn        *grpc.ClientConn
	tokens      tokenbrokerv1.TokenBrokerServiceClient
	credentials tokenbrokerv1.CredentialServiceClient
	providers   tokenbrokerv1.ProviderServiceClient
	// explain makes of a transport's own error what people are told.
	explain func(error) error
}

const answerBytes = 64 << 20

// reconnect is how a watch comes back: somebody looks at it, and it is one connection.
var reconnect = grpc.ConnectParams{
	Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 3 * time.Second},
	MinConnectTimeout: 20 * time.Second, // gRPC's own
}

// with connects, lets f make calls, each of which ends after the timeout, and names the address if nobody answers there. What
// else f does, such as waiting for somebody to type, and streams take as long as they take. While f runs, Address says where the broker was
// found.
func (r *remote) with(ctx context.Context, f func(ctx context.Context, c *client) error) error {
	if r.Timeout < 0 {
		return console.BadInput("--timeout: must not be negative; 0 is for ever")
	}
	at, err := r.at(ctx)
	if err != nil {
		return err
	}
	r.Address = at.name
	bounded := func(ctx context.Context, method string, req, res any, conn *grpc.ClientConn, call grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		if err := at.guarded(req); err != nil {
			return err
		}
		return r.bounded(ctx, method, req, res, conn, call, opts...)
	}
	ctx, refuse := context.WithCancelCause(ctx)
	defer refuse(nil)
	proof, err := r.TLS.credentials(at.target, r.Bearer)
	if err != nil {
		return err
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(proof), grpc.WithDisableRetry(), grpc.WithUnaryInterceptor(bounded),
		grpc.WithConnectParams(reconnect), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(answerBytes)),
	}
	if r.Bearer != "" && proof.Info().SecurityProtocol == "tls" {
		if _, err := r.Bearer.token(); err != nil { // before anybody is asked
			return err
		}
		options = append(options, grpc.WithPerRPCCredentials(r.Bearer))
	}
	if strings.HasPrefix(at.target, "unix:") {
		options = append(options, grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			c, err := at.socketAt(pathIn(address)).dial(ctx)
			var stranger *strangerError
			if errors.As(err, &stranger) {
				refuse(stranger) // nobody waits for a stranger to go
			}
			return c, err
		}))
	}
	conn, err := grpc.NewClient(at.target, options...)
	if err != nil {
		return console.BadInput("address %q: %v", at.name, err)
	}
	defer conn.Close() //nolint:errcheck // nothing is left to be lost
	cl := &client{
		conn: conn, tokens: tokenbrokerv1.NewTokenBrokerServiceClient(conn),
		credentials: tokenbrokerv1.NewCredentialServiceClient(conn), providers: tokenbrokerv1.NewProviderServiceClient(conn),
		explain: func(err error) error { return r.explain(at.name, proof.Info().SecurityProtocol == "tls", err) },
	}
	err = cl.nearest(ctx, f(ctx, cl))
	var stranger *strangerError
	if errors.As(context.Cause(ctx), &stranger) {
		return console.WrongInput(stranger)
	}
	return cl.explain(err)
}

// explain makes of a transport's own error what people are told. A status without details is one: the broker gives all of its errors some.
func (r *remote) explain(name string, tls bool, err error) error {
	s, ok := status.FromError(err)
	switch {
	case !ok || len(s.Details()) > 0:
		return err
	case s.Code() == codes.Unimplemented && strings.HasPrefix(s.Message(), "unknown service"):
		return status.Errorf(codes.Unimplemented, "the broker at %s does not answer this call there: a listener for services has tokens only, one for operators has everything", name)
	case s.Code() == codes.Unavailable && tls:
		return console.UnreachableBy(name, s.Message())
	case s.Code() == codes.Unavailable:
		return console.Unreachable(name)
	case s.Code() == codes.DeadlineExceeded:
		return status.Errorf(codes.DeadlineExceeded, "the broker at %s has not answered within %s: ask again, or give it longer with --timeout", name, r.Timeout)
	}
	return err
}

// at is where the broker is asked.
func (r *remote) at(ctx context.Context) (place, error) {
	switch {
	case r.Address == "":
		return r.find(ctx)
	case strings.Contains(r.Address, ":"):
		p := named(r.Address)
		p.chosen = true
		return p, nil
	}
	return place{}, console.BadInput("address %q is neither host:port nor unix:PATH", r.Address)
}

// bounded ends a call after the timeout.
func (r *remote) bounded(ctx context.Context, method string, req, res any, conn *grpc.ClientConn, call grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if r.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.Timeout)
		defer cancel()
	}
	return call(ctx, method, req, res, conn, opts...)
}

// printJSON writes a message for scripts.
func printJSON(w io.Writer, m proto.Message) error {
	b, err := protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: false}.Marshal(m)
	if err != nil {
		return err
	}
	return printIndented(w, b)
}

func printIndented(w io.Writer, b []byte) error {
	var v json.RawMessage = b
	out, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s\n", out)
	return err
}

// printJSONLine writes a message on a line of its own, for scripts that read one after the other.
func printJSONLine(w io.Writer, m proto.Message) error {
	b, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return err
	}
	var line bytes.Buffer
	if err := json.Compact(&line, b); err != nil { // protojson puts blanks where it likes
		return err
	}
	_, err = fmt.Fprintf(w, "%s\n", &line)
	return err
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
