package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/settings"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/internal/installed"
	"github.com/tokenbroker/tokenbroker/internal/redistest"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/bolt"
	"github.com/tokenbroker/tokenbroker/store/kek"
	"github.com/tokenbroker/tokenbroker/store/redis"
	"github.com/tokenbroker/tokenbroker/store/seal"
)

// ordered sends an order to a KMS of a test, and reads what it answers.
func ordered(t testing.TB, method, url string, header http.Header, body, into any) {
	t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = header
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	said, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode >= 300 {
		t.Fatalf("%s %s: %d %s, %v", method, url, res.StatusCode, said, err)
	}
	if into != nil {
		if err := json.Unmarshal(said, into); err != nil {
			t.Fatal(err)
		}
	}
}

// A gate lets connections through to a server while it is open. Until it was opened first nobody listens at its address.
type gate struct {
	t       testing.TB
	to      string
	address string
	mu      sync.Mutex
	l       net.Listener
}

func newGate(t testing.TB, to string) *gate {
	t.Helper()
	ports, err := freePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{t: t, to: to, address: "127.0.0.1:" + ports[0]}
	t.Cleanup(g.shut)
	return g
}

func (g *gate) open() {
	g.t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	l, err := net.Listen("tcp", g.address)
	if err != nil {
		g.t.Fatal(err)
	}
	g.l = l
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				s, err := net.Dial("tcp", g.to)
				if err != nil {
					return
				}
				defer s.Close()
				go func() { _, _ = io.Copy(s, c) }()
				_, _ = io.Copy(c, s)
			}()
		}
	}()
}

func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.l != nil {
		_ = g.l.Close()
		g.l = nil
	}
}

// transit starts the engine Transit with a key, and gives its address and a file with a token that may use it.
func transit(t testing.TB) (address, tokenFile, token string) {
	t.Helper()
	const root = "root-of-this-test-0123456789"
	cmd := exec.CommandContext(t.Context(), installed.Tool(t, "kmstest"))
	in, out := installed.Start(t, cmd)
	fmt.Fprintln(in, root)
	line, err := bufio.NewReader(out).ReadString('\n')
	var said struct{ Address string }
	if err != nil || json.Unmarshal([]byte(line), &said) != nil {
		t.Fatalf("kmstest says %q: %v", line, err)
	}
	token = "s.planted-token-for-transit-0123456789"
	as := http.Header{"X-Vault-Token": {root}}
	ordered(t, http.MethodPost, "http://"+said.Address+"/v1/transit/keys/tokenbroker", as, map[string]string{"type": "aes256-gcm96"}, nil)
	ordered(t, http.MethodPost, "http://"+said.Address+"/v1/test/token", as, map[string]any{"token": token, "rights": map[string][]string{
		"transit/keys/tokenbroker": {"read"}, "transit/encrypt/tokenbroker": {"update"}, "transit/decrypt/tokenbroker": {"update"},
	}}, nil)
	tokenFile = filepath.Join(shortDir(t), "token")
	if err := os.WriteFile(tokenFile, []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	return said.Address, tokenFile, token
}

// TestAKEKThatIsAwayAtTheStart: the broker waits for it, answers nothing before, and stores nothing under ids that would be others later. Later it is not missed.
func TestAKEKThatIsAwayAtTheStart(t *testing.T) {
	t.Parallel()
	address, tokenFile, token := transit(t)
	u := startUpstream(t)
	r := redistest.Start(t, redistest.Options{})
	for name, where := range map[string][]string{"embedded": nil, "redis": {"--store", r.URL()}} {
		t.Run(name, func(t *testing.T) {
			g := newGate(t, address)
			args := append([]string{"--data-dir", shortDir(t), "--keys-kek", "vault+http://" + g.address + "/transit/tokenbroker", "--keys-transit-token-file", tokenFile}, where...)
			s := u.serve(args...)
			s.waitFor("trying again until it can")
			early := []*proc{
				start(t, "token", "get", ochno, "--address", s.address),
				start(t, "credential", "apply", "-f", filepath.Join(u.dir, "credentials.yaml"), "--address", s.address),
				start(t, "credential", "list", "--address", s.address),
			}
			for _, p := range early {
				if p.code() != console.ExitTemporary || !strings.Contains(p.output(), "store cannot be reached") {
					t.Errorf("%v: got exit code %d and\n%s", p.cmd.Args[1:], p.code(), p.output())
				}
			}
			if p := start(t, "health", "--address", s.address); p.code() != console.ExitTemporary {
				t.Errorf("health: got exit code %d and\n%s", p.code(), p.output())
			}
			g.open()
			s.waitFor("the store can be asked now")
			if out := command(t, "credential", "list", "-o", "json", "--address", s.address); strings.Contains(out, ochno) {
				t.Errorf("something came into the store before there were keys: %s", out)
			}
			s.apply(u)
			g.shut()
			first, id := s.token()
			s.invalidate(id)
			if second, _ := s.token(); second == first {
				t.Error("the rejected token is still there")
			}
			g.open()
			s.kill()
			s = u.serve(args...)
			s.waitFor("answering on")
			if err := waitServing(t.Context(), s.address); err != nil {
				t.Fatal(err)
			}
			s.token()
			if strings.Contains(s.output(), token) {
				t.Error("the token of the KMS is in the log")
			}
		})
	}
}

// TestKeysInAWSKMS: a broker draws its keys at its first start, and has them at the next.
func TestKeysInAWSKMS(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), installed.Tool(t, "moto-venv/bin/moto_server"), "-H", "127.0.0.1", "-p", "0")
	cmd.Env = append(os.Environ(), "PYTHONUNBUFFERED=1")
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	address, drained := "", make(chan struct{})
	said := bufio.NewReader(out)
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-drained
		_ = cmd.Wait()
	})
	for running := regexp.MustCompile(`Running on http://(127\.0\.0\.1:\d+)`); address == ""; {
		line, err := said.ReadString('\n')
		if err != nil {
			close(drained)
			t.Fatalf("moto says nothing of where it listens: %v", err)
		}
		if found := running.FindStringSubmatch(line); found != nil {
			address = found[1]
		}
	}
	go func() {
		defer close(drained)
		_, _ = io.Copy(io.Discard, said)
	}()
	var made struct{ KeyMetadata struct{ Arn string } }
	ordered(t, http.MethodPost, "http://"+address+"/", http.Header{
		"Content-Type": {"application/x-amz-json-1.1"}, "X-Amz-Target": {"TrentService.CreateKey"},
		"Authorization": {"AWS4-HMAC-SHA256 Credential=AKIAADMINISTRATOR00/20260101/eu-west-1/kms/aws4_request, SignedHeaders=host, Signature=0"},
	}, struct{}{}, &made)
	credentials := filepath.Join(shortDir(t), "aws.json")
	if err := os.WriteFile(credentials, []byte(`{"Version": 1, "AccessKeyId": "AKIAPLANTED000000000", "SecretAccessKey": "planted-secret-access-key"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	u := startUpstream(t)
	args := []string{"--data-dir", shortDir(t), "--keys-kek", "aws-kms://" + made.KeyMetadata.Arn, "--keys-aws-endpoint", "http://" + address, "--keys-aws-credentials-file", credentials}
	s := u.serve(args...)
	s.apply(u)
	first, _ := s.token()
	s.kill()
	if strings.Contains(s.output(), "planted-secret-access-key") {
		t.Error("the secret of AWS is in the log")
	}
	if again, _ := u.serve(args...).token(); again != first {
		t.Error("the token from before is not there")
	}
}

// rewrapRows is how many rows a rewrap is killed in the middle of.
const rewrapRows = 5_000

// A filled store has rows under a key that another one has been promoted over, an hour ago.
type filled struct {
	former, uri string
	rows        int
	groupOf     func(broker.CredentialName) store.Group
}

// putKeys puts keys into a store, whatever keys it has.
func putKeys(t testing.TB, backend store.Backend, k seal.KEK, keys *seal.Keyring) {
	t.Helper()
	value, err := keys.Wrap(t.Context(), k)
	if err != nil {
		t.Fatal(err)
	}
	p := store.Put{Key: store.Key{Kind: "keyring"}, Revision: store.Revision(broker.NewID()), Value: value}
	if err := backend.Apply(t.Context(), store.Batch{Group: "meta", Puts: []store.Put{p}}); err != nil {
		t.Fatal(err)
	}
}

// fill makes a store whose first keys were drawn two hours ago. early is called when it has a few rows.
func fill(t testing.TB, backend store.Backend, rows int, early func(uri string)) filled {
	t.Helper()
	path := filepath.Join(shortDir(t), "kek.json")
	if err := kek.CreateFile(path); err != nil {
		t.Fatal(err)
	}
	out := filled{uri: "file://" + path}
	k, err := kek.Open(t.Context(), out.uri, kek.Settings{})
	if err != nil {
		t.Fatal(err)
	}
	put := func(keys *seal.Keyring) { putKeys(t, backend, k, keys) }
	keys, err := seal.New()
	if err != nil {
		t.Fatal(err)
	}
	if keys, err = keys.Adopted(time.Now().Add(-2 * time.Hour)); err != nil {
		t.Fatal(err)
	}
	put(keys)
	st, err := store.New(backend, nil, store.Options{KEK: k})
	if err != nil {
		t.Fatal(err)
	}
	following, end := context.WithCancel(t.Context())
	defer end()
	go st.FollowKeys(following)
	next := atomic.Int64{}
	create := func(most int64) {
		for n := next.Add(1); n <= most; n = next.Add(1) {
			name := broker.CredentialName(fmt.Sprintf("n%06d", n))
			err := st.CreateCredential(following, broker.Credential{
				Name: name, Provider: "officernd", Incarnation: broker.NewID(), Version: broker.NewID(), Epoch: broker.NewID(), Etag: broker.NewID(),
				Secrets: map[string]broker.SecretInput{"client_secret": {Value: broker.NewSecret("secret of " + string(name))}},
			}, &broker.Grant{RefreshToken: broker.NewSecret("refresh token of " + string(name))})
			if err != nil {
				t.Error(err)
				return
			}
		}
		next.Add(-1)
	}
	if early != nil {
		create(min(10, int64(rows/2)))
		early(out.uri)
	}
	var all sync.WaitGroup
	for range 64 {
		all.Go(func() { create(int64(rows / 2)) })
	}
	all.Wait()
	out.former, out.rows, out.groupOf = keys.ID(), rows/2*2, st.GroupOf
	if rows == 0 {
		return out
	}
	promoted, id, err := keys.Rotated(time.Now().Add(-2 * time.Hour))
	if err == nil {
		promoted, err = promoted.Promoted(id, time.Now().Add(-time.Hour))
	}
	if err != nil {
		t.Fatal(err)
	}
	put(promoted)
	return out
}

func redisDB(t testing.TB, url string) *redis.DB {
	t.Helper()
	a, err := redis.ParseAddress(url)
	if err != nil {
		t.Fatal(err)
	}
	db, err := redis.Open(redis.Options{Address: a, Prefix: "tokenbroker"})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// TestKilledWhileRewrapping: a broker is killed with -9 in the middle of a rewrap. Another one goes on from there, until nothing needs the former key; then that is
// retired, and what was exported before is refused by its name. TOKENBROKER_TEST_REWRAP has it do so with as many rows.
func TestKilledWhileRewrapping(t *testing.T) {
	rows := rewrapRows
	if n, err := strconv.Atoi(os.Getenv("TOKENBROKER_TEST_REWRAP")); err == nil {
		rows = n
	}
	for _, name := range []string{"embedded", "redis"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := shortDir(t)
			var where []string
			var db store.Backend
			var export func(uri string)
			before := filepath.Join(dir, "before")
			if name == "redis" {
				r := redistest.Start(t, redistest.Options{})
				where, db = []string{"--store", r.URL()}, redisDB(t, r.URL())
				export = func(uri string) {
					command(t, append([]string{"store", "export", before, "--data-dir", dir, "--keys-kek", uri}, where...)...)
					command(t, append([]string{"store", "export", "--resume", "--data-dir", dir, "--keys-kek", uri}, where...)...)
				}
			} else {
				var err error
				if db, err = bolt.Open(filepath.Join(dir, settings.DataFile), bolt.Options{}); err != nil {
					t.Fatal(err)
				}
			}
			began := time.Now()
			is := fill(t, db, rows, export)
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			t.Logf("%d rows are there after %v", is.rows, time.Since(began))
			withKEK := append([]string{"--keys-kek", is.uri}, where...)
			with := func(args ...string) []string { return append(args, withKEK...) }
			serve := func(dir string) *served {
				s := &served{proc: start(t, with("serve", "--data-dir", dir, "--listen", "127.0.0.1:0", "--metrics-listen", "none")...)}
				s.address = s.waitFor(`answering on (127\.0\.0\.1:\d+)`)
				if err := waitServing(t.Context(), s.address); err != nil {
					t.Fatal(err)
				}
				return s
			}
			other := dir
			first := serve(dir)
			if name == "redis" {
				other = shortDir(t)
				serve(other)
			}
			rewrap := start(t, "keys", "rewrap", "--data-dir", dir, "--rate", strconv.Itoa(rows/5))
			stands := func(dir string) (k settings.Keys) {
				if err := json.Unmarshal([]byte(command(t, "keys", "list", "--data-dir", dir, "-o", "json")), &k); err != nil {
					t.Fatal(err)
				}
				return k
			}
			for k := stands(dir); k.Rewrap == nil || k.Rewrap.Rows < rows/10; k = stands(dir) {
				if k.Rewrap != nil && k.Rewrap.Done {
					t.Fatalf("it is done already: %+v", k.Rewrap)
				}
			}
			first.kill()
			if rewrap.code() == 0 || !strings.Contains(rewrap.output(), "broke off") {
				t.Errorf("the rewrap: got exit code %d and\n%s", rewrap.code(), rewrap.output())
			}
			if name == "embedded" {
				serve(dir)
			}
			was := stands(other).Rewrap
			began = time.Now()
			rest := start(t, "keys", "rewrap", "--data-dir", other, "--rate", "0")
			<-rest.done
			took := time.Since(began)
			done := stands(other).Rewrap
			if rest.code() != 0 || done == nil || !done.Done || was == nil || was.Done || done.Rows < is.rows-rows/4 {
				t.Errorf("gone on from %+v: got %+v and exit code %d; want about %d rows", was, done, rest.code(), is.rows)
			}
			t.Logf("killed after %d of %d rows; the rest took %v", was.Rows, is.rows, took)
			if name == "redis" {
				<-time.After(31 * time.Second) // the reader of the one that was killed ends
			}
			command(t, "keys", "retire", is.former, "--data-dir", other)
			p := start(t, "keys", "destroy", is.former, "--data-dir", other)
			if p.code() != console.ExitPrecondition || !strings.Contains(p.output(), "can be destroyed from") {
				t.Errorf("destroy: got exit code %d and\n%s", p.code(), p.output())
			}
			if name == "redis" {
				p := start(t, with("store", "import", before, "--data-dir", dir)...)
				if p.code() == 0 || !strings.Contains(p.output(), is.former) {
					t.Errorf("import of what was exported before: got exit code %d and\n%s", p.code(), p.output())
				}
			}
			if out := command(t, "credential", "list", "--data-dir", other, "--filter", "provider = officernd", "-o", "json"); !strings.Contains(out, "n000001") {
				t.Error("a credential is missing")
			}
		})
	}
}

// TestRewrapNamesWhatNothingOpens: a row that was put where it does not belong keeps nobody else from being sealed anew, and who rewraps hears of it.
func TestRewrapNamesWhatNothingOpens(t *testing.T) {
	dir := shortDir(t)
	db, err := bolt.Open(filepath.Join(dir, settings.DataFile), bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	is := fill(t, db, 20, nil)
	key := store.Key{Kind: "grant"}
	read, err := db.List(t.Context(), []store.Group{is.groupOf("n000001")}, key.Kind)
	if err != nil || len(read) != 1 || len(read[0].Rows) != 1 {
		t.Fatalf("read: got %v, %v", read, err)
	}
	moved := store.Put{Key: key, Revision: store.Revision(broker.NewID()), Value: read[0].Rows[0].Value}
	if err := db.Apply(t.Context(), store.Batch{Group: is.groupOf("n000003"), Puts: []store.Put{moved}}); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	s := &served{proc: start(t, "serve", "--data-dir", dir, "--keys-kek", is.uri, "--listen", "127.0.0.1:0", "--metrics-listen", "none")}
	s.address = s.waitFor(`answering on (127\.0\.0\.1:\d+)`)
	if err := waitServing(t.Context(), s.address); err != nil {
		t.Fatal(err)
	}
	rewrap := start(t, "keys", "rewrap", "--data-dir", dir)
	if code, out := rewrap.code(), rewrap.output(); code != console.ExitFailure || !strings.Contains(out, "1 row left that nothing opens") ||
		!strings.Contains(out, "credential n000003") || strings.Contains(out, "all is sealed") {
		t.Errorf("rewrap: got exit code %d and\n%s", code, out)
	}
	retire := start(t, "keys", "retire", is.former, "--data-dir", dir)
	if code, out := retire.code(), retire.output(); code != console.ExitPrecondition || !strings.Contains(out, "the grant record of credential n000003") {
		t.Errorf("retire: got exit code %d and\n%s", code, out)
	}
	command(t, "credential", "delete", "n000003", "--yes", "--data-dir", dir)
	if out := command(t, "keys", "rewrap", "--data-dir", dir); !strings.Contains(out, "all is sealed with key") {
		t.Errorf("without it: got\n%s", out)
	}
	command(t, "keys", "retire", is.former, "--data-dir", dir)
}

// TestRotationUnderLoad: three brokers on one Redis go from one key to the next while callers ask all of them and tokens are refreshed all the time. No call fails.
func TestRotationUnderLoad(t *testing.T) {
	t.Parallel()
	u := startUpstream(t)
	r := redistest.Start(t, redistest.Options{})
	db := redisDB(t, r.URL())
	is := fill(t, db, 0, nil)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	var all []*served
	var dirs []string
	for range 3 {
		dir := shortDir(t)
		dirs = append(dirs, dir)
		all = append(all, u.serve("--data-dir", dir, "--store", r.URL(), "--keys-kek", is.uri))
	}
	all[0].apply(u)
	ctx, end := context.WithCancel(t.Context())
	var callers sync.WaitGroup
	var calls, exchanges atomic.Int64
	for i, s := range all {
		conn, err := dial(s.address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		c := tokenbrokerv1.NewTokenBrokerServiceClient(conn)
		for _, name := range []string{ochno, "officernd-1"} {
			for range 3 {
				callers.Go(func() {
					for ctx.Err() == nil {
						if _, err := c.GetToken(ctx, &tokenbrokerv1.GetTokenRequest{Credential: name}); err != nil && ctx.Err() == nil {
							t.Errorf("broker %d, %s: %v", i, name, err)
							return
						}
						calls.Add(1)
						<-time.After(20 * time.Millisecond)
					}
				})
			}
			callers.Go(func() { // somebody drops what there is, and another one is fetched
				for ctx.Err() == nil {
					if _, err := c.Invalidate(ctx, &tokenbrokerv1.InvalidateRequest{Credential: name, Target: &tokenbrokerv1.InvalidateRequest_All{All: true}}); err != nil && ctx.Err() == nil {
						t.Errorf("broker %d, %s: invalidate: %v", i, name, err)
						return
					}
					exchanges.Add(1)
					<-time.After(time.Second)
				}
			})
		}
	}
	until := func(what string, args ...string) string {
		t.Helper()
		for began := time.Now(); ; <-time.After(time.Second) {
			p := start(t, append([]string{"keys"}, args...)...)
			switch code := p.code(); {
			case code == 0:
				return p.output()
			case code != console.ExitPrecondition || time.Since(began) > 2*time.Minute:
				t.Fatalf("%s: got exit code %d and\n%s", what, code, p.output())
			}
		}
	}
	until("rotate", "rotate", "--data-dir", dirs[0])
	until("promote", "promote", "--data-dir", dirs[1])
	until("rewrap", "rewrap", "--data-dir", dirs[2])
	until("retire", "retire", is.former, "--data-dir", dirs[0])
	<-time.After(11 * time.Second) // all have noticed
	until("rewrap", "rewrap", "--data-dir", dirs[1])
	end()
	callers.Wait()
	if calls.Load() < 1000 || exchanges.Load() < 20 {
		t.Errorf("%d calls, %d exchanges: that is no load", calls.Load(), exchanges.Load())
	}
	t.Logf("%d calls, tokens were dropped %d times", calls.Load(), exchanges.Load())
	for i, s := range all {
		s.signal(syscall.SIGTERM)
		if code := s.code(); code != 0 || strings.Contains(s.output(), `"level":"ERROR"`) {
			t.Errorf("broker %d: got exit code %d", i, code)
		}
	}
}
