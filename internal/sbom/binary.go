package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// mainModule is the path of this tree's own.
const mainModule = "github.com/tokenbroker/tokenbroker"

// std is the name that the Go standard library and runtime have among the parts of a binary, as in package URLs.
const std = "std"

// A binary is what is really linked into an executable.
type binary struct {
	main     string   // the path of its own module
	platform string   // GOOS/GOARCH
	sha256   string   // of the executable, in hexadecimal
	license  string   // of its own module, as an SPDX expression
	uses     []string // as those of a part
	parts    []part   // sorted by path
}

// A part is a module in a binary, or the standard library.
type part struct {
	path    string
	version string
	sum     string // h1:…, as in go.sum; empty for the standard library
	license string // an SPDX expression
	texts   []text
	uses    []string // the paths of the parts whose packages it imports, sorted
}

// listed is what go list says of a package.
type listed struct {
	ImportPath string
	Dir        string
	Standard   bool
	Imports    []string
	ImportMap  map[string]string
	Module     *struct {
		Path, Version, Dir string
		Main               bool
		Replace            *struct{ Path string }
	}
}

// here reports whether a module is replaced by a directory of this tree: it has no version of its own, and is a part of the main module.
func here(replacement string) bool { return strings.HasPrefix(replacement, "./") }

// module is the path of the part that the package belongs to.
func (l listed) module() string {
	if l.Standard {
		return std
	}
	return l.Module.Path
}

// read takes the modules from the executable itself, and their licences and uses from the sources that go list finds for it. It refuses an
// executable that is made of other modules than the sources beside it, and one with a licence that is not recognised or not allowed.
func read(ctx context.Context, executable string) (*binary, error) {
	info, err := buildinfo.ReadFile(executable)
	if err != nil {
		return nil, err
	}
	settings := map[string]string{}
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	b := &binary{main: info.Main.Path, platform: settings["GOOS"] + "/" + settings["GOARCH"]}
	if b.sha256, err = sum(executable); err != nil {
		return nil, err
	}
	packages, err := list(ctx, settings["GOOS"], settings["GOARCH"], settings["CGO_ENABLED"], settings["-tags"], info.Path)
	if err != nil {
		return nil, err
	}
	goVersion, _, _ := strings.Cut(strings.TrimPrefix(info.GoVersion, "go"), " ")
	parts := map[string]*part{std: {path: std, version: goVersion}}
	for _, d := range info.Deps {
		if d.Replace != nil && here(d.Replace.Path) {
			continue
		}
		if d.Replace != nil {
			return nil, fmt.Errorf("%s is replaced by %s, which this does not understand", d.Path, d.Replace.Path)
		}
		parts[d.Path] = &part{path: d.Path, version: d.Version, sum: d.Sum}
	}
	if err := same(parts, packages); err != nil {
		return nil, fmt.Errorf("%s is not built from this tree, run make build: %w", executable, err)
	}

	uses := usesOf(packages)
	b.uses = uses[b.main]
	own, err := os.ReadFile(filepath.Join(root, "LICENSE"))
	if err != nil {
		return nil, err
	}
	licenses, err := recognize(own)
	if err != nil {
		return nil, err
	}
	b.license = strings.Join(licenses, " AND ")
	dirs, err := dirsOf(ctx, packages)
	if err != nil {
		return nil, err
	}
	for _, path := range slices.Sorted(maps.Keys(parts)) {
		p := parts[path]
		p.uses = uses[path]
		if p.license, p.texts, err = licenseOf(dirs[path]); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		b.parts = append(b.parts, *p)
	}
	return b, nil
}

// same holds the modules of the executable against those of the sources.
func same(parts map[string]*part, packages []listed) error {
	seen := map[string]bool{std: true}
	var wrong []error
	for _, p := range packages {
		if p.Standard || p.Module.Main || seen[p.Module.Path] {
			continue
		}
		seen[p.Module.Path] = true
		if in := parts[p.Module.Path]; in == nil || in.version != p.Module.Version {
			wrong = append(wrong, fmt.Errorf("it does not have %s %s", p.Module.Path, p.Module.Version))
		}
	}
	for path := range parts {
		if !seen[path] {
			wrong = append(wrong, fmt.Errorf("nothing here needs its %s", path))
		}
	}
	return errors.Join(wrong...)
}

// usesOf says for each module from which others its packages in the binary import.
func usesOf(packages []listed) map[string][]string {
	of := map[string]string{}
	for _, p := range packages {
		of[p.ImportPath] = p.module()
	}
	uses := map[string]map[string]bool{}
	for _, p := range packages {
		from := p.module()
		if uses[from] == nil {
			uses[from] = map[string]bool{}
		}
		for _, i := range p.Imports {
			if mapped, ok := p.ImportMap[i]; ok {
				i = mapped
			}
			if to := of[i]; to != "" && to != from {
				uses[from][to] = true
			}
		}
	}
	sorted := map[string][]string{}
	for path, set := range uses {
		sorted[path] = slices.Sorted(maps.Keys(set))
	}
	return sorted
}

// dirsOf says for each part where its licences may lie: in the directories of its packages in the binary, and those above up to the module's.
func dirsOf(ctx context.Context, packages []listed) (map[string][]string, error) {
	goroot, err := goCommand(ctx, nil, "env", "GOROOT")
	if err != nil {
		return nil, err
	}
	found := map[string]map[string]bool{std: {strings.TrimSpace(string(goroot)): true}}
	for _, p := range packages {
		if p.Standard || p.Module.Main {
			continue
		}
		if found[p.Module.Path] == nil {
			found[p.Module.Path] = map[string]bool{}
		}
		for dir := p.Dir; ; dir = filepath.Dir(dir) {
			found[p.Module.Path][dir] = true
			if len(dir) <= len(p.Module.Dir) {
				break
			}
		}
	}
	dirs := map[string][]string{}
	for path, set := range found {
		dirs[path] = slices.Sorted(maps.Keys(set))
	}
	return dirs, nil
}

// list asks which packages are linked into a command on a platform.
func list(ctx context.Context, goos, goarch, cgo, tags, command string) ([]listed, error) {
	out, err := goCommand(ctx, []string{"GOOS=" + goos, "GOARCH=" + goarch, "CGO_ENABLED=" + cgo},
		"list", "-deps", "-tags="+tags, "-json=ImportPath,Dir,Standard,Imports,ImportMap,Module", command)
	if err != nil {
		return nil, err
	}
	var packages []listed
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := d.Decode(&p); err == io.EOF {
			break
		} else if err != nil {
			return nil, err
		}
		if !p.Standard && (p.Module == nil || p.Module.Dir == "") {
			return nil, fmt.Errorf("%s: its module's sources are not here", p.ImportPath)
		}
		if !p.Standard && p.Module.Replace != nil && here(p.Module.Replace.Path) {
			p.Module.Path, p.Module.Main = mainModule, true
		}
		packages = append(packages, p)
	}
	return packages, nil
}

// goCommand runs the go command in the repository.
func goCommand(ctx context.Context, env []string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "go", args...) //nolint:gosec // the arguments are this program's
	cmd.Dir = root
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go %s: %w", args[0], err)
	}
	return out, nil
}

func sum(file string) (string, error) {
	f, err := os.Open(file) //nolint:gosec // the file is named by whoever runs this
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return fmt.Sprintf("%x", h.Sum(nil)), nil
}
