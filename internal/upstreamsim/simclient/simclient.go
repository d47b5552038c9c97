// Package simclient is the client of the simulated upstreams. It decides how what the contract says of a token becomes a
// request to a protected API, and how the simulator is given orders from outside its process. It knows nothing of how a token
// is obtained, nor of what any vendor wants.
package simclient

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"

	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/internal/upstreamsim"
)

// A Client finds every host at one simulator. Each request has a connection of its own, so nothing is to be closed. Safe for
// concurrent use.
type Client struct{ http *http.Client }

// New returns a client of the simulator that answers on the address and whose certificates are of the authority ca, in PEM.
func New(addr string, ca []byte) (*Client, error) {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, errors.New("the simulator's authority has no certificate in PEM")
	}
	return &Client{&http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, addr)
		},
		DisableKeepAlives: true,
	}}}, nil
}

// Of returns a client of a simulator in this process, which has been started.
func Of(sim *upstreamsim.Sim) (*Client, error) { return New(sim.Addr(), sim.CA()) }

// Show presents the token to the account's API as the token says, in headers, cookies and query parameters, and returns the
// status: 200 if it is valid. An API that is not below the token's base URL is an error.
func (c *Client) Show(ctx context.Context, a upstreamsim.Account, t *tokenbrokerv1.Token) (status int, err error) {
	if base := t.GetBaseUrl(); !strings.HasPrefix(a.APIURL, base) {
		return 0, fmt.Errorf("%s: the API %s is not below base_url %s", a.System, a.APIURL, base)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.APIURL, nil)
	if err != nil {
		return 0, err
	}
	for _, h := range t.GetHeaders() {
		req.Header.Set(h.GetName(), h.GetValue())
	}
	var cookies []string
	for _, k := range t.GetCookies() {
		cookies = append(cookies, k.GetName()+"="+k.GetValue())
	}
	if len(cookies) > 0 {
		req.Header.Set("Cookie", strings.Join(cookies, "; "))
	}
	q := req.URL.Query()
	for _, p := range t.GetQueryParameters() {
		q.Set(p.GetName(), p.GetValue())
	}
	req.URL.RawQuery = q.Encode()
	res, err := c.http.Do(req)
	if err != nil {
		return 0, fmt.Errorf("call the API of %s: %w", a.System, err)
	}
	defer res.Body.Close() //nolint:errcheck // nothing is left to be lost
	_, _ = io.Copy(io.Discard, res.Body)
	return res.StatusCode, nil
}

// Order gives the simulator an order, which the package comment of upstreamsim lists: a method, and a path with its query. It
// returns the answer.
func (c *Client) Order(ctx context.Context, method, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, "https://localhost"+path, http.NoBody)
	if err != nil {
		return nil, err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close() //nolint:errcheck // nothing is left to be lost
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s %s: %s %s", method, path, res.Status, body)
	}
	return body, nil
}
