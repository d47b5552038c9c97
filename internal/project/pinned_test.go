package project

import (
	"encoding/json"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	assigned  = regexp.MustCompile(`(?m)^([A-Z_]+)[ \t]*:=[ \t]*(\S+)[ \t]*$`)
	separator = regexp.MustCompile(`&&|\|\||[;|(){}]`)
	exact     = regexp.MustCompile(`^v?\d+\.\d+\.\d+$`)
)

// scriptsArgument is what a script has of the Makefile, by which it is called.
const scriptsArgument = "$version"

// unpinned says what a line of a shell installs or runs that may be another thing tomorrow. Variables are the Makefile's.
func unpinned(line string, variables map[string]string) []string {
	for name, value := range variables {
		line = strings.ReplaceAll(line, "$("+name+")", value)
	}
	line = strings.NewReplacer(`"${npm[@]}"`, "npm", `"`, "", "'", "").Replace(line)
	fixed := func(version string) bool { return exact.MatchString(version) || version == scriptsArgument }
	var found []string
	for _, command := range separator.Split(line, -1) {
		words := strings.Fields(command)
		for i, w := range words {
			rest := words[i+1:]
			first := ""
			if len(rest) > 0 {
				first = rest[0]
			}
			switch name := path.Base(strings.TrimLeft(w, "@-")); {
			case name == "go" && slices.Contains([]string{"install", "get", "run"}, first):
				for _, arg := range rest[1:] {
					host, _, _ := strings.Cut(arg, "/")
					if strings.HasPrefix(arg, "-") || strings.HasPrefix(arg, ".") || !strings.Contains(host, ".") {
						continue
					}
					if _, version, _ := strings.Cut(arg, "@"); !fixed(version) {
						found = append(found, arg)
					}
				}
			case strings.HasPrefix(name, "pip") && first == "install":
				for _, arg := range rest[1:] {
					if strings.HasPrefix(arg, "-") || arg == ":all:" {
						continue
					}
					if _, version, _ := strings.Cut(arg, "=="); !fixed(version) {
						found = append(found, arg)
					}
				}
			case name == "npm" && slices.Contains([]string{"install", "i", "add", "exec", "update"}, first), // npm ci has the lock file
				name == "npx", name == "curl", name == "wget", name == "pipx":
				found = append(found, name+" "+first)
			}
		}
	}
	return found
}

// installers are the files that install something, by what they are called.
func installers(t *testing.T) (files map[string]string, variables map[string]string) {
	t.Helper()
	files = map[string]string{}
	for _, pattern := range []string{"Makefile", "Dockerfile", "scripts/*", ".ci/*"} {
		names, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil || len(names) == 0 {
			t.Fatalf("%s: %d files, %v", pattern, len(names), err)
		}
		for _, name := range names {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			files[filepath.ToSlash(strings.TrimPrefix(name, root+"/"))] = string(text)
		}
	}
	variables = map[string]string{}
	for _, m := range assigned.FindAllStringSubmatch(files["Makefile"], -1) {
		variables[m[1]] = m[2]
	}
	return files, variables
}

// What comes of Go's proxy, PyPI and npm has its version here, and the registry cannot give another tomorrow. A compiler, Redis and Python are
// the system's, which has one version of each: only scripts/need-* ask for those.
func TestNothingIsInstalledWithoutAVersion(t *testing.T) {
	t.Parallel()
	files, variables := installers(t)
	installs := 0
	for name, text := range files {
		for line := range strings.Lines(continued.ReplaceAllString(text, " ")) {
			if line = strings.TrimSpace(line); strings.HasPrefix(line, "#") {
				continue
			}
			for _, what := range unpinned(line, variables) {
				t.Errorf("%s: %s: want its version", name, what)
			}
			if strings.Contains(line, " install ") {
				installs++
			}
			for _, system := range []string{"apt-get", "dnf ", "apk ", "brew "} {
				if strings.Contains(line, system) && !strings.HasPrefix(name, "scripts/need-") {
					t.Errorf("%s: %s: want that scripts/need-* do this", name, line)
				}
			}
		}
	}
	if installs < 8 {
		t.Errorf("found %d lines that install something, want those of the tools", installs)
	}
	for name, value := range variables {
		if strings.HasSuffix(name, "VERSION") && !exact.MatchString(value) {
			t.Errorf("Makefile: %s is %s, want MAJOR.MINOR.PATCH", name, value)
		}
	}
	if call := "scripts/npm-install internal/product/testdata/oidc-provider $(BIN)/oidc-provider $(NODE_VERSION)"; !strings.Contains(files["Makefile"], call) || !exact.MatchString(variables["NODE_VERSION"]) {
		t.Errorf("Makefile: want %s, with its version", call)
	}
}

func TestUnpinned(t *testing.T) {
	t.Parallel()
	variables := map[string]string{"BIN": "/b", "TOOL_VERSION": "v1.2.3", "WHEEL_VERSION": "1.2.3", "MOVES": "latest"}
	for line, want := range map[string]int{
		"GOBIN=$(BIN) go install x.org/y/cmd@$(TOOL_VERSION)":                      0,
		"cd a && go run x.org/y@v1.2.3 -flag z":                                    0,
		"go run -C internal/sbom . ../../bin/tokenbroker":                          0,
		"go install ./cmd/tokenbroker":                                             0,
		"go get x.org/y@v1.2":                                                      1,
		"go install x.org/y":                                                       1,
		"cd a && go install x.org/y@latest x.org/z@$(MOVES)":                       2,
		"go run x.org/y@$(NOBODYS)":                                                1,
		"go install x.org/y@v1.2.3-rc.1":                                           1,
		"$(BIN)/v/bin/pip install --quiet --only-binary :all: a==$(WHEEL_VERSION)": 0,
		`"$bin/v/bin/pip" install "a==$version"`:                                   0,
		"python3 -m pip install a":                                                 1,
		"pip install 'a>=1.2.3' b==1.*":                                            2,
		`"${npm[@]}" ci --ignore-scripts`:                                          0,
		`"${npm[@]}" install x`:                                                    1,
		"npx x":                                                                    1,
		"x=$(curl -sSf https://x.org/install.sh | sh)":                             1,
	} {
		if got := unpinned(line, variables); len(got) != want {
			t.Errorf("%s: got %q, want %d", line, got, want)
		}
	}
}

func TestNpmsLockHasAHashOfEveryPackage(t *testing.T) {
	t.Parallel()
	_, variables := installers(t)
	for _, at := range []struct{ dir, of, version string }{
		{"internal/product/testdata/oidc-provider", "oidc-provider", variables["OIDC_PROVIDER_VERSION"]},
		{"examples/node", "@grpc/grpc-js", variables["GRPC_JS_VERSION"]},
	} {
		name := filepath.Join(root, at.dir, "package-lock.json")
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var lock struct {
			Packages map[string]struct{ Version, Resolved, Integrity string }
		}
		if err := json.Unmarshal(text, &lock); err != nil {
			t.Fatal(err)
		}
		if len(lock.Packages) < 2 {
			t.Errorf("%s: found %d packages", name, len(lock.Packages))
		}
		for where, p := range lock.Packages {
			if where != "" && (!strings.HasPrefix(p.Integrity, "sha512-") || !exact.MatchString(p.Version)) {
				t.Errorf("%s: %s: version %q, integrity %q, want a version and a sha512", name, where, p.Version, p.Integrity)
			}
		}
		if got := lock.Packages["node_modules/"+at.of].Version; got != at.version {
			t.Errorf("%s: %s is %s, and the Makefile says %s", name, at.of, got, at.version)
		}
	}
}
