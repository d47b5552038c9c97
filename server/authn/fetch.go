package authn

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/jsondoc"
	"github.com/tokenbroker/tokenbroker/internal/readfile"
)

const (
	// fetchWithin bounds a fetch of keys, with the discovery of where they are.
	fetchWithin = 10 * time.Second
	// fetchMost bounds each document, in bytes.
	fetchMost = 1 << 20
	// headMost bounds the headers of an answer.
	headMost = 64 << 10
	// bearerMost bounds a TokenFile.
	bearerMost = 64 << 10
)

// dialer connects; nil: as usual.
type dialer func(ctx context.Context, network, addr string) (net.Conn, error)

// load gets the document of an issuer's keys, and for how long it may be used before it is asked for again: 0: it does not say. It goes on until ctx ends.
// Nothing of what the issuer answers is in an error, but for addresses.
func (s Issuer) load(ctx context.Context, dial dialer) (data []byte, life time.Duration, err error) {
	if s.JWKSFile != "" {
		data, err = readfile.Read(s.JWKSFile, fetchMost)
		if err != nil {
			return nil, 0, fmt.Errorf("the file %s: %w", s.JWKSFile, readfile.Why(err))
		}
		return data, 0, nil
	}
	client, err := s.client(dial)
	if err != nil {
		return nil, 0, err
	}
	defer client.CloseIdleConnections()
	address := s.JWKSURI
	if address == "" {
		if address, err = s.discover(ctx, client); err != nil {
			return nil, 0, err
		}
	}
	return s.get(ctx, client, address)
}

// discover finds where the keys are (OpenID Connect Discovery 1.0 section 4).
func (s Issuer) discover(ctx context.Context, client *http.Client) (string, error) {
	at := strings.TrimSuffix(s.Issuer, "/") + "/.well-known/openid-configuration"
	data, _, err := s.get(ctx, client, at)
	if err != nil {
		return "", err
	}
	doc, err := jsondoc.Read(data)
	if err != nil {
		return "", fmt.Errorf("%s: the document cannot be read: %w", at, err)
	}
	o, _ := doc.(map[string]any)
	if o["issuer"] != any(s.Issuer) { // section 4.3
		return "", fmt.Errorf("%s: the document is of another issuer, or of none: its issuer has to be the one of the settings, to the letter", at)
	}
	uri, _ := o["jwks_uri"].(string)
	if _, err := secure(uri, strings.HasPrefix(s.Issuer, "http:")); err != nil { // an issuer elsewhere does not send us to this machine's plain ports
		return "", fmt.Errorf("%s: the document's jwks_uri: %w", at, err)
	}
	return uri, nil
}

// client is for one fetch: nothing of it is left over, and the roots are those that are there now.
func (s Issuer) client(dial dialer) (*http.Client, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if s.CAFile != "" {
		roots, err := authoritiesIn("issuer "+s.Name, s.CAFile)
		if err != nil {
			return nil, err
		}
		config.RootCAs = x509.NewCertPool()
		for _, r := range roots {
			config.RootCAs.AddCert(r)
		}
	}
	return &http.Client{
		// No proxy, no cookies, no compression, no redirects: where the keys are, the settings say, or the issuer's own document.
		Transport:     &http.Transport{DialContext: dial, TLSClientConfig: config, DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: headMost},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// get asks for one document.
func (s Issuer) get(ctx context.Context, client *http.Client, address string) ([]byte, time.Duration, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
	if err != nil {
		return nil, 0, fmt.Errorf("%s: it cannot be asked", address)
	}
	req.Header.Set("Accept", "application/json, application/jwk-set+json")
	req.Header.Set("User-Agent", "tokenbroker")
	if s.TokenFile != "" && (sameHost(req.URL, s.Issuer) || sameHost(req.URL, s.JWKSURI)) {
		token, err := s.bearer()
		if err != nil {
			return nil, 0, err
		}
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", address, why(err))
	}
	defer res.Body.Close() //nolint:errcheck // it was only read
	switch {
	case res.StatusCode >= 300 && res.StatusCode < 400:
		return nil, 0, fmt.Errorf("%s: it answers with a redirect (%d), which is not followed: name the address that it leads to", address, res.StatusCode)
	case res.StatusCode != http.StatusOK:
		return nil, 0, fmt.Errorf("%s: it answers with status %d", address, res.StatusCode)
	}
	data, err := io.ReadAll(io.LimitReader(res.Body, fetchMost+1))
	switch {
	case err != nil:
		return nil, 0, fmt.Errorf("%s: its answer broke off: %w", address, why(err))
	case len(data) > fetchMost:
		return nil, 0, fmt.Errorf("%s: its answer is longer than %d bytes", address, fetchMost)
	}
	return data, maxAge(res.Header), nil
}

// why is what has happened: what package net, x509 or tls says of it, and of what else the other side has said, nothing.
func why(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("it has not answered within %s", fetchWithin)
	}
	if errors.Is(err, context.Canceled) {
		return context.Canceled
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	var (
		op    *net.OpError
		dns   *net.DNSError
		bad   *tls.CertificateVerificationError
		plain tls.RecordHeaderError
		alert tls.AlertError
	)
	switch {
	case errors.As(err, &dns), errors.As(err, &bad), errors.As(err, &alert):
		return err
	case errors.As(err, &op): // without the ports, which are others each time
		return fmt.Errorf("%s: %w", op.Op, op.Err)
	case errors.As(err, &plain):
		return errors.New("it does not speak TLS")
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("it hung up")
	}
	return errors.New("it does not speak HTTP as it should")
}

// bearer is what shows who fetches.
func (s Issuer) bearer() (string, error) {
	data, err := readfile.Read(s.TokenFile, bearerMost)
	if err != nil {
		return "", fmt.Errorf("the token file %s: %w", s.TokenFile, readfile.Why(err))
	}
	defer clear(data)
	token := strings.TrimSpace(string(data))
	if token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return "", fmt.Errorf("the token file %s: one token is wanted in it, and nothing else", s.TokenFile)
	}
	return token, nil
}

// sameHost reports whether a request goes to where an address of the settings leads: scheme, host and port.
func sameHost(u *url.URL, named string) bool {
	n, err := secure(named, true)
	return err == nil && n.Scheme == u.Scheme && strings.EqualFold(n.Hostname(), u.Hostname()) && portOf(n) == portOf(u)
}

func portOf(u *url.URL) string {
	switch {
	case u.Port() != "":
		return u.Port()
	case u.Scheme == "https":
		return "443"
	}
	return "80"
}

// maxAge is for how long an answer is fresh (RFC 9111 section 5.2.2.1); 0: it does not say.
func maxAge(h http.Header) (age time.Duration) {
	for _, d := range strings.Split(strings.Join(h.Values("Cache-Control"), ","), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(d), "=")
		switch strings.ToLower(name) {
		case "no-store", "no-cache":
			return time.Second
		case "max-age":
			if s, err := strconv.ParseUint(strings.Trim(value, `"`), 10, 31); err == nil {
				age = max(time.Second, time.Duration(s)*time.Second)
			}
		}
	}
	return age
}
