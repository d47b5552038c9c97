package audit

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tokenbroker/tokenbroker/broker"
)

// roles are what the test binary is as another process: by a variable of its environment, whose value is a directory.
var roles = map[string]func(dir string){}

func TestMain(m *testing.M) {
	for name, role := range roles {
		if dir := os.Getenv(name); dir != "" {
			role(dir)
			os.Exit(0)
		}
	}
	goleak.VerifyTestMain(m)
}

// A told is a line as somebody reads it who knows no more than docs/audit.md.
type told struct {
	V      int       `json:"v"`
	Time   time.Time `json:"time"`
	Boot   string    `json:"boot"`
	Seq    uint64    `json:"seq"`
	Caller caller    `json:"caller"`
	line
}

// read reads lines, each of which has to be one. Empty ones are what follows a torn line.
func read(t *testing.T, text []byte) []told {
	t.Helper()
	var all []told
	for raw := range strings.Lines(string(text)) {
		if raw == "\n" {
			continue
		}
		all = append(all, readLine(t, raw))
	}
	return all
}

func readLine(t *testing.T, raw string) told {
	t.Helper()
	var l told
	if err := json.Unmarshal([]byte(raw), &l); err != nil || !strings.HasSuffix(raw, "\n") {
		t.Fatalf("no line: %q: %v", raw, err)
	}
	if l.V != 1 || l.Time.IsZero() || len(l.Boot) != 32 || l.Seq == 0 || l.Event == "" || l.Outcome == "" {
		t.Errorf("got %s", raw)
	}
	return l
}

func readFile(t *testing.T, path string) []told {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return read(t, text)
}

// inOrder fails if a line of one process is missing, is there twice, or in the wrong place. A gap stands for those that it counts.
func inOrder(t *testing.T, all []told) {
	t.Helper()
	next := map[string]uint64{}
	for _, l := range all {
		if next[l.Boot]++; l.Event == gap {
			next[l.Boot] += uint64(l.Count) - 1
		}
		if l.Seq != next[l.Boot] {
			t.Fatalf("line %d of %s is where %d belongs", l.Seq, l.Boot, next[l.Boot])
		}
	}
}

// an is a log; the test closes it.
func an(t testing.TB, s Settings) *Log {
	t.Helper()
	l, err := New(s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

func inFile(t testing.TB) (*Log, string) {
	path := filepath.Join(t.TempDir(), "audit.log")
	return an(t, Settings{File: path}), path
}

// A page is standard output that somebody reads.
type page struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (p *page) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.Write(b)
}

func (p *page) lines(t *testing.T) []told {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	return read(t, bytes.Clone(p.text.Bytes()))
}

var (
	shop  = broker.NewCaller(broker.SPIFFE, "corp.example", "ns/shop/sa/cart", broker.ProofX509, "services")
	other = broker.NewCaller(broker.SPIFFE, "corp.example", "ns/shop/sa/other", broker.ProofX509, "services")
	local = broker.NewCaller(broker.Unix, "", "1001", broker.ProofPeer, broker.Machine)
)

func change() broker.AuditRecord {
	return broker.AuditRecord{Event: broker.AuditUpdated, Caller: local, Operation: broker.WriteCredential, Credential: "main", Provider: "occtoo", Rule: "operators", Fields: []string{"labels"}}
}

func issue(by *broker.Caller, token string) broker.AuditRecord {
	return broker.AuditRecord{Event: broker.AuditIssued, Caller: by, Operation: broker.GetToken, Credential: "main", Provider: "occtoo", Rule: "shop", TokenID: token, Granted: []string{"products.read"}}
}

func denial(by *broker.Caller, credential string) broker.AuditRecord {
	return broker.AuditRecord{
		Event: broker.AuditDenied, Outcome: &broker.Failure{Kind: broker.CallerNotAllowed, Detail: "a detail"}, Caller: by, Operation: broker.GetToken, Credential: broker.CredentialName(credential),
	}
}

// intends has a change written down, and done.
func intends(t testing.TB, l *Log) {
	t.Helper()
	done, err := l.Intend(t.Context(), change())
	if err != nil {
		t.Fatal(err)
	}
	done(0, nil)
}

// refuses fails unless a change is refused.
func refuses(t testing.TB, l *Log) {
	t.Helper()
	done, err := l.Intend(t.Context(), change())
	if broker.KindOf(err) != broker.AuditUnavailable || done != nil {
		t.Fatalf("got %v", err)
	}
	if strings.Contains(err.Error(), "/") {
		t.Errorf("a path is nobody's business: %v", err)
	}
}

// heals waits until changes are let through again.
func heals(t testing.TB, l *Log) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; {
		done, err := l.Intend(t.Context(), change())
		if err == nil {
			done(0, nil)
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("it does not heal: %v", err)
		}
	}
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func readText(path string) (string, error) {
	b, err := os.ReadFile(path)
	return string(b), err
}

// issueOf is a line of some length that nothing counts.
func issueOf(detail string) broker.AuditRecord {
	return broker.AuditRecord{Event: broker.AuditExchange, Credential: "main", Detail: detail}
}
