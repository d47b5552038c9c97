package kek

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// A transit is a key of the secrets engine Transit, of OpenBao or Vault (their HTTP API, secret/transit).
type transit struct {
	client     *client
	settings   Transit
	mount, key string
}

var (
	// segment is a name of a mount or a key that needs no escape in a path.
	segment = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`)
	// ciphertext is what Transit gives: which version of the key, and what it made.
	ciphertext = regexp.MustCompile(`^vault:v([1-9][0-9]{0,8}):[A-Za-z0-9+/]+={0,2}$`)
	// bindingTypes are the types of keys that take associated data.
	bindingTypes = []string{"aes256-gcm96", "aes128-gcm96", "chacha20-poly1305", "xchacha20-poly1305"}
)

const (
	transitPort   = "8200"
	defaultLogin  = "kubernetes"
	podsToken     = "/var/run/secrets/kubernetes.io/serviceaccount/token" //nolint:gosec // G101: where it lies
	tokenHeader   = "X-Vault-Token"                                       //nolint:gosec // G101: what it is called
	requestHeader = "X-Vault-Request"                                     // agents that stand between want it, against requests that a browser was made to send
)

func openTransit(uri string, s Settings) (*transit, error) {
	u, err := url.Parse(uri)
	if err != nil || u.Hostname() == "" {
		return nil, invalid("it names no key of Transit: want " + formTransit)
	}
	parts := strings.Split(strings.TrimPrefix(u.Path, "/"), "/")
	if len(parts) < 2 || slices.ContainsFunc(parts, func(p string) bool { return !segment.MatchString(p) }) {
		return nil, invalid("it names no mount and key of Transit: want " + formTransit)
	}
	last := len(parts) - 1
	t := &transit{settings: s.Transit, mount: strings.Join(parts[:last], "/"), key: parts[last]}
	ways := 0
	for _, way := range []string{s.Transit.TokenFile, s.Transit.TokenEnvironment, s.Transit.Role} {
		if way != "" {
			ways++
		}
	}
	if ways != 1 {
		return nil, invalid("say where the token for Transit is, in one way: a file, an environment variable, or a role to log in with")
	}
	if t.settings.LoginMount == "" {
		t.settings.LoginMount = defaultLogin
	}
	if slices.ContainsFunc(strings.Split(t.settings.LoginMount, "/"), func(p string) bool { return !segment.MatchString(p) }) {
		return nil, invalid("the mount of the login method is none, such as kubernetes")
	}
	if t.settings.JWTFile == "" {
		t.settings.JWTFile = podsToken
	}
	host, scheme := u.Host, schemeTLS
	if u.Port() == "" {
		host += ":" + transitPort
	}
	if u.Scheme == schemeLocalTransit {
		scheme = schemeText
		if a, err := netip.ParseAddr(u.Hostname()); err != nil && u.Hostname() != "localhost" || err == nil && !a.IsLoopback() {
			return nil, invalid("vault+http:// is for a server or an agent on this machine: want " + formTransit)
		}
	}
	t.client, err = newClient(scheme+separator+host, s, loopback)
	return t, err
}

func (t *transit) name() string { return schemeTransit + ":" + t.mount + "/" + t.key }

// A transitData is what Transit answers, and what a login does.
type transitData struct {
	Data struct {
		Ciphertext string `json:"ciphertext"`
		Plaintext  string `json:"plaintext"`
		// of a key:
		Type       string `json:"type"`
		Derived    bool   `json:"derived"`
		Latest     int    `json:"latest_version"`
		MinDecrypt int    `json:"min_decryption_version"`
	} `json:"data"`
	Auth struct {
		Token string `json:"client_token"`
	} `json:"auth"`
}

// wrap looks at the key before it is used: Transit would make one that is missing, and not bind what it cannot.
func (t *transit) wrap(ctx context.Context, dataKey []byte, bound [sha256.Size]byte) ([]byte, error) {
	token, err := t.token(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := t.look(ctx, token); err != nil {
		return nil, err
	}
	a, got, err := t.ask(ctx, token, http.MethodPost, "encrypt", map[string]string{
		"plaintext":       base64.StdEncoding.EncodeToString(dataKey),
		"associated_data": base64.StdEncoding.EncodeToString(bound[:]),
	})
	switch {
	case err != nil:
		return nil, err
	case a.status == http.StatusBadRequest:
		return nil, failure(KeyUnavailable, "Transit does not encrypt with key "+t.key+": look at it, and at its engine's settings")
	case !a.ok():
		return nil, t.refused(a)
	case !ciphertext.MatchString(got.Data.Ciphertext):
		return nil, nonsense()
	}
	return []byte(got.Data.Ciphertext), nil
}

func (t *transit) unwrap(ctx context.Context, wrapped []byte, bound [sha256.Size]byte) ([]byte, error) {
	m := ciphertext.FindSubmatch(wrapped)
	if m == nil {
		return nil, damaged()
	}
	token, err := t.token(ctx)
	if err != nil {
		return nil, err
	}
	a, got, err := t.ask(ctx, token, http.MethodPost, "decrypt", map[string]string{
		"ciphertext":      string(wrapped),
		"associated_data": base64.StdEncoding.EncodeToString(bound[:]),
	})
	switch {
	case err != nil:
		return nil, err
	case a.status == http.StatusBadRequest:
		return nil, t.unopened(ctx, token, string(m[1]))
	case !a.ok():
		return nil, t.refused(a)
	}
	dataKey, err := base64.StdEncoding.DecodeString(got.Data.Plaintext)
	if err != nil {
		return nil, nonsense()
	}
	return dataKey, nil
}

// unopened says why Transit does not decrypt, which it tells by a text alone: by what the key is like.
func (t *transit) unopened(ctx context.Context, token, version string) error {
	k, err := t.look(ctx, token)
	if err != nil {
		return err
	}
	switch v, _ := strconv.Atoi(version); { // at most nine digits
	case v < k.Data.MinDecrypt:
		return failure(KeyUnavailable, "this was wrapped by version "+version+" of key "+t.key+", which Transit does not use any more: lower its min_decryption_version, unwrap, and wrap anew")
	case v > k.Data.Latest:
		return failure(KeyUnavailable, "this was wrapped by version "+version+" of key "+t.key+", which Transit does not have: it is another server's key, or was restored from before, or this is damaged")
	}
	return failure(Damaged, "Transit cannot open this with key "+t.key+": it was changed or moved, or another server's key of that name wrapped it")
}

// look asks what the key is like.
func (t *transit) look(ctx context.Context, token string) (transitData, error) {
	a, got, err := t.ask(ctx, token, http.MethodGet, "keys", nil)
	switch {
	case err != nil:
		return got, err
	case !a.ok():
		return got, t.refused(a)
	case got.Data.Type == "" || got.Data.Latest < 1:
		return got, nonsense()
	case !slices.Contains(bindingTypes, got.Data.Type), got.Data.Derived:
		return got, invalid("key " + t.key + " of Transit binds nothing to what it encrypts: use one of type aes256-gcm96 that is not derived")
	}
	return got, nil
}

// refused is what a status of Transit means.
func (t *transit) refused(a answer) error {
	switch a.status {
	case http.StatusNotFound:
		return failure(KeyUnavailable, "there is no key "+t.key+" of Transit at "+t.mount+": look at mount and name; create the key if nothing was wrapped yet")
	case http.StatusForbidden:
		return failure(Refused, "Transit refuses the token, which is wrong or has ended, or whose policy lacks a right: it takes read on "+
			t.mount+"/keys/"+t.key+", update on "+t.mount+"/encrypt/"+t.key+" and "+t.mount+"/decrypt/"+t.key)
	case http.StatusPreconditionFailed:
		return failure(Away, "this server of Transit is behind the others: try again")
	}
	return a.failure()
}

// ask asks for an operation on the key. What it gives of the body is empty unless the answer is ok.
func (t *transit) ask(ctx context.Context, token, method, operation string, body any) (answer, transitData, error) {
	return t.send(ctx, method, "/v1/"+t.mount+"/"+operation+"/"+t.key, http.Header{tokenHeader: {token}}, body)
}

func (t *transit) send(ctx context.Context, method, path string, header http.Header, body any) (a answer, got transitData, err error) {
	header.Set(requestHeader, "true")
	if a, err = t.client.json(ctx, method, path, header, body); err != nil || !a.ok() {
		return a, got, err
	}
	return a, got, a.read(&got)
}

// token is what we show. A login's is not kept: it is used for one call, and ends by itself.
func (t *transit) token(ctx context.Context) (string, error) {
	switch s := t.settings; {
	case s.TokenFile != "":
		return secretOf(s.TokenFile, "the file of Transit's token")
	case s.TokenEnvironment != "":
		token := os.Getenv(s.TokenEnvironment)
		if !printable(token) {
			return "", failure(Refused, "the environment variable of Transit's token is none: want one line of text, and it is empty, or more than that")
		}
		return token, nil
	}
	jwt, err := secretOf(t.settings.JWTFile, "the file of the JWT to log in with")
	if err != nil {
		return "", err
	}
	a, got, err := t.send(ctx, http.MethodPost, "/v1/auth/"+t.settings.LoginMount+"/login", http.Header{}, map[string]string{"role": t.settings.Role, "jwt": jwt})
	switch {
	case err != nil:
		return "", err
	case a.status >= 400 && a.status < 500 && a.status != http.StatusTooManyRequests:
		return "", failure(Refused, "the login with role "+t.settings.Role+" is refused: look at the method's mount, at the role, and at the audience and the age of the JWT")
	case !a.ok():
		return "", a.failure()
	case !printable(got.Auth.Token):
		return "", nonsense()
	}
	return got.Auth.Token, nil
}
