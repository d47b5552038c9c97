package settings

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestTheAuditLogIsNoOtherFile of those that the settings name, by whichever name it goes.
func TestTheAuditLogIsNoOtherFile(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	words := []string{}
	for flag, v := range knownSettings() {
		if v.Tag.Type == placeType && flag != "audit-file" && flag != "data-dir" && flag != "providers-dir" {
			words = append(words, strings.ReplaceAll(flag, "-", "_")+": PATH")
		}
	}
	if len(words) < 9 {
		t.Fatalf("got %v", words)
	}
	for _, of := range []string{"ca_file", "jwks_file", "token_file"} {
		words = append(words, "issuers: {a: {issuer: 'https://a', "+of+": PATH}}")
	}
	words = append(words, "services: {cert_file: PATH}", "operators: {key_file: PATH}", "services: {workload_api: 'unix://PATH'}", "trust: {a: {cn: [a], ca_file: PATH}}", "audit.syslog: unix://PATH",
		"providers_dir: "+at("providers"), "# the settings file itself")
	for i, word := range words {
		t.Run(word, func(t *testing.T) {
			path := at("file")
			switch {
			case strings.HasPrefix(word, "providers_dir"):
				path = at("providers/own.yaml")
			case strings.HasPrefix(word, "#"):
				path = at("settings.yaml")
			}
			for _, d := range []string{at("providers"), at("links")} {
				must(t, os.MkdirAll(d, 0o700))
			}
			must(t, os.WriteFile(path, nil, 0o600))
			text := strings.ReplaceAll(word, "PATH", path)
			must(t, os.WriteFile(at("settings.yaml"), []byte(text), 0o600))
			link, hard := at("links/soft"), at("links/hard")
			for _, l := range []string{link, hard} {
				_ = os.Remove(l)
			}
			must(t, os.Symlink(path, link))
			must(t, os.Link(path, hard))
			f, wrong, err := parseSettings(at("settings.yaml"), []byte(text))
			if err != nil || len(wrong) > 0 && !strings.Contains(word, ": {") {
				t.Fatalf("got %v %v", wrong, err)
			}
			for _, log := range []string{path, link, hard, dir + "/links/../" + strings.TrimPrefix(path, dir)} {
				s, err := parsed(t, f, "--audit-file="+log, "--data-dir="+at("data"))
				must(t, err)
				s.Listeners, s.File = f.Listeners, f.Name
				var got []string
				s.auditProblems(func(setting, format string, _ ...any) { got = append(got, setting+": "+format) })
				if len(got) == 0 || !strings.HasPrefix(got[0], "audit.file: the broker has something else there") {
					t.Errorf("%d, %s: got %v", i, log, got)
				}
			}
			s, err := parsed(t, f, "--audit-file="+at("links/other"), "--data-dir="+at("data"))
			must(t, err)
			s.Listeners, s.File = f.Listeners, f.Name
			s.auditProblems(func(setting, format string, _ ...any) {
				if setting == "audit.file" {
					t.Errorf("%s: %s", setting, format)
				}
			})
		})
	}
}

// What is not there yet is refused as well: at the first start the log would be made before the key, and in its place.
func TestTheAuditLogIsNoFileThatIsToCome(t *testing.T) {
	for _, own := range []string{"key.json", DataFile, AdminSocket, "tokenbroker.sock"} {
		s := goodSettings(t)
		elsewhere := t.TempDir()
		must(t, os.Symlink(filepath.Join(s.DataDir, own), filepath.Join(elsewhere, "whole")))
		must(t, os.Symlink("whole", filepath.Join(elsewhere, "twice")))
		must(t, os.Mkdir(filepath.Join(s.DataDir, "sub"), 0o700))
		must(t, os.Symlink(filepath.Join(s.DataDir, "sub"), filepath.Join(elsewhere, "dir")))
		for _, log := range []string{"whole", "twice", "dir/../" + own} {
			s.AuditFile = elsewhere + "/" + log
			var got []string
			s.auditProblems(func(setting, format string, _ ...any) { got = append(got, setting+": "+format) })
			if len(got) != 1 || !strings.HasPrefix(got[0], "audit.file: the broker has something else there") {
				t.Errorf("%s, %s: got %v", own, log, got)
			}
		}
	}
}

// TestPlacesAreFoundWhereverTheyStand: also in what settings come to have.
func TestPlacesAreFoundWhereverTheyStand(t *testing.T) {
	type inner struct {
		SomeFile string
		KEKs     []string
	}
	got := map[string]string{}
	each("", reflect.ValueOf(struct {
		OwnDir string
		Named  map[string]*inner
		None   *inner
	}{"d", map[string]*inner{"a": {"f", []string{"file:///k", "aws-kms://x"}}}, nil}), func(field, value string) { got[value] = field })
	if diff := cmp.Diff(map[string]string{"d": "OwnDir", "f": "SomeFile", "file:///k": "KEKs", "aws-kms://x": "KEKs"}, got); diff != "" {
		t.Error(diff)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestASyslogIsNoneOfTheBrokersOwn, by whichever name it goes.
func TestASyslogIsNoneOfTheBrokersOwn(t *testing.T) {
	s := goodSettings(t)
	link := filepath.Join(t.TempDir(), "link")
	must(t, os.Symlink(s.DataDir, link))
	s.Listen, s.MetricsListen, s.ProbesListen = []string{"127.0.0.1:1001", "[::1]:1002", "localhost:1003", "127.0.0.1:0"}, "127.0.0.1:1004", ":1005"
	s.Listeners = Listeners{Services: &Listener{Addresses: []string{"0.0.0.0:1006"}}, Operators: &Listener{Addresses: []string{"192.0.2.1:1007"}}}
	for _, c := range []struct {
		where string
		own   bool
	}{
		{"unix://" + s.SocketPath(), true}, {"unix://" + s.DataDir + "/" + AdminSocket, true}, {"unix://" + link + "/" + AdminSocket, true}, {"unix://" + s.DataDir + "/other", false},
		{"tcp://127.0.0.1:1001", true}, {"tcp://localhost:1001", true}, {"tcp://LOCALHOST:01001", true}, {"tcp://[::ffff:127.0.0.1]:1001", true}, {"tcp://0.0.0.0:1001", true},
		{"tcp://127.0.0.2:1001", false}, {"tcp://127.0.0.1:1009", false}, {"tcp://syslog.example:1001", false},
		{"tcp://[::1]:1002", true}, {"tcp://localhost:1002", true}, {"tcp://127.0.0.1:1002", false}, {"tcp://[::1]:1003", true},
		{"tcp://127.0.0.1:1004", true}, {"tcp://127.0.0.9:1005", true}, {"tcp://[::1]:1005", true}, {"tcp://127.0.0.1:1006", true}, {"tcp://198.51.100.7:1006", false},
		{"tcp://192.0.2.1:1007", true}, {"tcp://127.0.0.1:1007", false},
	} {
		s.AuditSyslog = c.where
		got := false
		s.auditProblems(func(setting, format string, args ...any) {
			if got = strings.HasPrefix(format, "the broker itself answers there"); !got {
				t.Errorf("%s: %s: %s %v", c.where, setting, format, args)
			}
		})
		if got != c.own {
			t.Errorf("%s: got %v, want %v", c.where, got, c.own)
		}
	}
}
