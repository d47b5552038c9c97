package store_test

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/redistest"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/bolt"
	"github.com/tokenbroker/tokenbroker/store/redis"
	"github.com/tokenbroker/tokenbroker/store/seal"
)

// formerFile reads a file that testdata/former/README.md tells of.
func formerFile(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "former", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func formerKeys(t *testing.T) *seal.Keyring {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key.json")
	if err := os.WriteFile(path, formerFile(t, "key.json"), 0o600); err != nil {
		t.Fatal(err)
	}
	keys, err := seal.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// formerBackends open what a former version stored.
var formerBackends = map[string]func(t *testing.T) store.Backend{
	"embedded": func(t *testing.T) store.Backend {
		unzip, err := gzip.NewReader(bytes.NewReader(formerFile(t, "embedded.db.gz")))
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(unzip)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "tokenbroker.db")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		db, err := bolt.Open(path, bolt.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = db.Close() })
		return db
	},
	"redis": func(t *testing.T) store.Backend {
		server := redistest.Start(t, redistest.Options{})
		for line := range strings.Lines(string(formerFile(t, "redis.txt"))) {
			command := strings.Fields(line)
			last, err := base64.StdEncoding.DecodeString(command[len(command)-1])
			if err != nil {
				t.Fatal(err)
			}
			if _, err := server.Do(append(command[:len(command)-1], string(last))...); err != nil {
				t.Fatal(err)
			}
		}
		address, err := redis.ParseAddress(server.URL())
		if err != nil {
			t.Fatal(err)
		}
		db, err := redis.Open(redis.Options{Address: address})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = db.Close() })
		return db
	},
}

func openFormer(t *testing.T, backend store.Backend) *store.Store {
	t.Helper()
	s, err := store.New(backend, formerKeys(t), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestWhatAFormerVersionStoredIsThere: all of it, and nothing is known of it that was not written down.
func TestWhatAFormerVersionStoredIsThere(t *testing.T) {
	for name, open := range formerBackends {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := openFormer(t, open(t))
			all, err := s.Credentials(t.Context(), "", 100)
			if err != nil {
				t.Fatal(err)
			}
			var names []broker.CredentialName
			for _, c := range all {
				names = append(names, c.Name)
			}
			statuses, err := s.Statuses(t.Context(), names)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, st := range statuses {
				got = append(got, told(t, st)...)
			}
			want := []string{
				"away client: 1 attempts",
				"keyed keyed: 3 attempts, worked",
				"  grant keyed.a#1 used", "  grant keyed.b#0", "  token access of keyed.a#1", "  token access of keyed.b#0",
				"marked rotating: 0 attempts",
				"  grant marked.#0 used marked",
				"marked-keyed keyed: 1 attempts, worked",
				"  grant marked-keyed.a#0 used marked", "  token access of marked-keyed.a#0 rejected",
				"plain client: 1 attempts, worked",
				"  former secret of plain", "  token access of plain.#0",
				"refused client: 1 attempts",
				"  failure credential_misconfigured invalid_client until 2090",
				"rejected client: 1 attempts, worked",
				"  token access of rejected.#0 rejected",
				"rotated rotating: 3 attempts, worked",
				"  grant rotated.#3 used", "  token access of rotated.#3",
				"suspended rotating: 1 attempts, worked",
				"  grant suspended.#1 used", "  token access of suspended.#1",
				"too-much client: 1 attempts",
				"uncertain rotating: 1 attempts",
				"  grant uncertain.#0 used uncertain",
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("what is stored (-want +got):\n%s", diff)
			}
			if at, err := s.Suspended(t.Context()); err != nil || at.IsZero() {
				t.Errorf("suspended: got %v, %v", at, err)
			}
			v, err := s.Read(t.Context(), broker.TokenKey{Credential: "away"}, upstreamAway(s))
			if b := v.Upstream; err != nil || b.Failures != 1 || b.Until.Year() != 2090 || b.Last.UpstreamStatus != 503 {
				t.Errorf("backoff: got %+v, %v", b, err)
			}
			for name, most := range map[broker.CredentialName]int{"rotated": 3, "plain": 1, "refused": 1, "marked": 0} {
				if r, err := s.Receipts(t.Context(), name); err != nil || len(r) != 17*most {
					t.Errorf("%s: got %d bytes of receipts, %v, want %d", name, len(r), err, 17*most)
				}
			}
		})
	}
}

// upstreamAway is what the engine calls the upstream of "away".
func upstreamAway(s *store.Store) string {
	where := s.Fingerprint("upstream", "host", "away.example:443")
	return fmt.Sprintf("client@away.example:443#%x", where[:8])
}

// told is a status for people.
func told(t *testing.T, st broker.Status) []string {
	t.Helper()
	c := st.Credential
	if st.Err != nil || c.Labels["made"] != "by-the-former" || c.Inputs["host"] != string(c.Name)+".example:443" || c.CreateTime.IsZero() ||
		len(st.Attempts) > 0 && (st.Attempts[0].Start.IsZero() || st.Attempts[0].Host != c.Inputs["host"]) {
		t.Errorf("%s: got %+v", c.Name, st)
	}
	head, secret := fmt.Sprintf("%s %s: %d attempts", c.Name, c.Provider, len(st.Attempts)), "secret of "+string(c.Name)
	if !st.LastSuccess.IsZero() {
		head += ", worked"
	}
	all := []string{head}
	if in := c.Secrets["client_secret"]; !in.Former.IsZero() {
		all, secret = append(all, "  former "+in.Former.Reveal()), "new "+in.Former.Reveal()
	}
	if got := c.Secrets["client_secret"].Value.Reveal(); got != secret || c.Seeded() != (c.Provider == "rotating") {
		t.Errorf("%s: got secret %q, want %q", c.Name, got, secret)
	}
	if f := st.Failure; f != nil {
		all = append(all, fmt.Sprintf("  failure %s %s until %d", f.Kind.Name(), f.UpstreamError, f.RetryAt.Year()))
	}
	var rest []string
	for _, g := range st.Grants {
		text := "  grant " + g.RefreshToken.Reveal()
		if !g.UsedAt.IsZero() {
			text += " used"
		}
		if !g.Marker.IsZero() {
			text += " marked"
		}
		if g.Uncertain {
			text += " uncertain"
		}
		rest = append(rest, text)
		if g.UsedFor != 0 || g.GivenAt.IsZero() || g.Refused != nil {
			t.Errorf("%s: got %+v: nobody knows by the store's clock when it was used", c.Name, g)
		}
	}
	for _, issued := range st.Tokens {
		text := "  token " + issued.Values["token"].Reveal()
		if issued.Rejected {
			text += " rejected"
		}
		rest = append(rest, text)
		if issued.ExpireAt.Year() != 2090 {
			t.Errorf("%s: its token ends at %v", c.Name, issued.ExpireAt)
		}
	}
	slices.Sort(rest)
	return append(all, rest...)
}
