package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"

	"google.golang.org/grpc/credentials"
)

var errTwoTransports = errors.New("two options say which TLS is spoken: give one")

func (s *settings) speak(t credentials.TransportCredentials) error {
	if s.transport != nil {
		return errTwoTransports
	}
	s.transport = t
	return nil
}

// WithTLS speaks TLS by a configuration of one's own. It must not be changed afterwards.
func WithTLS(config *tls.Config) Option {
	return func(s *settings) error { return s.speak(credentials.NewTLS(config)) }
}

// WithTLSFiles speaks TLS with a broker whose certificate is signed by an authority in ca, a file in PEM. cert and key are files with the caller's own certificate,
// for mutual TLS; empty: it shows none, and proves who it is by WithBearerTokenFile. All are read for each new connection: what was replaced counts from then on.
func WithTLSFiles(ca, cert, key string) Option {
	return func(s *settings) error {
		f := tlsFiles{ca: ca, cert: cert, key: key}
		if (cert == "") != (key == "") {
			return errors.New("a certificate and its key belong together: give both files, or neither")
		}
		if _, err := f.config(context.Background()); err != nil {
			return err
		}
		return s.speak(perConnection{f.config})
	}
}

type tlsFiles struct{ ca, cert, key string }

func (f tlsFiles) config(context.Context) (*tls.Config, error) {
	pem, err := os.ReadFile(f.ca)
	if err != nil {
		return nil, err
	}
	c := &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}
	if !c.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s: there is no certificate in it", f.ca)
	}
	if f.cert != "" {
		pair, err := tls.LoadX509KeyPair(f.cert, f.key)
		if err != nil {
			return nil, err
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// perConnection are TransportCredentials that ask for a configuration for each connection.
type perConnection struct {
	config func(context.Context) (*tls.Config, error)
}

// ClientHandshake implements credentials.TransportCredentials.
func (p perConnection) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, err := p.config(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("tokenbroker: %w", err)
	}
	return credentials.NewTLS(c).ClientHandshake(ctx, authority, raw)
}

// ServerHandshake implements credentials.TransportCredentials.
func (perConnection) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("tokenbroker: these are a client's")
}

// Info implements credentials.TransportCredentials.
func (perConnection) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

// Clone implements credentials.TransportCredentials.
func (p perConnection) Clone() credentials.TransportCredentials { return p }

// OverrideServerName implements credentials.TransportCredentials. gRPC no longer calls it.
func (perConnection) OverrideServerName(string) error { return nil }

// WithBearerTokenFile proves who calls by a JWT, which is in a file and read for each call: a Kubernetes service account's, or a JWT-SVID (RFC 6750 section 2.1).
// Whoever writes it anew renames a whole file into its place.
func WithBearerTokenFile(path string) Option {
	return func(s *settings) error {
		if s.bearer != nil {
			return errors.New("two options say which token is brought: give one")
		}
		s.bearer = bearerFile(path)
		_, err := bearerFile(path).token()
		return err
	}
}

type bearerFile string

// bearerMost is longer than any token that a broker reads.
const bearerMost = 64 << 10

func (f bearerFile) token() (string, error) {
	file, err := os.Open(string(f))
	if err != nil {
		return "", err
	}
	defer file.Close() //nolint:errcheck // it was only read
	data, err := io.ReadAll(io.LimitReader(file, bearerMost))
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(string(data))
	if token == "" || strings.ContainsAny(token, " \t\r\n") {
		return "", fmt.Errorf("%s: one token is wanted in it", string(f))
	}
	return token, nil
}

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (f bearerFile) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	token, err := f.token()
	if err != nil {
		return nil, fmt.Errorf("tokenbroker: %w", err)
	}
	return map[string]string{"authorization": "Bearer " + token}, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials.
func (bearerFile) RequireTransportSecurity() bool { return true }
