package daemon

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

// warnings hands each warning of a log to whoever waits.
type warnings struct {
	slog.Handler
	said chan string
}

func (w warnings) Enabled(context.Context, slog.Level) bool { return true }

func (w warnings) Handle(_ context.Context, r slog.Record) error {
	if r.Level == slog.LevelWarn {
		line := r.Message
		r.Attrs(func(a slog.Attr) bool { line += " " + a.String(); return true })
		w.said <- line
	}
	return nil
}

// TestADefinitionThatGoesAway: it is said once whose, and of how many credentials.
func TestADefinitionThatGoesAway(t *testing.T) {
	s := startable(t)
	s.ProvidersDir = t.TempDir()
	file := filepath.Join(s.ProvidersDir, "acme.yaml")
	if err := os.WriteFile(file, []byte("name: acme\ninputs: {k: {secret: true, handed_out: true}}\ntoken: \"{{k}}\"\nlifetime: 1h\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	said := make(chan string, 100)
	r, err := Start(t.Context(), s, slog.New(warnings{slog.DiscardHandler, said}))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := r.Stop(context.Background()); err != nil {
			t.Error(err)
		}
		if len(said) > 0 {
			t.Errorf("and then %s", <-said)
		}
	}()
	conn, err := connect(r.Addresses[0])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, name := range []string{"a", "b"} {
		_, err := tokenbrokerv1.NewCredentialServiceClient(conn).CreateCredential(t.Context(), &tokenbrokerv1.CreateCredentialRequest{
			Credential: &tokenbrokerv1.Credential{Name: name, Provider: "acme"}, Secrets: map[string]string{"k": "one"},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	const want = "credentials have no definition that loads provider=acme credentials=2 what_to_do=there is no definition acme: put its file back into providers_dir, or give the credential another provider"
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := r.catalog.Reload(); err != nil {
			t.Fatal(err)
		}
	}
	if got := <-said; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
