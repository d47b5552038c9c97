package provider

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/filewatch"
	"github.com/tokenbroker/tokenbroker/provider/transport"
)

// catalogIn loads a directory with these files.
func catalogIn(t *testing.T, files map[string]string) (*Catalog, string) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		writeFile(t, dir, name, text)
	}
	tr, err := transport.New(transport.Settings{})
	if err != nil {
		t.Fatal(err)
	}
	c, err := Load(tr, dir)
	if err != nil {
		t.Fatal(err)
	}
	return c, dir
}

func writeFile(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func entry(t *testing.T, c *Catalog, name string) Entry {
	t.Helper()
	for _, e := range c.List() {
		if e.Name == name {
			return e
		}
	}
	t.Fatalf("there is no %s", name)
	return Entry{}
}

func problemsOf(e Entry) string {
	var all []string
	for _, p := range e.Problems {
		all = append(all, p.String())
	}
	return strings.Join(all, "\n")
}

func TestABrokenFileKeepsItsFormerVersionAndSaysSo(t *testing.T) {
	c, dir := catalogIn(t, map[string]string{"mine.yaml": "name: mine\ninputs: {k: {}}\ntoken: '{{k}} one'", ".hidden.yaml": "name: [", "notes.txt": "x"})
	before, err := c.Definition("mine")
	if err != nil {
		t.Fatal(err)
	}
	revision := c.Revision()
	writeFile(t, dir, "mine.yaml", "name: mine\ntokn: two")
	if err := c.Reload(); err != nil {
		t.Fatal(err)
	}
	after, err := c.Definition("mine")
	if err != nil || after != before || c.Revision() == revision {
		t.Errorf("got %v %v, want the former definition at a new revision", after, err)
	}
	if got := problemsOf(entry(t, c, "mine")); !strings.Contains(got, "tokn") {
		t.Errorf("got %q", got)
	}
	writeFile(t, dir, "mine.yaml", "name: mine\ninputs: {k: {}}\ntoken: '{{k}} two'")
	if err := c.Reload(); err != nil {
		t.Fatal(err)
	}
	if after, _ = c.Definition("mine"); after == before || len(entry(t, c, "mine").Problems) != 0 {
		t.Error("the mended file is not used")
	}
	if err := os.Remove(filepath.Join(dir, "mine.yaml")); err != nil {
		t.Fatal(err)
	}
	if err := c.Reload(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Definition("mine"); broker.KindOf(err) != broker.ProviderInvalid {
		t.Errorf("got %v of a file that is gone", err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := c.Reload(); err == nil {
		t.Error("got no error of a directory that is gone")
	}
	if _, err := c.Definition("officernd"); err != nil {
		t.Errorf("got %v: a reload that fails changes nothing", err)
	}
}

func TestABuiltinIsReplacedOnlyByAFileThatSaysSo(t *testing.T) {
	c, dir := catalogIn(t, map[string]string{"officernd.yaml": "name: officernd\ninputs: {k: {}}\ntoken: '{{k}} mine'", "broken.yaml": "name: broken"})
	builtin, err := c.Definition("officernd")
	if err != nil || builtin.Facts().Requests != 1 || len(builtin.(*definition).obtain) != 1 {
		t.Fatalf("got %v %v, want the built-in", builtin, err)
	}
	if got := problemsOf(entry(t, c, "officernd")); !strings.Contains(got, "override: true") {
		t.Errorf("got %q", got)
	}
	if _, err := c.Definition("broken"); broker.KindOf(err) != broker.ProviderInvalid {
		t.Errorf("got %v", err)
	}
	writeFile(t, dir, "officernd.yaml", "name: officernd\noverride: true\ninputs: {k: {}}\ntoken: '{{k}} mine'")
	writeFile(t, dir, "other.yaml", "name: other\noverride: true\ninputs: {k: {}}\ntoken: '{{k}} mine'")
	if err := c.Reload(); err != nil {
		t.Fatal(err)
	}
	mine, err := c.Definition("officernd")
	if err != nil || mine == builtin || entry(t, c, "officernd").Origin != FileOverridingBuiltin || len(entry(t, c, "officernd").Problems) != 0 {
		t.Errorf("got %+v %v", entry(t, c, "officernd"), err)
	}
	if got := problemsOf(entry(t, c, "other")); !strings.Contains(got, "no built-in definition") {
		t.Errorf("got %q", got)
	}
}

func TestAFileThatChangesIsReadAgain(t *testing.T) {
	c, dir := catalogIn(t, map[string]string{"mine.yaml": "name: mine\ninputs: {k: {}}\ntoken: '{{k}} one'"})
	var log syncBuffer
	c.SetLog(slog.New(slog.NewTextHandler(&log, nil)))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- c.Watch(ctx) }()
	was := c.Revision()
	for n := 0; c.Revision() == was; n++ {
		// The watch may begin after a write: it is written until it is seen.
		writeFile(t, dir, "mine.yaml", "name: mine\ninputs: {k: {}}\ntoken: '{{k}} two'"+strings.Repeat(" ", n%7))
		select {
		case <-ctx.Done():
			t.Fatal("the change was not seen")
		case <-time.After(2 * filewatch.Settle):
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if !strings.Contains(log.String(), "definitions reloaded") {
		t.Errorf("got log %q", log.String())
	}
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
