package project

import (
	"bytes"
	"context"
	"encoding/json"
	"go/version"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/installed"
)

// TestTheImageServesAloneInItsRootDirectory builds what the Dockerfile builds and runs it as the image's user.
func TestTheImageServesAloneInItsRootDirectory(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it builds the command for the image, which takes half a minute")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(root, "scripts", "image-check"))
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("scripts/image-check: %v\n%s", err, out)
	}
	if bytes.Contains(out, []byte("SKIPPED")) {
		installed.Without(t, "%s", out)
	}
}

// An instruction of a Dockerfile, without its flags: HEALTHCHECK --timeout=5s CMD … has arguments CMD ….
type instruction struct {
	name, arguments string
	flags           []string
}

// A stage is FROM and what follows it.
type stage []instruction

func (s stage) all(name string) []instruction {
	return slices.DeleteFunc(slices.Clone(s), func(i instruction) bool { return i.name != name })
}

// arguments are those of the stage's only instruction of a name.
func (s stage) arguments(t *testing.T, name string) string {
	t.Helper()
	got := s.all(name)
	if len(got) != 1 {
		t.Fatalf("got %d %s in a stage, want 1", len(got), name)
	}
	return got[0].arguments
}

var continued = regexp.MustCompile(`\\\n(?:[ \t]*#[^\n]*\n)*`)

// readDockerfile understands what ours has: no here documents, no other escape character.
func readDockerfile(t *testing.T) []stage {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	var stages []stage
	for line := range strings.Lines(continued.ReplaceAllString(string(text), " ")) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, rest, _ := strings.Cut(line, " ")
		i := instruction{name: name}
		for rest = strings.TrimSpace(rest); strings.HasPrefix(rest, "--"); rest = strings.TrimSpace(rest) {
			var flag string
			flag, rest, _ = strings.Cut(rest, " ")
			i.flags = append(i.flags, flag)
		}
		if i.arguments = rest; name == "FROM" {
			stages = append(stages, nil)
		}
		if len(stages) == 0 {
			t.Fatalf("%s before FROM", name)
		}
		stages[len(stages)-1] = append(stages[len(stages)-1], i)
	}
	if len(stages) != 2 {
		t.Fatalf("got %d stages, want one that builds and the image", len(stages))
	}
	return stages
}

// words reads an instruction's JSON form, which needs no shell.
func words(t *testing.T, what, text string) []string {
	t.Helper()
	var out []string
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		t.Fatalf("%s is %s, want words in JSON: there is no shell", what, text)
	}
	return out
}

func TestTheDockerfileMakesAnImageOfTheBinaryAlone(t *testing.T) {
	t.Parallel()
	stages := readDockerfile(t)
	build, image := stages[0], stages[1]

	if from := image.arguments(t, "FROM"); from != "scratch" && !regexp.MustCompile(`^gcr\.io/distroless/static[^:@]*@sha256:[0-9a-f]{64}$`).MatchString(from) {
		t.Errorf("the image is made from %s, want scratch, or distroless/static by its digest", from)
	}
	if n := len(image.all("RUN")); n > 0 {
		t.Errorf("got %d RUN in the image's stage: there is no shell that could run them", n)
	}
	if n := len(image.all("ADD")) + len(build.all("ADD")); n > 0 {
		t.Errorf("got %d ADD, want COPY", n)
	}
	uid, gid, _ := strings.Cut(image.arguments(t, "USER"), ":")
	if uid != "65532" || gid != "65532" {
		t.Errorf("the user is %s:%s, want 65532:65532: with numbers Kubernetes can see that it is not root", uid, gid)
	}
	for _, c := range []struct{ instruction, want string }{{"ENTRYPOINT", "/tokenbroker"}, {"CMD", "serve"}, {"VOLUME", "/data"}} {
		if got := words(t, c.instruction, image.arguments(t, c.instruction)); !slices.Equal(got, []string{c.want}) {
			t.Errorf("%s is %q, want %s", c.instruction, got, c.want)
		}
	}
	check, ok := strings.CutPrefix(image.arguments(t, "HEALTHCHECK"), "CMD ")
	if got := words(t, "HEALTHCHECK", check); !ok || !slices.Equal(got, []string{"/tokenbroker", "health"}) {
		t.Errorf("the health check is %q, want the command itself", got)
	}
	labels := image.arguments(t, "LABEL")
	for _, l := range []string{"title", "description", "source", "licenses", "version", "revision"} {
		if !strings.Contains(labels, "org.opencontainers.image."+l+"=") {
			t.Errorf("got no label org.opencontainers.image.%s", l)
		}
	}
	copies := map[string]instruction{}
	for _, c := range image.all("COPY") {
		from, to, _ := strings.Cut(c.arguments, " ")
		copies[to] = c
		if !slices.Contains(c.flags, "--from=build") {
			t.Errorf("COPY %s is not from the stage that builds: %s", from, c.flags)
		}
	}
	if len(copies) != 5 || copies["/tokenbroker"].name == "" || copies["/etc/ssl/certs/ca-certificates.crt"].name == "" ||
		copies["/licenses/LICENSE"].name == "" || copies["/licenses/THIRD_PARTY_LICENSES"].name == "" {
		t.Errorf("got %v in the image, want the binary, the CA certificates, the licences and the directories", copies)
	}
	if own := "--chown=65532:65532"; !slices.Contains(copies["/"].flags, own) || slices.Contains(copies["/tokenbroker"].flags, own) {
		t.Error("the directories must be the user's, and the binary must not")
	}

	var command string
	for _, r := range build.all("RUN") {
		if strings.Contains(r.arguments, "go build ") {
			command = r.arguments
		}
	}
	for _, want := range []string{"CGO_ENABLED=0 ", " -trimpath ", "GOARCH=$TARGETARCH ", " -X main.version=$VERSION"} {
		if !strings.Contains(command, want) {
			t.Errorf("the build is %q, want %q in it", command, want)
		}
	}
}

// fixedTag is a version that does not move much: 7.4.6-bookworm, and neither 7 nor latest.
var fixedTag = regexp.MustCompile(`^[^:@]+:v?(\d+\.\d+\.\d+)(-[a-z0-9.]+)?(@sha256:[0-9a-f]{64})?$`)

func TestTheDockerfileBuildsWithAGoThatIsNewEnough(t *testing.T) {
	t.Parallel()
	from, _, _ := strings.Cut(readDockerfile(t)[0].arguments(t, "FROM"), " ")
	m := fixedTag.FindStringSubmatch(from)
	if m == nil || !strings.HasPrefix(from, "golang:") {
		t.Fatalf("it builds with %s, want golang:MAJOR.MINOR.PATCH", from)
	}
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	needs := regexp.MustCompile(`(?m)^go (\S+)$`).FindStringSubmatch(string(mod))
	if needs == nil || version.Compare("go"+m[1], "go"+needs[1]) < 0 {
		t.Errorf("it builds with Go %s, and go.mod has %q", m[1], needs)
	}
}

// ignored says whether .dockerignore keeps a file away, as far as we use its language: a name at the root or below **/, whose
// directories are kept away with all that is in them.
func ignored(patterns []string, file string) bool {
	parts := strings.Split(file, "/")
	for i := range parts {
		for _, p := range patterns {
			name := strings.TrimPrefix(p, "**/")
			if ok, _ := path.Match(name, parts[i]); ok && (i == 0 || name != p) {
				return true
			}
		}
	}
	return false
}

func TestTheImageIsBuiltFromWhatItNeedsAndNothingSecret(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(root, ".dockerignore"))
	if err != nil {
		t.Fatal(err)
	}
	var patterns []string
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if strings.ContainsAny(strings.TrimPrefix(line, "**/"), "/!") {
			t.Fatalf("%s: this test does not understand it", line)
		}
		patterns = append(patterns, line)
	}
	for _, f := range []string{".git/config", "bin/tokenbroker", "d/key.json", "tokenbroker.db", "d/tokenbroker.db", "demo/ca.pem", ".env", "store/.env"} {
		if !ignored(patterns, f) {
			t.Errorf("%s gets into the build", f)
		}
	}
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f",
		`{{if and .Module .Module.Main}}{{$d := .Dir}}{{range .GoFiles}}{{$d}}/{{.}}{{"\n"}}{{end}}{{range .EmbedFiles}}{{$d}}/{{.}}{{"\n"}}{{end}}{{end}}`, "./cmd/tokenbroker")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "GOOS=linux", "CGO_ENABLED=0")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	top, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	needs := []string{"go.mod", "go.sum", "LICENSE", "THIRD_PARTY_LICENSES"}
	for line := range strings.Lines(string(out)) {
		if line = strings.TrimSpace(line); line != "" {
			rel, err := filepath.Rel(top, line)
			if err != nil {
				t.Fatal(err)
			}
			needs = append(needs, filepath.ToSlash(rel))
		}
	}
	if len(needs) < 50 {
		t.Fatalf("got %d files, want all that the command is built from", len(needs))
	}
	for _, f := range needs {
		if ignored(patterns, f) {
			t.Errorf("%s is needed, and .dockerignore keeps it away", f)
		}
	}
}

func TestIgnored(t *testing.T) {
	t.Parallel()
	patterns := []string{"bin", "**/*.db", "**/testdata", "tokenbroker"}
	for file, want := range map[string]bool{
		"bin/x": true, "cmd/bin/x": false, "a.db": true, "x/y/a.db": true, "a/testdata/b/c.go": true, "cmd/tokenbroker/main.go": false, "tokenbroker": true,
	} {
		if got := ignored(patterns, file); got != want {
			t.Errorf("%s: got %t, want %t", file, got, want)
		}
	}
}
