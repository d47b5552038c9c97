package project

import (
	"bytes"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"github.com/tokenbroker/tokenbroker/internal/installed"
)

// compose is what the tests look at in docker-compose.yml.
type compose struct {
	Services map[string]service `yaml:"services"`
	Volumes  map[string]any     `yaml:"volumes"`
	Networks map[string]struct {
		Internal bool `yaml:"internal"`
	} `yaml:"networks"`
	Configs map[string]struct{ File, Content string } `yaml:"configs"`
}

type service struct {
	Image       string                                `yaml:"image"`
	Build       string                                `yaml:"build"`
	User        string                                `yaml:"user"`
	Command     []string                              `yaml:"command"`
	Environment map[string]string                     `yaml:"environment"`
	NetworkMode string                                `yaml:"network_mode"`
	Networks    []string                              `yaml:"networks"`
	Ports       []string                              `yaml:"ports"`
	Volumes     []string                              `yaml:"volumes"`
	Privileged  bool                                  `yaml:"privileged"`
	ReadOnly    bool                                  `yaml:"read_only"`
	MemLimit    string                                `yaml:"mem_limit"`
	CapAdd      []string                              `yaml:"cap_add"`
	CapDrop     []string                              `yaml:"cap_drop"`
	SecurityOpt []string                              `yaml:"security_opt"`
	DependsOn   map[string]struct{ Condition string } `yaml:"depends_on"`
	Healthcheck struct{ Test []string }               `yaml:"healthcheck"`
	Profiles    []string                              `yaml:"profiles"`
	Configs     []struct{ Source, Target string }     `yaml:"configs"`
}

func readCompose(t *testing.T) compose {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "docker-compose.yml"))
	if err != nil {
		t.Fatal(err)
	}
	var c compose
	if err := yaml.Unmarshal(text, &c); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"certs", "redis", "upstream", "broker-1", "broker-2", "shop"} {
		if _, ok := c.Services[name]; !ok {
			t.Fatalf("got services %q, want %s among them", slices.Sorted(maps.Keys(c.Services)), name)
		}
	}
	return c
}

func TestComposeServicesAreConfinedAndWatched(t *testing.T) {
	t.Parallel()
	c := readCompose(t)
	for name, s := range c.Services {
		if !s.ReadOnly || s.Privileged || len(s.CapAdd) > 0 || !slices.Equal(s.CapDrop, []string{"ALL"}) || !slices.Equal(s.SecurityOpt, []string{"no-new-privileges:true"}) {
			t.Errorf("%s: want a root file system that is read only, no capabilities and no new privileges; got %+v", name, s)
		}
		if s.MemLimit == "" {
			t.Errorf("%s may take all memory that there is", name)
		}
		if uid, _, _ := strings.Cut(s.User, ":"); s.Build == "" && (uid == "" || strings.Trim(uid, "0") == "") || s.Build != "" && s.User != "" {
			t.Errorf("%s: got user %q, want a number that is not root's, or the one of our image", name, s.User)
		}
		if s.Build == "" && !fixedTag.MatchString(s.Image) {
			t.Errorf("%s: image %s: want NAME:MAJOR.MINOR.PATCH", name, s.Image)
		}
		if strings.HasSuffix(s.Image, ":latest") || !strings.Contains(s.Image, ":") {
			t.Errorf("%s: image %s moves", name, s.Image)
		}
		if ends := name == "certs" || len(s.Profiles) > 0; !ends && (len(s.Healthcheck.Test) < 2 || s.Healthcheck.Test[0] != "CMD") {
			t.Errorf("%s: got health check %q, want a command without a shell", name, s.Healthcheck.Test)
		}
		for _, p := range s.Ports {
			if host := strings.TrimSuffix(p, "/tcp"); !strings.HasPrefix(host, "127.0.0.1:") || strings.Count(host, ":") != 2 {
				t.Errorf("%s: port %s is published on more than 127.0.0.1", name, p)
			}
		}
		for other, d := range s.DependsOn {
			if _, ok := c.Services[other]; !ok || other == name {
				t.Errorf("%s depends on %s, which is no other service", name, other)
			}
			if want := map[bool]string{true: "service_completed_successfully", false: "service_healthy"}[other == "certs"]; d.Condition != want {
				t.Errorf("%s waits until %s is %q, want %s", name, other, d.Condition, want)
			}
		}
		for _, v := range s.Volumes {
			from, _, _ := strings.Cut(v, ":")
			if _, ok := c.Volumes[from]; !ok {
				t.Errorf("%s: %s is no volume that is declared", name, v)
			}
		}
		for _, of := range s.Configs {
			is, ok := c.Configs[of.Source]
			if !ok {
				t.Errorf("%s: %s is no configuration that is declared", name, of.Source)
			}
			if _, err := os.Stat(filepath.Join(root, is.File)); err != nil {
				t.Errorf("%s: %v", of.Source, err)
			}
		}
		for _, n := range s.Networks {
			if _, ok := c.Networks[n]; !ok {
				t.Errorf("%s: %s is no network that is declared", name, n)
			}
		}
		if want := map[bool]string{true: "none", false: ""}[name == "certs"]; s.NetworkMode != want {
			t.Errorf("%s: got network_mode %q, want %q", name, s.NetworkMode, want)
		}
	}
}

func TestComposeRedisLosesNothing(t *testing.T) {
	t.Parallel()
	c := readCompose(t)
	redis := c.Services["redis"]
	if !strings.HasPrefix(redis.Image, "redis:7.") {
		t.Errorf("image %s, want Redis 7", redis.Image)
	}
	for option, want := range map[string]string{"--port": "0", "--tls-port": "6379", "--aclfile": "/certs/redis.acl", "--appendonly": "yes", "--appendfsync": "always", "--maxmemory-policy": "noeviction"} {
		if i := slices.Index(redis.Command, option); i < 0 || i+1 == len(redis.Command) || redis.Command[i+1] != want {
			t.Errorf("%q: want %s %s", redis.Command, option, want)
		}
	}
	if !slices.Contains(redis.Volumes, "redis:/data") {
		t.Errorf("got volumes %q, want one at /data", redis.Volumes)
	}
	if test := redis.Healthcheck.Test; !slices.Contains(test, "redis-cli") || !slices.Contains(test, "ping") {
		t.Errorf("got health check %q, want redis-cli ping", test)
	}
	if len(redis.Ports) > 0 || len(redis.Networks) != 1 || !c.Networks[redis.Networks[0]].Internal {
		t.Error("want Redis in one internal network, without ports")
	}
}

func TestComposeBrokersShareStoreAndKeyAndNothingElse(t *testing.T) {
	t.Parallel()
	c := readCompose(t)
	one, two := c.Services["broker-1"], c.Services["broker-2"]
	for _, same := range []string{"TOKENBROKER_KEY_FILE", "TOKENBROKER_CONFIG"} {
		if a, b := one.Environment[same], two.Environment[same]; a == "" || a != b {
			t.Errorf("%s is %q and %q, want the same", same, a, b)
		}
	}
	for name, b := range map[string]service{"broker-1": one, "broker-2": two} {
		if !slices.Equal(b.Healthcheck.Test, []string{"CMD", "/tokenbroker", "health"}) {
			t.Errorf("%s: got health check %q, want the image's own", name, b.Healthcheck.Test)
		}
		for _, other := range []string{"redis", "upstream"} {
			if _, ok := b.DependsOn[other]; !ok {
				t.Errorf("%s does not wait for %s", name, other)
			}
		}
		if want := name + ":/data"; !slices.Contains(b.Volumes, want) || !slices.Contains(b.Volumes, "keys:/keys") {
			t.Errorf("%s: got volumes %q, want %s and keys:/keys", name, b.Volumes, want)
		}
	}
}

// TestComposeShowsItsBrokers: what scrapes them asks where they answer others, by our rules, and what draws it has our dashboard.
func TestComposeShowsItsBrokers(t *testing.T) {
	t.Parallel()
	c := readCompose(t)
	for _, name := range []string{"broker-1", "broker-2"} {
		if at := name + c.Services[name].Environment["TOKENBROKER_PROBES_LISTEN"]; !strings.Contains(c.Configs["prometheus"].Content, `"`+at+`"`) {
			t.Errorf("Prometheus does not ask %s", at)
		}
	}
	for source, file := range map[string]string{"alerts": "deploy/prometheus/alerts.yaml", "dashboard": "deploy/grafana/tokenbroker.json"} {
		if got := c.Configs[source].File; got != file {
			t.Errorf("%s: got %s, want %s", source, got, file)
		}
	}
	for _, name := range []string{"prometheus", "grafana"} {
		if s := c.Services[name]; len(s.Configs) == 0 || len(s.Ports) > 0 || !slices.Equal(s.Profiles, []string{"seeing"}) {
			t.Errorf("%s: got %+v", name, s)
		}
	}
}

// TestComposeReadsItsFile: what docker compose itself reads the file with finds nothing wrong with it, and finds what is.
func TestComposeReadsItsFile(t *testing.T) {
	t.Parallel()
	spec := installed.Tool(t, "compose-spec")
	read := func(text []byte) (string, error) {
		name := filepath.Join(t.TempDir(), "docker-compose.yml")
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), spec, name)
		cmd.Dir = root
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	text, err := os.ReadFile(filepath.Join(root, "docker-compose.yml"))
	if err != nil {
		t.Fatal(err)
	}
	if out, err := read(text); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	for was, becomes := range map[string]string{"healthcheck:": "healthchecks:", "depends_on:": "depends_on: 1\n    labels:"} {
		wrong := bytes.Replace(text, []byte(was), []byte(becomes), 1)
		if out, err := read(wrong); bytes.Equal(wrong, text) || err == nil {
			t.Errorf("with %q for %q: got %s, want that it is refused", becomes, was, out)
		}
	}
}
