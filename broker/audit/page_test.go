package audit

import (
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/installed"
)

func docs(t *testing.T) string {
	t.Helper()
	text, err := readText("../../docs/audit.md")
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestThePageNamesEveryMember.
func TestThePageNamesEveryMember(t *testing.T) {
	text := docs(t)
	n := 0
	for _, of := range []reflect.Type{reflect.TypeFor[line](), reflect.TypeFor[caller]()} {
		for f := range of.Fields() {
			n++
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if name != "caller" && !strings.Contains(text, "`"+name+"`") && !strings.Contains(text, "`."+name+"`") && !strings.Contains(text, "`caller."+name+"`") {
				t.Errorf("%s is not there", name)
			}
		}
	}
	if n < 20 {
		t.Errorf("%d members", n)
	}
}

var command = regexp.MustCompile("(?s)```sh\n(jq .*?)\n```")

// TestThePagesQuestionsAreAnswered: by jq, of a log with a torn line in it.
func TestThePagesQuestionsAreAnswered(t *testing.T) {
	installed.Tool(t, "jq")
	dir := t.TempDir()
	path := filepath.Join(dir, "audit.log")
	writeFile(t, path, `{"v":1,"torn`)
	l := an(t, Settings{File: path})
	r := issue(shop, "t0")
	r.Credential = "occtoo-main"
	for range 5 {
		if _, err := l.Use(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		l.Note(t.Context(), denial(other, "occtoo-main"))
	}
	l.Note(t.Context(), broker.AuditRecord{Event: broker.AuditUnauthenticated, Outcome: broker.CallerUnauthenticated, Listener: "services", Peer: "10.0.0.7:51123"})
	done, err := l.Intend(t.Context(), change())
	if err != nil {
		t.Fatal(err)
	}
	done(0, broker.EtagMismatch)
	l.Close()
	day := readFileFrom(t, path)[0].Time.Format("2006-01-02")
	want := []string{
		shop.Identity + "\t5\n",
		"3\t" + other.Identity + "\tget_token\tocctoo-main\n1\t10.0.0.7\t-\t-\n",
		"\tunix:1001\tcredential.updated\tmain\tlabels\tfailed\tetag_mismatch\n",
	}
	questions := command.FindAllStringSubmatch(docs(t), -1)
	if len(questions) != len(want) {
		t.Fatalf("%d questions", len(questions))
	}
	for i, q := range questions {
		cmd := exec.Command("sh", "-c", strings.ReplaceAll(q[1], "2026-03-01", day))
		cmd.Dir, cmd.Stderr = dir, os.Stderr
		out, err := cmd.Output()
		got := strings.ReplaceAll(string(out), ":51123", "")
		if i == 2 {
			_, got, _ = strings.Cut(got, "Z")
		}
		if err != nil || got != want[i] {
			t.Errorf("%s\ngot %q %v, want %q", q[1], got, err, want[i])
		}
	}
}

func readFileFrom(t *testing.T, path string) []told {
	t.Helper()
	text, err := readText(path)
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ = strings.Cut(text, "\n")
	return read(t, []byte(text))
}
