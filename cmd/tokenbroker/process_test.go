package main

import (
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/status"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/internal/installed"
	"github.com/tokenbroker/tokenbroker/internal/upstreamsim"
)

const ochno = "ochno-operated-1"

// apply stores the simulator's credentials.
func (s *served) apply(u *upstream) {
	s.t.Helper()
	out := command(s.t, "credential", "apply", "-f", filepath.Join(u.dir, "credentials.yaml"), "--address", s.address)
	if !strings.Contains(out, "+ "+ochno) {
		s.t.Fatalf("apply: got\n%s\nwant %s in it", out, ochno)
	}
}

// token gets one with its id.
func (s *served) token() (token, id string) {
	s.t.Helper()
	var got struct {
		Token struct {
			AccessToken string `json:"access_token"`
			TokenID     string `json:"token_id"`
		} `json:"token"`
	}
	out := command(s.t, "token", "get", ochno, "-o", "json", "--address", s.address)
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		s.t.Fatal(err)
	}
	if got.Token.AccessToken == "" || got.Token.TokenID == "" {
		s.t.Fatal("no token")
	}
	return got.Token.AccessToken, got.Token.TokenID
}

func (s *served) invalidate(id string) {
	s.t.Helper()
	if out := command(s.t, "token", "invalidate", ochno, "--token-id", id, "--address", s.address); out != "invalidated 1\n" {
		s.t.Fatalf("got %q, want one invalidated", out)
	}
}

func wantLedger(t *testing.T, u *upstream, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, u.ledger(upstreamsim.OchnoOperated)); diff != "" {
		t.Errorf("ledger (-want +got):\n%s", diff)
	}
}

// TestGrpcurl drives a broker with a real grpcurl.
func TestGrpcurl(t *testing.T) {
	t.Parallel()
	curl := installed.Tool(t, "grpcurl")
	u := startUpstream(t)
	s := u.serve()
	s.apply(u)
	call := func(method, data string) map[string]any {
		t.Helper()
		var got map[string]any
		if err := json.Unmarshal([]byte(runs(t, curl, "-plaintext", "-d", data, s.address, method)), &got); err != nil {
			t.Fatal(err)
		}
		return got
	}
	if out := runs(t, curl, "-plaintext", s.address, "list"); !strings.Contains(out, "tokenbroker.v1.TokenBrokerService\n") {
		t.Errorf("list: got\n%s", out)
	}
	get := func() (string, string) {
		t.Helper()
		token, _ := call("tokenbroker.v1.TokenBrokerService/GetToken", `{"credential": "`+ochno+`"}`)["token"].(map[string]any)
		access, _ := token["accessToken"].(string)
		id, _ := token["tokenId"].(string)
		return access, id
	}
	first, id := get()
	if again, _ := get(); first == "" || again != first {
		t.Errorf("got %d and %d bytes, want the same token twice", len(first), len(again))
	}
	if got := call("tokenbroker.v1.TokenBrokerService/Invalidate", `{"credential": "`+ochno+`", "token_id": "`+id+`"}`); got["invalidated"] != 1.0 {
		t.Errorf("got %v, want 1 invalidated", got)
	}
	if second, _ := get(); second == first {
		t.Error("the invalidated token is still there")
	}
	wantLedger(t, u, "issued 1.1", "delivered 1.1", "presented 1.1", "spent 1.1", "issued 1.2", "delivered 1.2")
	if out := command(t, "credential", "status", ochno, "--address", s.address); !strings.Contains(out, "last success") || !strings.Contains(out, "operated.ochno.com") {
		t.Errorf("status: got\n%s", out)
	}
	s.signal(syscall.SIGHUP)
	s.waitFor("definitions reloaded")
}

// TestGrpcurlWithACertificate: a service and an operator by mutual TLS, with what certs dev makes. Services show no reflection: the contract's files say what there is.
func TestGrpcurlWithACertificate(t *testing.T) {
	t.Parallel()
	curl, dir := installed.Tool(t, "grpcurl"), shortDir(t)
	certs := filepath.Join(dir, "certs")
	command(t, "certs", "dev", certs, "shop")
	settings := filepath.Join(certs, "settings.yaml")
	text, err := os.ReadFile(settings)
	if err != nil {
		t.Fatal(err)
	}
	ports, err := freePorts(2)
	if err != nil {
		t.Fatal(err)
	}
	text = []byte(strings.NewReplacer("127.0.0.1:7430", "127.0.0.1:"+ports[0], "127.0.0.1:7431", "127.0.0.1:"+ports[1]).Replace(string(text)))
	if err := errors.Join(os.WriteFile(settings, text, 0o600), os.Mkdir(filepath.Join(dir, "providers"), 0o700), os.WriteFile(filepath.Join(dir, "providers", "static.yaml"),
		[]byte("name: static\ninputs:\n  api_key: {secret: true, handed_out: true}\ntoken: \"{{api_key}}\"\nlifetime: 1h\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	s := start(t, "serve", "--config", settings, "--data-dir", filepath.Join(dir, "d"), "--metrics-listen", "none", "--providers-dir", filepath.Join(dir, "providers"))
	s.waitFor(`answering on `)
	as := func(who string, args ...string) *exec.Cmd {
		in := func(name string) string { return filepath.Join(certs, name) }
		return exec.CommandContext(t.Context(), curl, append([]string{"-cacert", in("ca.pem"), "-cert", in(who + ".pem"), "-key", in(who + ".key")}, args...)...)
	}
	services, operators := "127.0.0.1:"+ports[0], "127.0.0.1:"+ports[1]
	contract := []string{"-import-path", "../../proto", "-import-path", "../../third_party/protovalidate", "-proto", "tokenbroker/v1/token_broker_service.proto"}
	for _, tt := range []struct {
		name  string
		cmd   *exec.Cmd
		wants string
	}{
		{"an operator creates", as("ops", "-d", `{"credential": {"name": "one", "provider": "static", "labels": {"env": "prod"}}, "secrets": {"api_key": "t0ken"}}`,
			operators, "tokenbroker.v1.CredentialService/CreateCredential"), `"name": "one"`},
		{"an operator lists", as("ops", operators, "tokenbroker.v1.CredentialService/ListCredentials"), `"name": "one"`},
		{"a service gets a token", as("shop", append(contract, "-d", `{"credential": "one"}`, services, "tokenbroker.v1.TokenBrokerService/GetToken")...), `"accessToken": "t0ken"`},
		{"a service is no operator", as("shop", operators, "tokenbroker.v1.CredentialService/ListCredentials"), "PermissionDenied"},
		{"a service has no reflection", as("shop", services, "list"), "does not support the reflection API"},
		{"without a certificate", exec.CommandContext(t.Context(), curl, append(append([]string{"-cacert", filepath.Join(certs, "ca.pem")}, contract...), "-d", `{"credential": "one"}`,
			services, "tokenbroker.v1.TokenBrokerService/GetToken")...), "Unauthenticated"},
	} {
		if out, _ := tt.cmd.CombinedOutput(); !strings.Contains(string(out), tt.wants) { // it fails where the call does
			t.Errorf("%s: got %s, want %s", tt.name, out, tt.wants)
		}
	}
}

// TestNothingIsUnpacked: whoever sends what is compressed is told that nobody here knows how, also by a broker that has a collector.
func TestNothingIsUnpacked(t *testing.T) {
	t.Parallel()
	ports, err := freePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, "serve", "--data-dir", shortDir(t), "--listen", "127.0.0.1:0", "--metrics-listen", "none", "--traces-collector", "http://127.0.0.1:"+ports[0])
	conn, err := dial(s.waitFor(`answering on (127\.0\.0\.1:\d+)`))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = tokenbrokerv1.NewTokenBrokerServiceClient(conn).GetToken(t.Context(), &tokenbrokerv1.GetTokenRequest{Credential: "main"}, grpc.UseCompressor(gzip.Name), grpc.WaitForReady(true))
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("got %v", err)
	}
}

// TestKill: what was committed survives kill -9, and the newest refresh token is the one that is presented next.
func TestKill(t *testing.T) {
	t.Parallel()
	u := startUpstream(t)
	s := u.serve()
	s.apply(u)
	_, id := s.token()
	s.invalidate(id)
	token, _ := s.token()
	s.kill()

	s = u.serve()
	if out := command(t, "credential", "list", "--address", s.address); strings.Count(out, "\n") != 1+len(upstreamsim.Systems()) {
		t.Errorf("got\n%s\nwant all credentials", out)
	}
	again, id := s.token()
	if again != token {
		t.Error("got another token than before the kill")
	}
	s.invalidate(id)
	if third, _ := s.token(); third == token {
		t.Error("the invalidated token is still there")
	}
	wantLedger(t, u, "issued 1.1", "delivered 1.1", "presented 1.1", "spent 1.1", "issued 1.2", "delivered 1.2",
		"presented 1.2", "spent 1.2", "issued 1.3", "delivered 1.3")
}

// TestKillWhileRefreshing: whether the refresh token is spent is unknown after that. It is not presented again, and the caller gets
// a token.
func TestKillWhileRefreshing(t *testing.T) {
	for name, after := range map[string]string{"before it is spent": "", "after it is spent": "&after=true"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u := startUpstream(t)
			s := u.serve()
			s.apply(u)
			_, id := s.token()
			u.control(http.MethodPost, "/fault?kind=hang&count=1&system=ochno-operated"+after)
			s.invalidate(id)
			waiting := start(t, "token", "get", ochno, "--address", s.address)
			u.waitFor(`fault .*\(hang\)`)
			if after != "" {
				u.waitFor("spent ")
			}
			s.kill()
			if got := waiting.code(); got != console.ExitUnreachable {
				t.Errorf("the caller: got exit code %d, want %d", got, console.ExitUnreachable)
			}
			u.control(http.MethodPost, "/clear")

			s = u.serve()
			_, id = s.token()
			ledger := u.ledger(upstreamsim.OchnoOperated)
			presented := slices.DeleteFunc(slices.Clone(ledger), func(e string) bool { return !strings.HasPrefix(e, "presented 1.") })
			if len(presented) > 1 || slices.ContainsFunc(ledger, func(e string) bool { return strings.HasPrefix(e, "reused") }) {
				t.Errorf("the uncertain refresh token was presented again: %v", ledger)
			}
			// The new one works.
			s.invalidate(id)
			s.token()
			if ledger = u.ledger(upstreamsim.OchnoOperated); !slices.Contains(ledger, "spent 2.1") || !slices.Contains(ledger, "delivered 2.2") {
				t.Errorf("got %v, want family 2 refreshed", ledger)
			}
		})
	}
}

// TestTerminate: a broker that is told to stop commits what is under way, and its waiting caller gets the token.
func TestTerminate(t *testing.T) {
	t.Parallel()
	u := startUpstream(t)
	s := u.serve("--shutdown-timeout", patience.String())
	s.apply(u)
	_, id := s.token()
	u.control(http.MethodPost, "/fault?kind=hang&count=1&system=ochno-operated")
	s.invalidate(id)
	waiting := start(t, "token", "get", ochno, "--address", s.address)
	u.waitFor(`fault .*\(hang\)`)
	s.signal(syscall.SIGTERM)
	s.waitFor(`"msg":"stopping`)
	u.control(http.MethodPost, "/clear")
	if got := waiting.code(); got != console.ExitOK {
		t.Errorf("the caller: got exit code %d, want 0", got)
	}
	if got := s.code(); got != console.ExitOK {
		t.Errorf("the broker: got exit code %d, want 0", got)
	}

	s = u.serve()
	token, id := s.token()
	if token+"\n" != waiting.output() {
		t.Error("got another token than the one that was delivered during the stop")
	}
	s.invalidate(id)
	s.token()
	wantLedger(t, u, "issued 1.1", "delivered 1.1", "presented 1.1", "spent 1.1", "issued 1.2", "delivered 1.2",
		"presented 1.2", "spent 1.2", "issued 1.3", "delivered 1.3")
}

// TestTerminateAtOnce: a stop ends when its timeout is over, or at a second signal.
func TestTerminateAtOnce(t *testing.T) {
	for name, timeout := range map[string]string{"timeout": "10ms", "second signal": "10m"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u := startUpstream(t)
			s := u.serve("--shutdown-timeout", timeout, "--exchange-timeout", "10m")
			s.apply(u)
			u.control(http.MethodPost, "/fault?kind=hang&system=ochno-operated")
			waiting := start(t, "token", "get", ochno, "--address", s.address)
			u.waitFor(`fault .*\(hang\)`)
			s.signal(syscall.SIGTERM)
			s.waitFor(`"msg":"stopping`)
			if name == "second signal" {
				s.signal(syscall.SIGTERM) // the same stop: timeout(1) sends two
				s.stopAtOnce()
				s.waitFor("stopped at once, at a second signal")
				if got := s.code(); got != console.ExitFailure {
					t.Errorf("got exit code %d, want %d", got, console.ExitFailure)
				}
			}
			s.code()
			if got := waiting.code(); got == console.ExitOK {
				t.Error("the caller got a token that nobody issued")
			}
		})
	}
}

// TestTwoSignalsAtOnceAreOneStop: timeout(1) and some supervisors send one to the process and one to its group, and what is under way is
// committed all the same.
func TestTwoSignalsAtOnceAreOneStop(t *testing.T) {
	t.Parallel()
	u := startUpstream(t)
	s := u.serve("--shutdown-timeout", patience.String())
	s.apply(u)
	u.control(http.MethodPost, "/fault?kind=hang&count=1&system=ochno-operated")
	waiting := start(t, "token", "get", ochno, "--address", s.address)
	u.waitFor(`fault .*\(hang\)`)
	s.signal(syscall.SIGTERM)
	s.waitFor(`"msg":"stopping`)
	s.signal(syscall.SIGTERM)
	u.control(http.MethodPost, "/clear")
	if got := waiting.code(); got != console.ExitOK {
		t.Errorf("the caller: got exit code %d, want 0", got)
	}
	if got := s.code(); got != console.ExitOK {
		t.Errorf("the broker: got exit code %d, want 0", got)
	}
}

// TestHostileFilesBesideDefinitions: whatever lies in providers_dir, the broker starts, reads it again, serves what is right, and stops.
func TestHostileFilesBesideDefinitions(t *testing.T) {
	t.Parallel()
	u, dir := startUpstream(t), t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name+".yaml") }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(syscall.Mkfifo(file("pipe"), 0o600))
	must(os.Symlink("/dev/zero", file("endless")))
	must(os.Symlink("loop.yaml", file("loop")))
	must(os.WriteFile(file("hole"), nil, 0o600))
	must(os.Truncate(file("hole"), 1<<40))
	must(os.WriteFile(file("right"), []byte("name: right\ntoken: constant-{{x}}\ninputs: {x: {}}\n"), 0o600))
	must(os.WriteFile(file("foreign"), []byte("password: hunter2\n"), 0o600))
	s := u.serve("--providers-dir", dir)
	list := command(t, "provider", "list", "--address", s.address)
	for name, why := range map[string]string{
		"pipe": "it is not a regular file", "endless": "it is not a regular file", "hole": "it is larger than 1048576 bytes", "loop": "the file cannot be read",
	} {
		if !strings.Contains(list, why) {
			t.Errorf("%s: %q does not say %q", name, list, why)
		}
	}
	shown := start(t, "provider", "show", "foreign", "--address", s.address)
	shown.code()
	if strings.Contains(shown.output()+list, "hunter2") {
		t.Errorf("what is no definition is shown to callers: %s", shown.output())
	}
	must(os.WriteFile(file("late"), []byte("name: late\ntoken: constant-{{x}}\ninputs: {x: {}}\n"), 0o600))
	s.signal(syscall.SIGHUP)
	s.waitFor(`"msg":"definitions reloaded"`)
	for _, name := range []string{"right", "late"} {
		if out := command(t, "provider", "show", name, "--address", s.address); !strings.Contains(out, name) {
			t.Errorf("%s: got %q", name, out)
		}
	}
	s.signal(syscall.SIGTERM)
	if got := s.code(); got != console.ExitOK {
		t.Errorf("got exit code %d, want 0", got)
	}
}

// TestTheAuditLogIsRotated as logrotate does it: the file is moved away, and opened anew at SIGHUP. What cannot be written down is not done, until it can be.
func TestTheAuditLogIsRotated(t *testing.T) {
	t.Parallel()
	u := startUpstream(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "audit.jsonl")
	s := u.serve("--audit-file", file)
	s.apply(u)
	read := func(name string) string {
		t.Helper()
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	if before := read(file); !strings.Contains(before, `"event":"credential.created","outcome":"intent"`) || !strings.Contains(before, `"event":"credential.created","outcome":"ok","of":`) {
		t.Errorf("got %.2000s", before)
	}
	if err := os.Rename(file, file+".1"); err != nil {
		t.Fatal(err)
	}
	s.signal(syscall.SIGHUP)
	s.waitFor(`"msg":"definitions reloaded"`)
	command(t, "credential", "update", ochno, "--label", "a=b", "--address", s.address)
	if now, former := read(file), read(file+".1"); !strings.Contains(now, `"fields":["labels.a"]`) || strings.Contains(former, "credential.updated") {
		t.Errorf("got %.2000s, and before that %.2000s", now, former)
	}
	s.signal(syscall.SIGTERM)
	if got := s.code(); got != console.ExitOK {
		t.Errorf("got exit code %d, want 0", got)
	}
	for _, l := range strings.SplitAfter(strings.TrimSuffix(read(file+".1")+read(file), "\n"), "\n") {
		if !json.Valid([]byte(l)) {
			t.Errorf("%q is no JSON", l)
		}
	}
}

// TestDemo: the show as a process of its own.
func TestDemo(t *testing.T) {
	t.Parallel()
	out := command(t, "demo", "--once")
	for _, s := range upstreamsim.Systems() {
		if got := firstGroup(t.Fatalf, `(?m)^`+string(s)+` +(\d+) `, out); got != "1" {
			t.Errorf("%s: got %s exchanges, want 1", s, got)
		}
	}
	if !strings.Contains(out, "200 callers at once") || !strings.Contains(out, "Everything is as promised.") || strings.Contains(out, "FAIL") {
		t.Errorf("got\n%s", out)
	}
}

// TestDemoStaysUp until it is interrupted, with commands to try.
func TestDemoStaysUp(t *testing.T) {
	t.Parallel()
	d := start(t, "demo", "--callers", "3")
	address := d.waitFor(`grpcurl -plaintext (127\.0\.0\.1:\d+) list`)
	d.waitFor("/metrics")
	if out := command(t, "credential", "list", "--address", address); !strings.Contains(out, "officernd ") {
		t.Errorf("got\n%s\nwant officernd", out)
	}
	d.signal(syscall.SIGINT)
	if got := d.code(); got != console.ExitOK {
		t.Errorf("got exit code %d, want 0", got)
	}
}

// TestWatch: a watch says what happens to the token, and an interruption is how it ends.
func TestWatch(t *testing.T) {
	t.Parallel()
	u := startUpstream(t)
	s := u.serve()
	s.apply(u)
	_, id := s.token()
	for _, output := range []string{"text", "json"} {
		w := start(t, "token", "watch", ochno, "--address", s.address, "--output", output)
		w.waitFor(id)
		s.invalidate(id)
		w.waitFor(`invalidated.*` + id)
		_, id = s.token()
		w.waitFor(id)
		w.signal(syscall.SIGINT)
		if got := w.code(); got != console.ExitOK {
			t.Errorf("%s: got exit code %d, want 0", output, got)
		}
	}
	u.signal(syscall.SIGINT)
	if got := u.code(); got != console.ExitOK {
		t.Errorf("the upstream: got exit code %d, want 0", got)
	}
}
