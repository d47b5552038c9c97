package project

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const (
	module = "github.com/tokenbroker/tokenbroker/"
	root   = "../.."
)

// may says which of our packages each package imports, outside its tests. ARCHITECTURE.md draws the same.
var may = map[string][]string{
	"broker":                         {},
	"broker/audit":                   {"broker", "internal/newfile", "internal/readfile"},
	"broker/engine":                  {"broker", "broker/gate", "broker/trace"},
	"broker/gate":                    {"broker"},
	"broker/trace":                   {"broker"},
	"broker/policy":                  {"broker", "internal/dotdot", "internal/filewatch", "internal/readfile", "internal/suggest", "internal/yamldoc"},
	"provider":                       {"broker", "internal/dotdot", "internal/filewatch", "internal/jsondoc", "internal/readfile", "internal/suggest", "internal/yamldoc", "provider/transport"},
	"provider/transport":             {"broker/trace", "internal/readfile"},
	"provider/locoia":                {"broker", "internal/jsondoc", "provider"},
	"internal/jsondoc":               {},
	"store":                          {"broker", "broker/trace", "store/seal"},
	"store/seal":                     {"internal/newfile", "internal/readfile"},
	"store/kek":                      {"internal/newfile", "internal/readfile"},
	"store/bolt":                     {"broker", "internal/newfile", "store"},
	"store/redis":                    {"broker", "store"},
	"store/storetest":                {"broker", "store", "store/seal"},
	"server":                         {"broker", "broker/engine", "broker/trace", "gen/tokenbroker/v1", "internal/peeruser", "internal/tame", "server/mesh"},
	"server/mesh":                    {"broker", "gen/tokenbroker/v1"},
	"server/authn":                   {"broker", "broker/policy", "internal/filewatch", "internal/jsondoc", "internal/readfile", "server"},
	"gen/tokenbroker/v1":             {},
	"client":                         {"gen/tokenbroker/v1"},
	"client/clienttest":              {"client", "gen/tokenbroker/v1"},
	"internal/upstreamsim":           {},
	"internal/upstreamsim/simclient": {"gen/tokenbroker/v1", "internal/upstreamsim"},
	"internal/devcerts":              {},
	"internal/filewatch":             {"internal/steps"},
	"internal/steps":                 {},
	"internal/explore":               {"broker", "broker/engine", "store", "store/seal", "store/storetest"},
	"internal/leaktest":              {},
	"internal/installed":             {},
	"internal/newfile":               {},
	"internal/dotdot":                {},
	"internal/peeruser":              {},
	"internal/tame":                  {},
	"internal/readfile":              {},
	"internal/product":               {},
	"internal/herd":                  {},
	"internal/redistest":             {"internal/installed"},
	"internal/suggest":               {},
	"internal/yamldoc":               {"internal/suggest"},
	"internal/catalogview":           {"broker", "gen/tokenbroker/v1", "provider", "server"},
	"internal/heapfloor":             {},
	"examples/call":                  {"client"},
	"internal/project":               {},
	"internal/sbom":                  {},
	"internal/kmstest":               {},
	"internal/manifests":             {},
	"cmd/tokenbroker": {
		"cmd/tokenbroker/internal/console", "cmd/tokenbroker/internal/daemon", "cmd/tokenbroker/internal/demo", "cmd/tokenbroker/internal/operator",
		"cmd/tokenbroker/internal/settings",
	},
	"cmd/tokenbroker/internal/operator": {
		"broker", "broker/audit", "broker/policy", "cmd/tokenbroker/internal/console", "cmd/tokenbroker/internal/doctor", "cmd/tokenbroker/internal/settings", "gen/tokenbroker/v1", "internal/devcerts", "internal/newfile", "internal/peeruser", "internal/readfile", "internal/suggest", "internal/yamldoc", "provider",
		"provider/locoia", "provider/transport", "server", "store", "store/bolt", "store/kek", "store/redis", "store/seal",
	},
	"cmd/tokenbroker/internal/console": {"internal/tame"},
	"cmd/tokenbroker/internal/doctor":  {"broker", "broker/policy", "cmd/tokenbroker/internal/settings", "internal/readfile", "internal/steps", "store/redis"},
	"cmd/tokenbroker/internal/settings": {
		"broker", "broker/audit", "broker/engine", "broker/policy", "cmd/tokenbroker/internal/console", "internal/readfile", "internal/suggest", "internal/yamldoc",
		"provider/transport", "server", "server/authn", "store", "store/kek", "store/redis",
	},
	"cmd/tokenbroker/internal/daemon": {
		"broker", "broker/audit", "broker/engine", "broker/policy", "broker/trace", "cmd/tokenbroker/internal/console", "cmd/tokenbroker/internal/doctor", "cmd/tokenbroker/internal/settings", "internal/catalogview", "internal/heapfloor", "internal/tame",
		"provider", "provider/transport", "server", "server/authn", "store", "store/bolt", "store/redis", "store/seal",
	},
	"cmd/tokenbroker/internal/demo": {
		"cmd/tokenbroker/internal/console", "cmd/tokenbroker/internal/daemon", "cmd/tokenbroker/internal/settings",
		"gen/tokenbroker/v1", "internal/readfile", "internal/upstreamsim", "internal/upstreamsim/simclient",
	},
}

// never are imports that would let a package know what it must not.
var never = map[string][]string{
	"broker":                            {"google.golang.org/", "github.com/redis/", "go.etcd.io/", "net/http", "go.yaml.in/"},
	"broker/audit":                      {"google.golang.org/", "github.com/redis/", "go.etcd.io/", "net/http", "go.yaml.in/", "testing"},
	"broker/engine":                     {"google.golang.org/", "github.com/redis/", "go.etcd.io/", "net/http", "go.yaml.in/", "testing"},
	"broker/policy":                     {"google.golang.org/", "github.com/redis/", "go.etcd.io/", "net/http", "testing"},
	"provider":                          {"google.golang.org/grpc", "go.etcd.io/", "testing"},
	"provider/transport":                {"google.golang.org/", "go.yaml.in/", "testing"},
	"provider/locoia":                   {"google.golang.org/", "net/http", "testing"},
	"store":                             {"google.golang.org/grpc", "go.etcd.io/", "github.com/redis/", "net/http", "testing"},
	"store/kek":                         {"google.golang.org/", "go.etcd.io/", "github.com/redis/", "testing"},
	"server":                            {"go.etcd.io/", "go.yaml.in/", "github.com/spiffe/", "testing"},
	"server/mesh":                       {"go.etcd.io/", "go.yaml.in/", "github.com/spiffe/", "testing"},
	"server/authn":                      {"google.golang.org/grpc", "go.etcd.io/", "go.yaml.in/", "testing"},
	"internal/upstreamsim":              {"testing"},
	"cmd/tokenbroker":                   {"testing"},
	"cmd/tokenbroker/internal/console":  {"go.etcd.io/", "github.com/redis/", "github.com/alecthomas/kong", "testing"},
	"cmd/tokenbroker/internal/doctor":   {"google.golang.org/", "go.etcd.io/", "github.com/redis/", "net/http", "testing"},
	"cmd/tokenbroker/internal/settings": {"google.golang.org/grpc", "go.etcd.io/", "testing"},
	"cmd/tokenbroker/internal/daemon":   {"testing"},
	"cmd/tokenbroker/internal/operator": {"testing"},
	"cmd/tokenbroker/internal/demo":     {"testing"},
}

func TestImportsPointOneWay(t *testing.T) {
	seen := map[string]bool{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && d.Name() != ".." || d.Name() == "bin" || d.Name() == "testdata") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		rel, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		pkg := filepath.ToSlash(rel)
		seen[pkg] = true
		allowed, known := may[pkg]
		if !known {
			t.Errorf("%s: a new package: say here and in ARCHITECTURE.md what it may import", pkg)
			may[pkg] = nil
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, i := range f.Imports {
			name, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			if ours, ok := strings.CutPrefix(name, module); ok && !contains(allowed, ours) {
				t.Errorf("%s imports %s, which it may not", path, ours)
			}
			for _, bad := range never[pkg] {
				if strings.HasPrefix(name, bad) {
					t.Errorf("%s imports %s: %s must know nothing of it", path, name, pkg)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for pkg := range may {
		if !seen[pkg] {
			t.Errorf("%s: there is no such package", pkg)
		}
	}
}

func contains(all []string, s string) bool {
	for _, x := range all {
		if x == s {
			return true
		}
	}
	return false
}
