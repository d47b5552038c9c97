package kek_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/store/kek"
)

// both tries Wrap and Unwrap.
func (l *lab) both(t *testing.T, what string, k kek.KEK, w []byte, want kek.Kind) {
	t.Helper()
	_, err := k.Wrap(t.Context(), []byte(planted), []byte("its place"))
	l.refuses(t, what+": wrap", err, want)
	_, err = k.Unwrap(t.Context(), w, []byte("its place"))
	l.refuses(t, what+": unwrap", err, want)
}

func TestTransitKeysAndTokens(t *testing.T) {
	s := newTransit(t)
	good := s.token(t, rights("tokenbroker", "rsa", "derived", "missing"), nil)
	l := &lab{secrets: []string{good, s.root}}
	settings := kek.Settings{CAFile: caFile(t, ca(t)), Transit: kek.Transit{TokenFile: write(t, "token", []byte(good))}}
	uri := func(key string) string { return "vault://" + s.front + "/transit/" + key }
	k := open(t, uri("tokenbroker"), settings)
	w := wrap(t, k, planted, "its place")

	t.Setenv("KEK_TOKEN", good)
	ofEnvironment := settings
	ofEnvironment.Transit = kek.Transit{TokenEnvironment: "KEK_TOKEN"}
	unwraps(t, open(t, uri("tokenbroker"), ofEnvironment), w, planted, "its place")
	local := "vault+http://" + s.address + "/transit/tokenbroker"
	unwraps(t, open(t, local, settings), w, planted, "its place") // the server's address is no part of what wraps

	jwt := write(t, "jwt", []byte("header.payload.signature"))
	loggedIn := s.token(t, rights("tokenbroker"), map[string]any{"role": "broker", "jwt": "header.payload.signature"})
	l.secrets = append(l.secrets, loggedIn, "header.payload.signature")
	login := settings
	login.Transit = kek.Transit{Role: "broker", JWTFile: jwt}
	unwraps(t, open(t, uri("tokenbroker"), login), w, planted, "its place")
	for what, change := range map[string]func(*kek.Transit){
		"another role":  func(s *kek.Transit) { s.Role = "other" },
		"another mount": func(s *kek.Transit) { s.LoginMount = "other" },
		"another JWT":   func(s *kek.Transit) { s.JWTFile = write(t, "jwt", []byte("header.payload.forged")) },
		"no JWT":        func(s *kek.Transit) { s.JWTFile = filepath.Join(t.TempDir(), "none") },
	} {
		wrong := login
		change(&wrong.Transit)
		l.both(t, what, open(t, uri("tokenbroker"), wrong), w, kek.Refused)
	}

	for what, token := range map[string]string{
		"a wrong token": "s." + random(),
		"a token that has ended": s.token(t, rights("tokenbroker"), map[string]any{
			"ends": time.Now().Add(-time.Second).Format(time.RFC3339Nano)}),
		"a token without rights": s.token(t, nil, nil),
		"an empty token":         "",
		"two lines":              "s.one\ns.two",
	} {
		wrong := settings
		wrong.Transit.TokenFile = write(t, "token", []byte(token))
		l.both(t, what, open(t, uri("tokenbroker"), wrong), w, kek.Refused)
	}

	// A policy without create, and a look before: Transit makes no key because its name was misspelled.
	missing := open(t, uri("missing"), settings)
	_, err := missing.Wrap(t.Context(), []byte(planted), nil)
	l.refuses(t, "a key that is missing", err, kek.KeyUnavailable)
	asRoot := settings
	asRoot.Transit.TokenFile = write(t, "token", []byte(s.root))
	_, err = open(t, uri("missing"), asRoot).Wrap(t.Context(), []byte(planted), nil)
	l.refuses(t, "a key that is missing, as root", err, kek.KeyUnavailable)
	_, err = open(t, strings.Replace(uri("tokenbroker"), "/transit/", "/nowhere/", 1), asRoot).Wrap(t.Context(), []byte(planted), nil)
	l.refuses(t, "a mount that is missing", err, kek.KeyUnavailable)
	s.order(t, http.MethodPost, "transit/keys/rsa", map[string]string{"type": "rsa-2048"})
	_, err = open(t, uri("rsa"), settings).Wrap(t.Context(), []byte(planted), nil)
	l.refuses(t, "a key that binds nothing", err, kek.Invalid)
	s.order(t, http.MethodPost, "transit/keys/derived", map[string]any{"type": "aes256-gcm96", "derived": true})
	_, err = open(t, uri("derived"), settings).Wrap(t.Context(), []byte(planted), nil)
	l.refuses(t, "a derived key", err, kek.Invalid)

	s.order(t, http.MethodPost, "transit/keys/tokenbroker/rotate", nil)
	unwraps(t, k, w, planted, "its place")
	s.order(t, http.MethodPost, "transit/keys/tokenbroker/config", map[string]any{"min_decryption_version": 2})
	_, err = k.Unwrap(t.Context(), w, []byte("its place"))
	l.refuses(t, "a version that is retired", err, kek.KeyUnavailable)
	s.order(t, http.MethodPost, "transit/keys/tokenbroker/config", map[string]any{"min_decryption_version": 1})
	unwraps(t, k, w, planted, "its place")

	order(t, http.MethodPost, "http://"+s.address+"/v1/test/sealed", http.Header{"X-Vault-Token": {s.root}}, map[string]bool{"sealed": true})
	l.both(t, "sealed", k, w, kek.Away)
	order(t, http.MethodPost, "http://"+s.address+"/v1/test/sealed", http.Header{"X-Vault-Token": {s.root}}, map[string]bool{"sealed": false})

	newer := wrap(t, k, planted, "its place")
	s.order(t, http.MethodPost, "transit/keys/tokenbroker/config", map[string]any{"deletion_allowed": true})
	s.order(t, http.MethodDelete, "transit/keys/tokenbroker", nil)
	l.both(t, "destroyed", k, w, kek.KeyUnavailable)
	s.order(t, http.MethodPost, "transit/keys/tokenbroker", map[string]string{"type": "aes256-gcm96"})
	_, err = k.Unwrap(t.Context(), w, []byte("its place"))
	l.refuses(t, "made anew", err, kek.Damaged)
	_, err = k.Unwrap(t.Context(), newer, []byte("its place"))
	l.refuses(t, "made anew, of a version that it does not have", err, kek.KeyUnavailable)
}

// moto verifies signatures and looks at policies; it lets a key be used that is disabled, which is why that is a double's below.
func TestAWSCredentials(t *testing.T) {
	m := newMoto(t)
	key := m.key(t)
	user, powerless := m.user(t, "broker", true), m.user(t, "powerless", false)
	var role struct {
		Arn string `xml:"CreateRoleResult>Role>Arn"`
	}
	m.query(t, "iam", url.Values{"Action": {"CreateRole"}, "Version": {"2010-05-08"}, "RoleName": {"kek"}, "AssumeRolePolicyDocument": {"{}"}}, &role)
	m.query(t, "iam", url.Values{"Action": {"PutRolePolicy"}, "Version": {"2010-05-08"}, "RoleName": {"kek"}, "PolicyName": {"kek"}, "PolicyDocument": {awsPolicy}}, &struct{}{})
	m.strict(t)
	l := &lab{secrets: []string{user.SecretAccessKey, powerless.SecretAccessKey, "web-identity-of-tests"}}
	settings := kek.Settings{CAFile: caFile(t, ca(t)), AWS: kek.AWS{Endpoint: "https://" + m.front}}
	with := func(a kek.AWS) kek.Settings {
		s := settings
		a.Endpoint = s.AWS.Endpoint
		s.AWS = a
		return s
	}
	uri := "aws-kms://" + key
	k := open(t, uri, with(kek.AWS{CredentialsFile: keyFile(t, user)}))
	w := wrap(t, k, planted, "its place")
	unwraps(t, k, w, planted, "its place")

	t.Setenv("AWS_ACCESS_KEY_ID", user.AccessKeyID)
	t.Setenv("AWS_SECRET_ACCESS_KEY", user.SecretAccessKey)
	t.Setenv("AWS_SESSION_TOKEN", "")
	unwraps(t, open(t, uri, settings), w, planted, "its place")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	l.both(t, "an empty environment", open(t, uri, settings), w, kek.Refused)

	wrong := user
	wrong.SecretAccessKey = random()
	l.both(t, "a wrong secret", open(t, uri, with(kek.AWS{CredentialsFile: keyFile(t, wrong)})), w, kek.Refused)
	wrong.AccessKeyID = "AKIANOBODYKNOWSIT000"
	l.both(t, "an unknown access key", open(t, uri, with(kek.AWS{CredentialsFile: keyFile(t, wrong)})), w, kek.Refused)
	l.both(t, "no right", open(t, uri, with(kek.AWS{CredentialsFile: keyFile(t, powerless)})), w, kek.Refused)
	l.both(t, "no file", open(t, uri, with(kek.AWS{CredentialsFile: filepath.Join(t.TempDir(), "none")})), w, kek.Refused)
	l.both(t, "another file", open(t, uri, with(kek.AWS{CredentialsFile: write(t, "x", []byte("[default]\n"))})), w, kek.Refused)
	gone := open(t, uri[:len(uri)-4]+"0000", with(kek.AWS{CredentialsFile: keyFile(t, user)}))
	_, err := gone.Wrap(t.Context(), []byte(planted), nil)
	l.refuses(t, "no such key", err, kek.KeyUnavailable)

	// STS, the agent of containers, and IMDS are doubles: what they give is moto's.
	token := write(t, "jwt", []byte("web-identity-of-tests"))
	keys := map[string]string{"AccessKeyId": user.AccessKeyID, "SecretAccessKey": user.SecretAccessKey}
	doubles := http.NewServeMux()
	doubles.HandleFunc("POST /{$}", func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("Action") != "AssumeRoleWithWebIdentity" || r.FormValue("RoleArn") != role.Arn || r.FormValue("WebIdentityToken") != "web-identity-of-tests" || r.FormValue("RoleSessionName") == "" {
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, `<ErrorResponse><Error><Type>Sender</Type><Code>InvalidIdentityToken</Code><Message>`+upstreamText+`</Message></Error></ErrorResponse>`)
			return
		}
		fmt.Fprintf(w, `<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>%s</AccessKeyId><SecretAccessKey>%s</SecretAccessKey></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`, user.AccessKeyID, user.SecretAccessKey)
	})
	doubles.HandleFunc("GET /v1/credentials", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "web-identity-of-tests" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_ = json.NewEncoder(w).Encode(keys)
	})
	doubles.HandleFunc("PUT /latest/api/token", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Aws-Ec2-Metadata-Token-Ttl-Seconds") == "" {
			w.WriteHeader(http.StatusBadRequest)
		}
		fmt.Fprint(w, "imds-token")
	})
	imds := func(answer func(http.ResponseWriter)) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("X-Aws-Ec2-Metadata-Token") != "imds-token" {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			answer(w)
		}
	}
	doubles.HandleFunc("GET /latest/meta-data/iam/security-credentials/{$}", imds(func(w http.ResponseWriter) { fmt.Fprint(w, "broker-role\n") }))
	doubles.HandleFunc("GET /latest/meta-data/iam/security-credentials/broker-role", imds(func(w http.ResponseWriter) { _ = json.NewEncoder(w).Encode(keys) }))
	d := httptest.NewServer(doubles)
	defer d.Close()
	unwraps(t, open(t, uri, with(kek.AWS{Role: role.Arn, JWTFile: token, STSEndpoint: d.URL})), w, planted, "its place")
	l.both(t, "another role", open(t, uri, with(kek.AWS{Role: role.Arn + "x", JWTFile: token, STSEndpoint: d.URL})), w, kek.Refused)
	unwraps(t, open(t, uri, with(kek.AWS{ContainerURI: d.URL + "/v1/credentials", ContainerTokenFile: token})), w, planted, "its place")
	l.both(t, "no token for the agent", open(t, uri, with(kek.AWS{ContainerURI: d.URL + "/v1/credentials"})), w, kek.Refused)
	unwraps(t, open(t, uri, with(kek.AWS{Metadata: d.URL})), w, planted, "its place")
	none := httptest.NewServer(http.NotFoundHandler())
	defer none.Close()
	l.both(t, "no role", open(t, uri, with(kek.AWS{Metadata: none.URL})), w, kek.Refused)
}

// What AWS KMS says by its reference, by a double.
func TestWhatAWSSays(t *testing.T) {
	l := &lab{secrets: []string{"secret-of-this-access-key"}}
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret-of-this-access-key")
	const uri = "aws-kms://arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
	for code, want := range map[string]kek.Kind{
		"NotFoundException": kek.KeyUnavailable, "DisabledException": kek.KeyUnavailable, "KMSInvalidStateException": kek.KeyUnavailable,
		"KeyUnavailableException": kek.Away, "InvalidKeyUsageException": kek.Invalid, "InvalidCiphertextException": kek.Damaged, "IncorrectKeyException": kek.Another,
		"AccessDeniedException": kek.Refused, "UnrecognizedClientException": kek.Refused, "InvalidSignatureException": kek.Refused, "ExpiredTokenException": kek.Refused,
		"MissingAuthenticationTokenException": kek.Refused, "ThrottlingException": kek.Away, "LimitExceededException": kek.Away, "DependencyTimeoutException": kek.Away,
		"KMSInternalException": kek.Away, "com.amazonaws.kms#DisabledException": kek.KeyUnavailable, "DisabledException:http://internal.amazon.com/": kek.KeyUnavailable,
		"AnotherException": kek.Untrusted, "": kek.Untrusted,
	} {
		for _, inHeader := range []bool{false, true} {
			d := overTLS(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				body := map[string]string{"message": upstreamText}
				if inHeader {
					w.Header().Set("X-Amzn-ErrorType", code)
				} else {
					body["__type"] = code
				}
				w.WriteHeader(http.StatusBadRequest)
				_ = json.NewEncoder(w).Encode(body)
			}))
			k := open(t, uri, kek.Settings{CAFile: caFile(t, ca(t)), AWS: kek.AWS{Endpoint: "https://" + d}})
			_, err := k.Wrap(t.Context(), []byte(planted), nil)
			l.refuses(t, code, err, want)
		}
	}
}

// A role is asked for by whatever name IAM lets it have, and by none that leads to another path.
func TestTheNameOfAnInstancesRole(t *testing.T) {
	const arn = "arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
	kms := overTLS(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{"KeyId": arn, "CiphertextBlob": []byte("wrapped")})
	}))
	long := strings.Repeat("r", 64)
	for role, good := range map[string]bool{
		"broker-role": true, "team+prod": true, "svc@prod": true, "a=b": true, "a,b": true, "a.b": true, "_": true, "-a": true, "+a": true, "..a": true, "...": true, long: true,
		"": false, ".": false, "..": false, "a/b": false, "../x": false, "a?b": false, "a#b": false, "a%2fb": false,
		`a\b`: false, "a b": false, "a\nb": false, "a\x00b": false, "ä": false, long + "r": false,
	} {
		asked := ""
		imds := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			const roles = "/latest/meta-data/iam/security-credentials/"
			switch {
			case r.Method == http.MethodPut:
				fmt.Fprint(w, "imds-token")
			case r.URL.Path == roles:
				fmt.Fprintln(w, role)
			default:
				asked = strings.TrimPrefix(r.URL.Path, roles)
				_ = json.NewEncoder(w).Encode(map[string]string{"AccessKeyId": "AKIAEXAMPLE", "SecretAccessKey": "secret-of-this-access-key"})
			}
		}))
		k := open(t, "aws-kms://"+arn, kek.Settings{CAFile: caFile(t, ca(t)), AWS: kek.AWS{Endpoint: "https://" + kms, Metadata: imds.URL}})
		_, err := k.Wrap(t.Context(), []byte(planted), nil)
		imds.Close()
		switch {
		case good && (err != nil || asked != role):
			t.Errorf("%q: got %v, and asked for %q", role, err, asked)
		case !good && (!errors.Is(err, kek.Untrusted) || asked != ""):
			t.Errorf("%q: got %v, and asked for %q", role, err, asked)
		}
	}
}

// A key of several regions is one key: what one replica has wrapped, another unwraps.
func TestAReplicaHasTheNameOfItsKey(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret-of-this-access-key")
	of := func(region string) (kek.KEK, string) {
		arn := "arn:aws:kms:" + region + ":123456789012:key/mrk-1234abcd12ab34cd56ef1234567890ab"
		d := overTLS(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var body struct{ Plaintext, CiphertextBlob []byte }
			if err := json.NewDecoder(r.Body).Decode(&body); err != nil || !strings.Contains(r.Header.Get("Authorization"), "/"+region+"/kms/aws4_request") {
				w.WriteHeader(http.StatusBadRequest)
			}
			_ = json.NewEncoder(w).Encode(map[string]any{"KeyId": arn, "Plaintext": body.CiphertextBlob, "CiphertextBlob": body.Plaintext})
		}))
		return open(t, "aws-kms://"+arn, kek.Settings{CAFile: caFile(t, ca(t)), AWS: kek.AWS{Endpoint: "https://" + d}}), arn
	}
	here, _ := of("eu-west-1")
	there, _ := of("eu-central-1")
	unwraps(t, there, wrap(t, here, planted, "its place"), planted, "its place")
}

func TestGoogle(t *testing.T) {
	s := newGCP(t)
	file, secret := s.account(t, true)
	l := &lab{secrets: []string{secret, s.root}}
	settings := kek.Settings{CAFile: caFile(t, ca(t)), GCP: kek.GCP{Endpoint: "https://" + s.front, CredentialsFile: file}}
	const uri = "gcp-kms://" + gcpKey
	k := open(t, uri, settings)
	w := wrap(t, k, planted, "its place")

	stranger, other := s.account(t, false)
	l.secrets = append(l.secrets, other)
	wrong := settings
	for what, file := range map[string]string{
		"another key of the account": stranger,
		"no file":                    filepath.Join(t.TempDir(), "none"),
		"another file":               write(t, "x.json", []byte(`{"type": "authorized_user"}`)),
	} {
		wrong.GCP.CredentialsFile = file
		l.both(t, what, open(t, uri, wrong), w, kek.Refused)
	}
	metadata := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Metadata-Flavor") != "Google" || r.URL.Path != "/computeMetadata/v1/instance/service-accounts/default/token" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"access_token": s.root, "expires_in": 3599, "token_type": "Bearer"})
	}))
	defer metadata.Close()
	ofMachine := settings
	ofMachine.GCP.CredentialsFile, ofMachine.GCP.Metadata = "", metadata.URL
	unwraps(t, open(t, uri, ofMachine), w, planted, "its place")

	_, err := open(t, uri+"x", settings).Wrap(t.Context(), []byte(planted), nil)
	l.refuses(t, "no such key", err, kek.KeyUnavailable)
	s.order(t, map[string]any{"denied": true})
	l.both(t, "no right", k, w, kek.Refused)
	s.order(t, map[string]any{"disable": gcpKey})
	l.both(t, "disabled", k, w, kek.KeyUnavailable)
	s.order(t, map[string]any{"enable": gcpKey})
	for _, broken := range []string{"ciphertext", "missing", "plaintext", "associated"} {
		s.order(t, map[string]any{"broken": broken})
		_, err := k.Wrap(t.Context(), []byte(planted), nil)
		l.refuses(t, "a checksum that does not fit: "+broken, err, kek.Away)
	}
	s.order(t, map[string]any{"broken": "plaintext"})
	_, err = k.Unwrap(t.Context(), w, []byte("its place"))
	l.refuses(t, "a checksum that does not fit", err, kek.Away)
	s.order(t, map[string]any{})
	unwraps(t, k, w, planted, "its place")
}

func TestFiles(t *testing.T) {
	l := &lab{}
	dir := t.TempDir()
	path := filepath.Join(dir, "kek.json")
	if err := kek.CreateFile(path); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := kek.CreateFile(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("create over one: got %v", err)
	}
	if after, _ := os.ReadFile(path); string(after) != string(before) {
		t.Error("a file was written over")
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode: got %v, %v", info.Mode(), err)
	}
	var content struct {
		Key []struct {
			KeyData struct{ Value string }
		}
	}
	if err := json.Unmarshal(before, &content); err != nil || len(content.Key) != 1 {
		t.Fatalf("got %d keys, %v", len(content.Key), err)
	}
	l.secrets = []string{content.Key[0].KeyData.Value}
	k := open(t, "file://"+path, kek.Settings{})
	l.silent(t, "the KEK", k, struct{ K kek.KEK }{k})
	w := wrap(t, k, planted, "its place")
	moved := filepath.Join(dir, "moved.json")
	if err := os.Rename(path, moved); err != nil {
		t.Fatal(err)
	}
	unwraps(t, open(t, "file://"+moved, kek.Settings{}), w, planted, "its place")

	loose := write(t, "loose", before)
	if err := os.Chmod(loose, 0o640); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]kek.Kind{
		path: kek.KeyUnavailable, loose: kek.Invalid, dir: kek.Invalid, os.DevNull: kek.Invalid,
		write(t, "cut", before[:len(before)/2]): kek.KeyUnavailable, write(t, "empty", nil): kek.KeyUnavailable, write(t, "JSON", []byte("{}")): kek.KeyUnavailable,
		write(t, "huge", make([]byte, 2<<20)): kek.Invalid,
	} {
		_, err := kek.Open(t.Context(), "file://"+file, kek.Settings{})
		l.refuses(t, file, err, want)
	}
}

func TestWhatCannotBeOpened(t *testing.T) {
	l := &lab{secrets: []string{"password of somebody"}}
	token := kek.Settings{Transit: kek.Transit{TokenEnvironment: "X"}, GCP: kek.GCP{CredentialsFile: "/x"}}
	with := func(change func(*kek.Settings)) kek.Settings {
		s := token
		change(&s)
		return s
	}
	const transit, aws, gcp = "vault://kms.example/transit/k", "aws-kms://arn:aws:kms:eu-west-1:123456789012:key/1234", "gcp-kms://" + gcpKey
	for _, good := range []string{transit, "vault://kms.example:443/ns1/transit/k", "vault+http://127.0.0.1:8200/transit/k", "vault+http://[::1]:8200/transit/k", "vault+http://localhost/transit/k", aws,
		strings.Replace(aws, "aws:kms", "aws-cn:kms", 1), gcp} {
		if _, err := kek.Open(t.Context(), good, token); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	type test struct {
		uri string
		s   kek.Settings
	}
	for _, test := range []test{
		{"", token}, {"kek.json", token}, {"https://kms.example/", token}, {"file://relative", token}, {"file:///a/../b", token}, {"file://host/a", token}, {"file:///a b", token},
		{"vault://", token}, {"vault://kms.example", token}, {"vault://kms.example/k", token}, {"vault://kms.example/transit/../sys/k", token}, {"vault://kms.example/transit/", token},
		{"vault://kms.example/transit//k", token}, {"vault://user:password-of-somebody@kms.example/transit/k", token}, {transit + "?token=password-of-somebody", token},
		{transit + "#password-of-somebody", token}, {"vault://kms.example/transit/%2e%2e", token}, {"vault+http://kms.example/transit/k", token}, {"vault+http://10.0.0.1/transit/k", token},
		{"aws-kms://alias/kek", token}, {"aws-kms://arn:aws:kms:eu-west-1:123456789012:alias/kek", token}, {"aws-kms://arn:aws:s3:eu-west-1:123456789012:key/1234", token},
		{"aws-kms://arn:aws:kms:evil.example/:123456789012:key/1234", token}, {gcp + "/cryptoKeyVersions/1", token}, {"gcp-kms://projects/shop", token},
		{strings.Replace(gcp, "/shop/", "/../", 1), token}, {strings.Replace(gcp, "/shop/", "/./", 1), token}, {strings.Replace(gcp, "/europe-west3/", "/../", 1), token},
		{strings.Replace(gcp, "/tokenbroker/", "/../", 1), token}, {strings.Replace(gcp, "/kek", "/..", 1), token}, {strings.Repeat("x", 4096), token},
		{transit, kek.Settings{}}, {gcp, kek.Settings{}},
		{transit, with(func(s *kek.Settings) { s.Timeout = -1 })},
		{transit, with(func(s *kek.Settings) { s.Transit.TokenFile = "/x" })},
		{transit, with(func(s *kek.Settings) { s.Transit = kek.Transit{Role: "r", LoginMount: "../sys"} })},
		{transit, with(func(s *kek.Settings) { s.CAFile = "/nonexistent/ca" })},
		{transit, with(func(s *kek.Settings) { s.CAFile = write(t, "ca", []byte("no PEM")) })},
		{transit, with(func(s *kek.Settings) { s.CertFile = write(t, "cert", []byte("no PEM")) })},
		{aws, with(func(s *kek.Settings) { s.AWS.Endpoint = "http://kms.example" + "@10.0.0.1" })},
		{aws, with(func(s *kek.Settings) { s.AWS.Endpoint = "http://10.0.0.1" })},
		{aws, with(func(s *kek.Settings) { s.AWS.Endpoint = "ftp://kms.example" })},
		{aws, with(func(s *kek.Settings) { s.AWS.Metadata = "http://10.0.0.1" })},
		{aws, with(func(s *kek.Settings) { s.AWS.Metadata, s.AWS.CredentialsFile = "http://127.0.0.1", "/x" })},
		{aws, with(func(s *kek.Settings) { s.AWS.Role = "arn:aws:iam::1:role/x" })},
		{aws, with(func(s *kek.Settings) { s.AWS.ContainerURI = "http://10.0.0.1/x" })},
		{gcp, with(func(s *kek.Settings) { s.GCP.Metadata = "http://127.0.0.1" })},
	} {
		k, err := kek.Open(t.Context(), test.uri, test.s)
		if k != nil || !errors.Is(err, kek.Invalid) {
			t.Errorf("%s: got %v, %v", test.uri, k, err)
			continue
		}
		if strings.Contains(err.Error(), "password-of-somebody") {
			t.Errorf("the error has the password: %v", err)
		}
	}
	_, err := kek.Open(t.Context(), "vault+http://localhost:1/transit/k", token)
	if err != nil {
		t.Error(err)
	}
	l.silent(t, "settings", token)
}
