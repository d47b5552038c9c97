package main

import (
	"debug/buildinfo"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
)

var (
	building sync.Once
	built    struct {
		dir    string
		binary *binary
		err    error
	}
)

func TestMain(m *testing.M) {
	code := m.Run()
	if built.dir != "" {
		os.RemoveAll(built.dir)
	}
	os.Exit(code)
}

// tokenbroker builds the command as the image has it, for Linux wherever the tests run, and reads what it is made of.
func tokenbroker(t *testing.T) (file string, b *binary) {
	t.Helper()
	if testing.Short() {
		t.Skip("it builds the command")
	}
	building.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "sbom"); built.err != nil { //nolint:usetesting // it outlives the first test that needs it
			return
		}
		out, err := filepath.Abs(filepath.Join(built.dir, "tokenbroker"))
		if built.err = err; err != nil {
			return
		}
		if _, built.err = goCommand(t.Context(), []string{"GOOS=linux", "GOARCH=amd64", "CGO_ENABLED=0"},
			"build", "-trimpath", "-buildvcs=false", "-o", out, "./cmd/tokenbroker"); built.err == nil {
			built.binary, built.err = read(t.Context(), out)
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return filepath.Join(built.dir, "tokenbroker"), built.binary
}

func TestTheBinaryHasTheModulesThatTheLinkerPutIntoIt(t *testing.T) {
	file, b := tokenbroker(t)
	info, err := buildinfo.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	sums, err := os.ReadFile(filepath.Join(root, "go.sum"))
	if err != nil {
		t.Fatal(err)
	}
	parts := map[string]part{}
	for _, p := range b.parts {
		parts[p.path] = p
	}
	info.Deps = slices.DeleteFunc(info.Deps, func(d *debug.Module) bool { return d.Replace != nil }) // of this tree
	if len(info.Deps) < 20 || len(parts) != len(info.Deps)+1 {
		t.Errorf("got %d parts, want %d modules and the standard library", len(parts), len(info.Deps))
	}
	for _, d := range info.Deps {
		p := parts[d.Path]
		if p.version != d.Version || p.license == "" || len(p.texts) == 0 {
			t.Errorf("%s: got %s, licence %q, %d texts; want %s and its licence", d.Path, p.version, p.license, len(p.texts), d.Version)
		}
		if line := d.Path + " " + d.Version + " " + p.sum + "\n"; !strings.Contains(string(sums), line) {
			t.Errorf("go.sum has no line %q", line)
		}
	}
	for _, test := range []string{"github.com/google/go-cmp", "go.uber.org/goleak", "pgregory.net/rapid", "github.com/CycloneDX/cyclonedx-go", "github.com/google/licenseclassifier/v2"} {
		if _, ok := parts[test]; ok {
			t.Errorf("%s is there, which is for tests and tools", test)
		}
	}
	if p := parts["google.golang.org/grpc"]; !contains(p.uses, "google.golang.org/protobuf") || !contains(p.uses, std) || contains(p.uses, "github.com/redis/go-redis/v9") {
		t.Errorf("gRPC uses %v, want protobuf and the standard library, and no Redis", p.uses)
	}
	if !contains(b.uses, "google.golang.org/grpc") {
		t.Errorf("we use %v, want gRPC", b.uses)
	}
}

// Of the image there is one for each architecture, and one list of licences.
func TestEveryArchitectureHasTheSameModules(t *testing.T) {
	_, b := tokenbroker(t)
	parts := map[string]*part{}
	for _, p := range b.parts {
		parts[p.path] = &p
	}
	for _, arch := range []string{"arm64", "arm", "riscv64", "s390x"} {
		packages, err := list(t.Context(), "linux", arch, "0", "", "github.com/tokenbroker/tokenbroker/cmd/tokenbroker")
		if err != nil {
			t.Fatal(err)
		}
		if err := same(parts, packages); err != nil {
			t.Errorf("%s: %v", arch, err)
		}
	}
}

func TestABinaryOfAnotherTreeIsRefused(t *testing.T) {
	_, b := tokenbroker(t)
	packages, err := list(t.Context(), "linux", "amd64", "0", "", "github.com/tokenbroker/tokenbroker/cmd/tokenbroker")
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(map[string]*part){
		"it does not have google.golang.org/grpc v":   func(m map[string]*part) { m["google.golang.org/grpc"].version = "v1.0.0" },
		"it does not have go.etcd.io/bbolt v":         func(m map[string]*part) { delete(m, "go.etcd.io/bbolt") },
		"nothing here needs its example.com/left-pad": func(m map[string]*part) { m["example.com/left-pad"] = &part{path: "example.com/left-pad"} },
	} {
		parts := map[string]*part{}
		for _, p := range b.parts {
			parts[p.path] = &p
		}
		if err := same(parts, packages); err != nil {
			t.Fatal(err)
		}
		change(parts)
		if err := same(parts, packages); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("got %v, want that %q", err, name)
		}
	}
}

func TestAFileThatIsNoBinaryIsRefused(t *testing.T) {
	if err := write(t.Context(), "go.mod", filepath.Join(t.TempDir(), "x"), "", ""); err == nil {
		t.Error("got a document about go.mod")
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
