package kek

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/tokenbroker/tokenbroker/internal/readfile"
)

// gcpCredentials give a token for one call.
type gcpCredentials interface {
	token(ctx context.Context) (string, error)
}

func openGCPCredentials(s Settings) (gcpCredentials, error) {
	switch g := s.GCP; {
	case (g.CredentialsFile == "") == (g.Metadata == ""):
		return nil, invalid("say in one way whose credentials of Google are used: a service account's file, or the metadata service's")
	case g.CredentialsFile != "":
		return serviceAccount(g.CredentialsFile), nil
	}
	c, err := newClient(s.GCP.Metadata, s, attached)
	return &gcpMetadata{c}, err
}

// serviceAccount is the path of a service account's key. A JWT that it signs itself is its token (Google, AIP-4111): nobody is asked for one.
type serviceAccount string

const (
	gcpAudience  = gcpEndpoint + "/"
	serviceType  = "service_account"
	gcpTokenPath = "/computeMetadata/v1/instance/service-accounts/default/token"
	tokenLife    = 5 * time.Minute
)

func (file serviceAccount) token(context.Context) (string, error) {
	data, err := readfile.Private(string(file), maxSecret)
	if err != nil {
		return "", failure(Refused, "the service account's file cannot be read: "+readfile.Why(err).Error())
	}
	defer clear(data)
	var account struct {
		Type  string `json:"type"`
		Email string `json:"client_email"`
		KeyID string `json:"private_key_id"`
		Key   string `json:"private_key"`
	}
	broken := failure(Refused, "the service account's file is none: want a JSON key of one, of type service_account")
	if json.Unmarshal(data, &account) != nil || account.Type != serviceType || account.Email == "" {
		return "", broken
	}
	block, _ := pem.Decode([]byte(account.Key))
	if block == nil {
		return "", broken
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return "", broken
	}
	key, ok := parsed.(*rsa.PrivateKey)
	if !ok {
		return "", broken
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: key}, (&jose.SignerOptions{}).WithType("JWT").WithHeader("kid", account.KeyID))
	if err != nil {
		return "", broken
	}
	now := time.Now()
	token, err := jwt.Signed(signer).Claims(jwt.Claims{
		Issuer: account.Email, Subject: account.Email, Audience: jwt.Audience{gcpAudience}, IssuedAt: jwt.NewNumericDate(now), Expiry: jwt.NewNumericDate(now.Add(tokenLife)),
	}).Serialize()
	if err != nil {
		return "", broken
	}
	return token, nil
}

// A gcpMetadata asks the metadata service of the machine or the pod.
type gcpMetadata struct{ client *client }

func (m *gcpMetadata) token(ctx context.Context) (string, error) {
	a, err := m.client.json(ctx, http.MethodGet, gcpTokenPath, http.Header{"Metadata-Flavor": {"Google"}}, nil)
	switch {
	case err != nil:
		return "", err
	case a.status >= 400 && a.status < 500 && a.status != http.StatusTooManyRequests:
		return "", failure(Refused, "the metadata service gives no token: look at which service account this machine or pod has, and at its scopes")
	case !a.ok():
		return "", a.failure()
	}
	var got struct {
		Token string `json:"access_token"`
	}
	if err := a.read(&got); err != nil {
		return "", err
	}
	if !printable(got.Token) {
		return "", nonsense()
	}
	return got.Token, nil
}
