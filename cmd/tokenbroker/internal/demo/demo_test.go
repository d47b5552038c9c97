package demo

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/internal/upstreamsim"
)

// TestUpstreamDeletesWhatIsItsOwn: the printed settings put a broker's data into the directory, which outlive the simulator.
func TestUpstreamDeletesWhatIsItsOwn(t *testing.T) {
	sim, err := upstreamsim.New(upstreamsim.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := sim.Start(); err != nil {
		t.Fatal(err)
	}
	defer sim.Close()
	for _, brokers := range []bool{false, true} {
		dir := filepath.Join(t.TempDir(), "upstream")
		data := filepath.Join(dir, "data", "tokenbroker.db")
		for _, d := range []string{filepath.Join(dir, secretsDir), filepath.Dir(data)} {
			if err := os.MkdirAll(d, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		if !brokers {
			if err := os.Remove(filepath.Dir(data)); err != nil {
				t.Fatal(err)
			}
		} else if err := os.WriteFile(data, []byte("a broker's"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := writeDemoFiles(dir, sim, sim.Addr(), ""); err != nil {
			t.Fatal(err)
		}
		var said bytes.Buffer
		leave(&said, dir)
		_, err := os.Stat(data)
		if brokers && (err != nil || !strings.Contains(said.String(), dir)) {
			t.Errorf("the broker's data: %v; said %q", err, &said)
		}
		if left, err := os.ReadDir(dir); brokers && (err != nil || len(left) != 1) || !brokers && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("with a broker's data %v: left %v, %v", brokers, left, err)
		}
	}
}

func TestMask(t *testing.T) {
	for in, want := range map[string]string{
		"": "…", "short": "…", "elevenchars": "…", "twelve-chars": "twe…", "a-long-secret-value": "a-l…",
	} {
		if got := mask(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
	got := presentedAs(&tokenbrokerv1.Token{
		Headers:         []*tokenbrokerv1.Header{{Name: "Authorization", Value: "Bearer 0123456789abcdef"}, {Name: "X-Key", Value: "0123456789abcdef"}, {Name: "User-Agent", Value: "agent"}},
		Cookies:         []*tokenbrokerv1.Cookie{{Name: "c", Value: "0123456789abcdef"}},
		QueryParameters: []*tokenbrokerv1.QueryParameter{{Name: "q", Value: "0123456789abcdef"}},
	})
	if want := "Authorization: Bearer 012…, X-Key: 012…, User-Agent: agent, cookie c=012…, ?q=012…"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
