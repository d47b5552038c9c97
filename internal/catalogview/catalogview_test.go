package catalogview_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/internal/catalogview"
	"github.com/tokenbroker/tokenbroker/provider"
	"github.com/tokenbroker/tokenbroker/provider/transport"
)

// TestCallersSeeWhereAFileIsWrongAndNothingOfIt: it may be any file, with anybody's secrets.
func TestCallersSeeWhereAFileIsWrongAndNothingOfIt(t *testing.T) {
	tr, err := transport.New(transport.Settings{})
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"cred":    "name: cred\nprovider: v\ninputs: {client_id: id, password: sekret-1}\nsecrets: {client_secret: sekret-2}\n",
		"list":    "- name: x\n  provider: v\n  secrets: {client_secret: sekret-3}\n",
		"tok":     "name: tok\ntoken: sekret-4\n",
		"env":     "PASSWORD=sekret-5\nTOKEN=sekret-6\n",
		"keys":    "name: keys\nsekret-7: x\nlet: {\"sekret 8\": x}\n",
		"anchors": "name: anchors\npassword: *sekret-9\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name+".yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := provider.Load(tr, dir)
	if err != nil {
		t.Fatal(err)
	}
	wrong := map[string]string{}
	for _, p := range catalogview.New(c).Providers() {
		if all := strings.Join(p.Problems, "\n"); all != "" {
			wrong[p.Name] = all
		}
		if strings.Contains(strings.Join(p.Problems, "\n")+p.Definition+p.Title+p.DocsURL, "sekret") {
			t.Errorf("got %+v", p)
		}
	}
	if len(wrong) != 6 {
		t.Errorf("got %d files that are wrong, want 6: %q", len(wrong), wrong)
	}
	for name, want := range map[string]string{
		"cred": "cred.yaml:3:35: wrong: the broker's log says what", "tok": "tok.yaml:2:8: wrong:", "env": "env.yaml:1:1: wrong:",
		"anchors": "anchors.yaml:2:11: wrong:",
	} {
		if !strings.Contains(wrong[name], want) {
			t.Errorf("%s: got %q, want %q", name, wrong[name], want)
		}
	}
}
