package kek

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/readfile"
)

const (
	maxAnswer  = 256 << 10 // bytes; a KMS answers with less than one KiB
	maxPEM     = 1 << 20
	maxSecret  = 64 << 10
	schemeTLS  = "https"
	schemeText = "http"
)

// A client asks one server. It follows no redirect, keeps no connection, and reads no more than an answer has.
type client struct {
	base string // scheme://host
	http *http.Client
}

// newClient reads the files of TLS. base is https://HOST, or http:// of an address that near allows.
func newClient(base string, s Settings, near func(netip.Addr) bool) (*client, error) {
	u, err := url.Parse(base)
	if err != nil || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, invalid("an endpoint of the settings is none: want https://HOST")
	}
	t := &http.Transport{
		DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: 64 << 10,
		TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{}, // HTTP/1.1: one request on one connection
	}
	dialer := &net.Dialer{Timeout: time.Minute} // the call's context is shorter
	switch u.Scheme {
	case schemeTLS:
		if t.TLSClientConfig, err = tlsConfig(s); err != nil {
			return nil, err
		}
		if s.EnvironmentProxy {
			t.Proxy = http.ProxyFromEnvironment
		}
	case schemeText:
		if a, err := netip.ParseAddr(u.Hostname()); err == nil && !near(a.Unmap()) {
			return nil, invalid("an endpoint of the settings is without TLS, and not on this machine: want https://HOST")
		}
		dialer.Control = func(_, address string, _ syscall.RawConn) error {
			if a, err := netip.ParseAddrPort(address); err != nil || !near(a.Addr().Unmap()) {
				return errFar
			}
			return nil
		}
	default:
		return nil, invalid("an endpoint of the settings is none: want https://HOST")
	}
	t.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		call, ok := ctx.Value(callKey{}).(context.Context)
		if !ok {
			return nil, errFar
		}
		c, err := dialer.DialContext(call, network, address)
		if err == nil {
			context.AfterFunc(call, func() { _ = c.Close() })
		}
		return c, err
	}
	return &client{
		base: u.Scheme + separator + u.Host,
		http: &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
	}, nil
}

// callKey is where a call's context is, in that of its connection. net/http lets a connection that nobody waits for any more go on, for others: with a
// server that says nothing, for ever. Ours ends with the call, which always ends.
type callKey struct{}

// errFar is an address that may not be asked without TLS.
var errFar = errors.New("kek: without TLS, and not on this machine")

// loopback are the addresses that may be asked without TLS.
func loopback(a netip.Addr) bool { return a.IsLoopback() }

// attached are those of metadata services: this machine's, and what its network card alone reaches.
func attached(a netip.Addr) bool {
	return a.IsLoopback() || a.IsLinkLocalUnicast() || a == netip.MustParseAddr("fd00:ec2::254") || a == netip.MustParseAddr("fd00:ec2::23")
}

func tlsConfig(s Settings) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if s.CAFile != "" {
		data, err := readfile.Read(s.CAFile, maxPEM)
		if err != nil {
			return nil, invalid("the CA file cannot be read: " + readfile.Why(err).Error())
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(data) {
			return nil, invalid("the CA file has no certificate in PEM")
		}
	}
	if s.CertFile == "" && s.KeyFile == "" {
		return c, nil
	}
	cert, err := readfile.Read(s.CertFile, maxPEM)
	if err != nil {
		return nil, invalid("the client certificate cannot be read: " + readfile.Why(err).Error())
	}
	key, err := readfile.Private(s.KeyFile, maxPEM)
	if err != nil {
		return nil, invalid("the client certificate's key cannot be read: " + readfile.Why(err).Error())
	}
	defer clear(key)
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, invalid("the client certificate and its key are no PEM, or do not belong together")
	}
	c.Certificates = []tls.Certificate{pair}
	return c, nil
}

// An answer is what a server has said. Its texts are the server's: they decide nothing but by their codes, and are not passed on.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// ok reports whether it is what was asked for.
func (a answer) ok() bool { return a.status == http.StatusOK }

// read takes the body as JSON.
func (a answer) read(into any) error {
	if json.Unmarshal(a.body, into) != nil {
		return nonsense()
	}
	return nil
}

// failure is what a status means that its KMS has no code for.
func (a answer) failure() *Failure {
	switch {
	case a.status == http.StatusTooManyRequests:
		return failure(Away, "the KMS asks to slow down: try again later")
	case a.status >= 500:
		return failure(Away, "the KMS fails, or is not ready: try again later, and look at how it is")
	case a.status >= 300 && a.status < 400:
		return failure(Untrusted, "the KMS sends us elsewhere, which is not followed: set the address of the server that answers itself")
	case a.status == http.StatusUnauthorized, a.status == http.StatusForbidden:
		return failure(Refused, "the KMS refuses us: look at the credentials, and at their rights")
	}
	return nonsense()
}

// nonsense is an answer that no KMS gives.
func nonsense() *Failure {
	return failure(Untrusted, "what answers does not answer as this KMS does: look at the address")
}

// send sends one request, and reads its answer. It fails with a *Failure where there is none.
func (c *client) send(ctx context.Context, r *http.Request) (answer, error) {
	r.Header.Set("User-Agent", "tokenbroker")
	res, err := c.http.Do(r.WithContext(context.WithValue(ctx, callKey{}, ctx)))
	if err != nil {
		return answer{}, unanswered(ctx, err)
	}
	defer res.Body.Close() //nolint:errcheck // it was only read
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	switch {
	case err != nil:
		return answer{}, unanswered(ctx, err)
	case len(body) > maxAnswer:
		return answer{}, nonsense()
	}
	return answer{res.StatusCode, res.Header, body}, nil
}

// request makes a request of a path of ours. It has no context yet: send gives it one.
func (c *client) request(method, path, body string) (*http.Request, error) {
	r, err := http.NewRequest(method, c.base+path, strings.NewReader(body)) //nolint:noctx // send gives it one
	if err != nil {
		return nil, invalid("its address is none that can be asked")
	}
	return r, nil
}

// json sends JSON, and expects some.
func (c *client) json(ctx context.Context, method, path string, header http.Header, body any) (answer, error) {
	var text []byte
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			return answer{}, invalid("it cannot be asked")
		}
	}
	r, err := c.request(method, path, string(text))
	if err != nil {
		return answer{}, err
	}
	for name, values := range header {
		r.Header[name] = values
	}
	if body != nil && r.Header.Get("Content-Type") == "" {
		r.Header.Set("Content-Type", "application/json")
	}
	return c.send(ctx, r)
}

// unanswered says why there is no answer, by what the system and TLS say, and in our words.
func unanswered(ctx context.Context, err error) *Failure {
	if u := (*url.Error)(nil); errors.As(err, &u) {
		err = u.Err // which is a net.Error, whatever is in it
	}
	var (
		name    *net.DNSError
		op      *net.OpError
		network net.Error
		record  tls.RecordHeaderError
	)
	switch why := unverified(err); {
	case why != "":
		return failure(Untrusted, "the KMS's certificate cannot be verified: "+why)
	case errors.Is(err, errFar):
		return invalid("its name leads to another machine, and without TLS only this one is asked")
	case errors.As(err, &record), errors.Is(err, http.ErrSchemeMismatch):
		return failure(Untrusted, "what answers does not speak TLS: look at the address")
	case ctx.Err() != nil, errors.Is(err, context.DeadlineExceeded), errors.As(err, &network) && network.Timeout():
		return failure(Away, "the KMS does not answer in time: try again later, and look at how it is")
	case errors.As(err, &op) && op.Op == remoteAlert:
		return failure(Refused, "the KMS refuses the TLS connection: it may want a client certificate, or another one")
	case errors.As(err, &name):
		return failure(Away, "the KMS's name cannot be resolved: look at the address, or try again later")
	case errors.Is(err, syscall.ECONNREFUSED):
		return failure(Away, "nobody listens at the KMS's address: look at the address, or try again later")
	case errors.As(err, &network), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return failure(Away, "the connection to the KMS broke: try again later")
	}
	return nonsense()
}

// remoteAlert is the operation of a *net.OpError where the other side has ended TLS (crypto/tls).
const remoteAlert = "remote error"

// unverified says why a certificate is not believed; empty: it is no such thing.
func unverified(err error) string {
	var (
		unknown x509.UnknownAuthorityError
		wrong   x509.CertificateInvalidError
		name    x509.HostnameError
		any     *tls.CertificateVerificationError
	)
	switch {
	case errors.As(err, &unknown):
		return "none of the authorities that we believe has signed it (CA file)"
	case errors.As(err, &wrong) && wrong.Reason == x509.Expired:
		return "it has ended, or not begun, or the clock here is wrong"
	case errors.As(err, &name):
		return "it is for another name than that of the address"
	case errors.As(err, &wrong), errors.As(err, &any):
		return "it is not good for a server"
	}
	return ""
}

// secretOf reads a secret of one line from a file. what names it in messages.
func secretOf(file, what string) (string, error) {
	data, err := readfile.Read(file, maxSecret)
	if err != nil {
		return "", failure(Refused, what+" cannot be read: "+readfile.Why(err).Error())
	}
	text := strings.TrimSpace(string(data))
	clear(data)
	if !printable(text) {
		return "", failure(Refused, what+" is none: want one line of text, and it is empty, or more than that")
	}
	return text, nil
}

// printable reports whether a secret can be a header's value.
func printable(s string) bool {
	for _, r := range s {
		if r <= ' ' || r >= 0x7f {
			return false
		}
	}
	return s != ""
}
