package doctor

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/settings"
	"github.com/tokenbroker/tokenbroker/server/authn"
)

// TestEveryFileOfTheSettingsHasARole: of a new one somebody says what it is to the broker, and what people call it.
func TestEveryFileOfTheSettingsHasARole(t *testing.T) {
	seen := map[string]bool{}
	var walk func(typ reflect.Type)
	walk = func(typ reflect.Type) {
		for i := range typ.NumField() {
			switch f := typ.Field(i); {
			case f.Anonymous && f.Type.Kind() == reflect.Struct:
				walk(f.Type)
			case f.Type.Kind() == reflect.String && (strings.HasSuffix(f.Name, "File") || strings.HasSuffix(f.Name, "Dir")):
				seen[f.Name] = true
			}
		}
	}
	for _, typ := range []reflect.Type{
		reflect.TypeFor[settings.Settings](), reflect.TypeFor[settings.Listener](), reflect.TypeFor[authn.Trust](), reflect.TypeFor[authn.Issuer](),
	} {
		walk(typ)
	}
	for name := range seen {
		as, known := roles[name]
		if !known || as != elsewhere && words[name] == "" && name != "AuditFile" {
			t.Errorf("%s has no role, or no words", name)
		}
	}
	for name := range roles {
		if !seen[name] {
			t.Errorf("there is no setting %s", name)
		}
	}
}

// TestEachKindIsThereOnce, and has all that is told of it.
func TestEachKindIsThereOnce(t *testing.T) {
	seen := map[Code]bool{}
	severities := []Severity{High, Medium, Low}
	for _, k := range kinds {
		if seen[k.code] || k.risk == "" || k.do == "" || k.code == "" {
			t.Errorf("got %+v", k)
		}
		seen[k.code] = true
		for len(severities) > 0 && severities[0] != k.severity {
			severities = severities[1:]
		}
		if len(severities) == 0 {
			t.Errorf("%s stands below something less severe", k.code)
		}
	}
}

func TestWhatIsThisMachine(t *testing.T) {
	for host, want := range map[string]bool{
		"127.0.0.1": true, "127.0.0.1:6379": true, "[::1]:6379": true, "::1": true, "localhost": true, "localhost:80": true, "::ffff:127.0.0.1": true,
		"10.0.0.1:6379": false, "0.0.0.0": false, "redis.invalid:6379": false, "": false, "[fe80::1]:1": false,
	} {
		if got := isHere(t.Context(), host); got != want {
			t.Errorf("%q: got %v", host, got)
		}
	}
}

// TestADirectoryOfAVolume may be open to all in a container that has nobody else in it.
func TestADirectoryOfAVolume(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(dir, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, alone := range []bool{false, true} {
		r := Look(t.Context(), Broker{Settings: settings.Settings{DataDir: data, ProvidersDir: dir, StoreSettings: settings.StoreSettings{Store: "redis://127.0.0.1"}}, Alone: alone}, time.Now())
		for _, c := range []Code{DirectoryWritable, ProvidersWritable} {
			if got := slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Code == c }); got == alone {
				t.Errorf("alone %v: got %s %v: %+v", alone, c, got, r.Findings)
			}
		}
	}
}

// TestWhatIsAboveAPath is what the system passes: what stands before ".." may be a link.
func TestWhatIsAboveAPath(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"here", "there/deep"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "there/file"), nil, 0o644), os.Symlink("../there/deep", filepath.Join(dir, "here/link")), os.Chmod(filepath.Join(dir, "there"), 0o777)); err != nil {
		t.Fatal(err)
	}
	t.Chdir(filepath.Join(dir, "here"))
	for _, path := range []string{dir + "/here/link/../file", "link/../file"} {
		r := &Report{}
		r.file(path, "a file", believed)
		if !slices.ContainsFunc(r.Findings, func(f Finding) bool {
			return f.Code == DirectoryWritable && strings.Contains(f.Is, "/there (mode 0777)")
		}) || len(r.Unseen) > 0 {
			t.Errorf("%s: got %+v", path, r)
		}
	}
}
