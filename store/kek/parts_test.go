package kek_test

import (
	"bufio"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"encoding/xml"
	"io"
	"log"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"

	"github.com/tokenbroker/tokenbroker/internal/installed"
	"github.com/tokenbroker/tokenbroker/store/kek"
)

var quiet = log.New(io.Discard, "", 0)

func fileLab(t *testing.T) *lab {
	dir := t.TempDir()
	path, other := filepath.Join(dir, "kek.json"), filepath.Join(dir, "other.json")
	for _, p := range []string{path, other} {
		if err := kek.CreateFile(p); err != nil {
			t.Fatal(err)
		}
	}
	l := &lab{uri: "file://" + path, other: "file://" + other}
	l.rotate = func(t *testing.T) { rotateFile(t, path) }
	return l
}

// rotateFile adds a key to a keyset, and makes it primary.
func rotateFile(t *testing.T, path string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	h, err := insecurecleartextkeyset.Read(keyset.NewJSONReader(f))
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	m := keyset.NewManagerFromHandle(h)
	id, err := m.Add(aead.AES256GCMKeyTemplate())
	if err == nil {
		err = m.SetPrimary(id)
	}
	if err != nil {
		t.Fatal(err)
	}
	if h, err = m.Handle(); err != nil {
		t.Fatal(err)
	}
	if f, err = os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0o600); err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := insecurecleartextkeyset.Write(h, keyset.NewJSONWriter(f)); err != nil {
		t.Fatal(err)
	}
}

// A transitServer is the real engine, and the double of what is around it.
type transitServer struct {
	*process
	front string
}

func (s *transitServer) order(t testing.TB, method, path string, body any) {
	t.Helper()
	order(t, method, "http://"+s.address+"/v1/"+path, http.Header{"X-Vault-Token": {s.root}}, body)
}

// token makes one with these rights.
func (s *transitServer) token(t testing.TB, rights map[string][]string, more map[string]any) string {
	t.Helper()
	token := "s." + random()
	body := map[string]any{"token": token, "rights": rights}
	for k, v := range more {
		body[k] = v
	}
	s.order(t, http.MethodPost, "test/token", body)
	return token
}

// rights are what docs/keys.md says.
func rights(keys ...string) map[string][]string {
	all := map[string][]string{}
	for _, k := range keys {
		all["transit/keys/"+k], all["transit/encrypt/"+k], all["transit/decrypt/"+k] = []string{"read"}, []string{"update"}, []string{"update"}
	}
	return all
}

func newTransit(t testing.TB) *transitServer {
	s := &transitServer{process: kmstest(t)}
	s.front = front(t, s.address)
	for _, k := range []string{"tokenbroker", "other"} {
		s.order(t, http.MethodPost, "transit/keys/"+k, map[string]string{"type": "aes256-gcm96"})
	}
	return s
}

func transitLab(t *testing.T) *lab {
	s := newTransit(t)
	token := s.token(t, rights("tokenbroker", "other"), nil)
	l := &lab{uri: "vault://" + s.front + "/transit/tokenbroker", other: "vault://" + s.front + "/transit/other", secrets: []string{token, s.root}}
	l.settings = kek.Settings{CAFile: caFile(t, ca(t)), Transit: kek.Transit{TokenFile: write(t, "token", []byte(token+"\n"))}}
	l.at = func(base string) (string, kek.Settings) {
		return strings.Replace(base, "https", "vault", 1) + "/transit/tokenbroker", l.settings
	}
	l.rotate = func(t *testing.T) { s.order(t, http.MethodPost, "transit/keys/tokenbroker/rotate", nil) }
	return l
}

// moto is AWS's services in Python, as others wrote them.
type moto struct {
	address, front string
	admin          aws.Credentials
}

var running = regexp.MustCompile(`Running on http://(127\.0\.0\.1:\d+)`)

func newMoto(t testing.TB) *moto {
	m := &moto{admin: aws.Credentials{AccessKeyID: "AKIAADMINISTRATOR00", SecretAccessKey: random()}}
	cmd := exec.CommandContext(t.Context(), installed.Tool(t, "moto-venv/bin/moto_server"), "-H", "127.0.0.1", "-p", "0")
	cmd.Env = append(os.Environ(), "PYTHONUNBUFFERED=1")
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := bufio.NewReader(out)
	read := make(chan struct{})
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-read
		_ = cmd.Wait()
	})
	for m.address == "" {
		line, err := said.ReadString('\n')
		if err != nil {
			close(read)
			t.Fatalf("moto says nothing of where it listens: %v", err)
		}
		if found := running.FindStringSubmatch(line); found != nil {
			m.address = found[1]
		}
	}
	go func() {
		defer close(read)
		_, _ = io.Copy(io.Discard, said)
	}()
	m.front = front(t, m.address)
	return m
}

// json asks KMS, and query the services that answer in XML.
func (m *moto) json(t testing.TB, action string, body, into any) {
	t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	m.ask(t, "kms", string(text), http.Header{"Content-Type": {"application/x-amz-json-1.1"}, "X-Amz-Target": {"TrentService." + action}}, func(b []byte) error { return json.Unmarshal(b, into) })
}

func (m *moto) query(t testing.TB, service string, form url.Values, into any) {
	t.Helper()
	m.ask(t, service, form.Encode(), http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}, func(b []byte) error { return xml.Unmarshal(b, into) })
}

func (m *moto) ask(t testing.TB, service, body string, header http.Header, read func([]byte) error) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+m.address+"/", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header = header
	digest := sha256.Sum256([]byte(body))
	if err := v4.NewSigner().SignHTTP(t.Context(), m.admin, r, hex.EncodeToString(digest[:]), service, "eu-west-1", time.Now()); err != nil {
		t.Fatal(err)
	}
	if err := read(do(t, r)); err != nil {
		t.Fatal(err)
	}
}

func (m *moto) key(t testing.TB) string {
	t.Helper()
	var made struct{ KeyMetadata struct{ Arn string } }
	m.json(t, "CreateKey", struct{}{}, &made)
	return made.KeyMetadata.Arn
}

// user makes one with an access key, and with the rights that docs/keys.md says, if it has any. moto looks at actions, and not at keys.
func (m *moto) user(t testing.TB, name string, may bool) aws.Credentials {
	t.Helper()
	m.query(t, "iam", url.Values{"Action": {"CreateUser"}, "Version": {"2010-05-08"}, "UserName": {name}}, &struct{}{})
	var made struct {
		ID     string `xml:"CreateAccessKeyResult>AccessKey>AccessKeyId"`
		Secret string `xml:"CreateAccessKeyResult>AccessKey>SecretAccessKey"`
	}
	m.query(t, "iam", url.Values{"Action": {"CreateAccessKey"}, "Version": {"2010-05-08"}, "UserName": {name}}, &made)
	if may {
		m.query(t, "iam", url.Values{"Action": {"PutUserPolicy"}, "Version": {"2010-05-08"}, "UserName": {name}, "PolicyName": {"kek"}, "PolicyDocument": {awsPolicy}}, &struct{}{})
	}
	return aws.Credentials{AccessKeyID: made.ID, SecretAccessKey: made.Secret}
}

const awsPolicy = `{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": ["kms:Encrypt", "kms:Decrypt"], "Resource": "*"}]}`

// strict lets moto verify signatures, and look at policies, from now on.
func (m *moto) strict(t testing.TB) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+m.address+"/moto-api/reset-auth", strings.NewReader("0"))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "text/plain")
	do(t, r)
}

func keyFile(t testing.TB, c aws.Credentials) string {
	t.Helper()
	text, err := json.Marshal(map[string]any{"Version": 1, "AccessKeyId": c.AccessKeyID, "SecretAccessKey": c.SecretAccessKey, "SessionToken": c.SessionToken})
	if err != nil {
		t.Fatal(err)
	}
	return write(t, "aws.json", text)
}

func awsLab(t *testing.T) *lab {
	m := newMoto(t)
	key, other := m.key(t), m.key(t)
	user := m.user(t, "broker", true)
	l := &lab{uri: "aws-kms://" + key, other: "aws-kms://" + other, secrets: []string{user.SecretAccessKey}}
	l.settings = kek.Settings{CAFile: caFile(t, ca(t)), AWS: kek.AWS{Endpoint: "https://" + m.front, CredentialsFile: keyFile(t, user)}}
	l.at = func(base string) (string, kek.Settings) {
		s := l.settings
		s.AWS.Endpoint = base
		return l.uri, s
	}
	l.rotate = func(t *testing.T) { m.json(t, "RotateKeyOnDemand", map[string]string{"KeyId": key}, &struct{}{}) }
	return l
}

const (
	gcpKey   = "projects/shop/locations/europe-west3/keyRings/tokenbroker/cryptoKeys/kek"
	gcpOther = "projects/shop/locations/europe-west3/keyRings/tokenbroker/cryptoKeys/other"
	account  = "tokenbroker@shop.iam.gserviceaccount.com"
)

// A gcpServer is the double.
type gcpServer struct {
	*process
	front string
}

func (s *gcpServer) order(t testing.TB, body map[string]any) {
	t.Helper()
	order(t, http.MethodPost, "http://"+s.address+"/test/google", http.Header{"Authorization": {s.root}}, body)
}

// account makes a key of a service account; known: the double believes it.
func (s *gcpServer) account(t testing.TB, known bool) (file, secret string) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	private := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}))
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	if known {
		s.order(t, map[string]any{"email": account, "public": string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}))})
	}
	text, err := json.Marshal(map[string]string{"type": "service_account", "client_email": account, "private_key_id": "1", "private_key": private})
	if err != nil {
		t.Fatal(err)
	}
	return write(t, "account.json", text), strings.Split(private, "\n")[3]
}

func newGCP(t testing.TB) *gcpServer {
	s := &gcpServer{process: kmstest(t)}
	s.front = front(t, s.address)
	for _, k := range []string{gcpKey, gcpOther} {
		s.order(t, map[string]any{"rotate": k})
	}
	return s
}

func gcpLab(t *testing.T) *lab {
	s := newGCP(t)
	file, secret := s.account(t, true)
	l := &lab{uri: "gcp-kms://" + gcpKey, other: "gcp-kms://" + gcpOther, secrets: []string{secret}}
	l.settings = kek.Settings{CAFile: caFile(t, ca(t)), GCP: kek.GCP{Endpoint: "https://" + s.front, CredentialsFile: file}}
	l.at = func(base string) (string, kek.Settings) {
		s := l.settings
		s.GCP.Endpoint = base
		return l.uri, s
	}
	l.rotate = func(t *testing.T) { s.order(t, map[string]any{"rotate": gcpKey}) }
	return l
}
