package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/internal/installed"
	"github.com/tokenbroker/tokenbroker/internal/upstreamsim/simclient"
)

// A composition is what docker-compose.yml says, run without an engine: a service is a process on a loopback address of its own, an image a program of this machine,
// a volume a directory. What stands in the file is what runs, but for these.
type composition struct {
	t        *testing.T
	dir      string
	binary   string
	Services map[string]composed `json:"services"`
	// hosts are the services' addresses.
	hosts map[string]string
}

type composed struct {
	Build       *struct{}          `json:"build"`
	Command     []string           `json:"command"`
	Environment map[string]*string `json:"environment"`
	Volumes     []struct {
		Source, Target string
		ReadOnly       bool `json:"read_only"`
	} `json:"volumes"`
	DependsOn   map[string]struct{ Condition string } `json:"depends_on"`
	Healthcheck *struct{ Test []string }              `json:"healthcheck"`
	Profiles    []string                              `json:"profiles"`
}

func newComposition(t *testing.T) *composition {
	t.Helper()
	if runtime.GOOS != "linux" {
		installed.Without(t, "elsewhere a loopback has one address")
	}
	spec := exec.CommandContext(t.Context(), installed.Tool(t, "compose-spec"), "-format", "json", "docker-compose.yml")
	spec.Dir = "../.."
	out, err := spec.Output()
	if err != nil {
		t.Fatal(err)
	}
	c := &composition{t: t, dir: shortDir(t), hosts: map[string]string{}}
	if err := json.Unmarshal(out, c); err != nil {
		t.Fatal(err)
	}
	if c.binary, err = binary(); err != nil {
		t.Fatal(err)
	}
	// Ports are the file's. Nobody else has them on this network of loopback addresses.
	network := fmt.Sprintf("127.%d.%d.", 1+rand.IntN(254), rand.IntN(256))
	for i, name := range []string{"broker-1", "broker-2", "redis", "upstream", "shop"} {
		if _, ok := c.Services[name]; !ok {
			t.Fatalf("there is no service %s, but %q", name, slices.Sorted(maps.Keys(c.Services)))
		}
		c.hosts[name] = network + fmt.Sprint(2+i)
	}
	return c
}

// here is a word of a service's command or environment with this machine's paths and addresses.
func (c *composition) here(name, word string) string {
	s := c.Services[name]
	if word == "/tokenbroker" {
		return c.binary
	}
	for _, v := range s.Volumes {
		if word == v.Target || strings.HasPrefix(word, v.Target+"/") || strings.HasPrefix(word, "unix:"+v.Target+"/") {
			return strings.Replace(word, v.Target, filepath.Join(c.dir, v.Source), 1)
		}
	}
	if strings.HasPrefix(word, ":") {
		return c.hosts[name] + word
	}
	for host, at := range c.hosts {
		if word == host && strings.HasPrefix(host, "broker-") { // the others' names are words of commands, too
			return at
		}
		word = regexp.MustCompile(`(^|/)`+host+`(:\d+)`).ReplaceAllString(word, "${1}"+at+"${2}")
	}
	return word
}

// command is a service's process, with this command.
func (c *composition) command(name string, words ...string) *exec.Cmd {
	c.t.Helper()
	s := c.Services[name]
	var all []string
	for _, w := range words {
		all = append(all, c.here(name, w))
	}
	env := cleanEnvironment()
	if s.Build != nil {
		text, err := os.ReadFile("../../Dockerfile")
		if err != nil {
			c.t.Fatal(err)
		}
		for _, v := range regexp.MustCompile(`(TOKENBROKER_[A-Z_]+)=(\S+)`).FindAllStringSubmatch(string(text), -1) {
			env = append(env, v[1]+"="+c.here(name, v[2]))
		}
		if all[0] != c.binary {
			all = append([]string{c.binary}, all...)
		}
	}
	for k, v := range s.Environment {
		env = append(env, k+"="+c.here(name, *v))
	}
	for _, v := range s.Volumes {
		if err := os.MkdirAll(filepath.Join(c.dir, v.Source), 0o700); err != nil {
			c.t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(c.t.Context(), all[0], all[1:]...)
	cmd.Env, cmd.Dir = env, c.dir
	return cmd
}

// run runs a command in a service's place to its end, as docker compose exec and run do.
func (c *composition) run(name string, words ...string) string {
	c.t.Helper()
	cmd := c.command(name, words...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		c.t.Fatalf("%s: %v: %v\n%s", name, words, err, out)
	}
	return string(out)
}

// up starts a service, and waits until its health check says that it is well.
func (c *composition) up(name string, cmd *exec.Cmd) *proc {
	c.t.Helper()
	p := &proc{t: c.t, cmd: cmd, done: make(chan struct{}), changed: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = p, p
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	go func() {
		_ = cmd.Wait()
		close(p.done)
	}()
	c.t.Cleanup(func() {
		p.kill()
		if c.t.Failed() {
			c.t.Logf("%s:\n%s", name, p.output())
		}
	})
	test := c.Services[name].Healthcheck.Test
	if len(test) < 2 || test[0] != "CMD" {
		c.t.Fatalf("%s: got health check %q", name, test)
	}
	for began := time.Now(); ; <-time.After(100 * time.Millisecond) {
		check := test[1:]
		if check[0] == "redis-cli" { // in its container it is at the loopback address
			check = append([]string{"redis-cli", "-h", c.hosts[name]}, check[1:]...)
		}
		out, err := c.command(name, check...).CombinedOutput()
		if err == nil {
			return p
		}
		select {
		case <-p.done:
			c.t.Fatalf("%s has ended:\n%s", name, p.output())
		default:
		}
		if time.Since(began) > patience {
			c.t.Fatalf("%s does not become well: %s", name, out)
		}
	}
}

// TestTheCompositionOfDocker: what docker-compose.yml says works, between machines: two brokers, a Redis with TLS and an ACL, and an upstream, each on an address of its own. A
// client on another one has the same token of both brokers, for one request to the upstream.
func TestTheCompositionOfDocker(t *testing.T) {
	t.Parallel()
	c := newComposition(t)
	redis := installed.Tool(t, "redis-server")
	for _, once := range []bool{true, false} { // the second time, as after a stop, it finds everything made
		if out := c.run("certs", c.Services["certs"].Command...); strings.Contains(out, "made before") == once {
			t.Errorf("certs: got %s", out)
		}
	}
	// The image's own: its directory, and that it answers others.
	words := c.Services["redis"].Command
	if words[0] != "redis-server" {
		t.Fatalf("got %q", words)
	}
	cmd := c.command("redis", append(words, "--bind", c.hosts["redis"], "--protected-mode", "no", "--dir", "/data")...)
	cmd.Path = redis
	c.up("redis", cmd)
	c.up("upstream", c.command("upstream", c.Services["upstream"].Command...))
	made, err := os.ReadFile(filepath.Join(c.dir, "demo/settings.yaml"))
	if err != nil || strings.Count(string(made), `[":743`) != 2 {
		t.Fatalf("got %s, %v", made, err)
	}
	for _, name := range []string{"broker-1", "broker-2"} {
		cmd := c.command(name, "serve")
		// A container has all ports, and its loopback, for itself.
		own := filepath.Join(c.dir, name+".yaml")
		if err := os.WriteFile(own, []byte(strings.ReplaceAll(string(made), `[":743`, `["`+c.hosts[name]+`:743`)), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd.Env = append(cmd.Env, "TOKENBROKER_CONFIG="+own, "TOKENBROKER_LISTEN="+c.hosts[name]+":7420", "TOKENBROKER_METRICS_LISTEN="+c.hosts[name]+":7421")
		c.up(name, cmd)
	}
	if acl, err := os.ReadFile(filepath.Join(c.dir, "certs/redis.acl")); err != nil || !strings.Contains(string(acl), strings.TrimPrefix(documentedACL(t, "", ""), " on > ")) {
		t.Errorf("got %s, %v; want the rights of docs/redis.md in it", acl, err)
	}
	// What the file's first lines say.
	c.run("broker-1", "/tokenbroker", "credential", "apply", "-f", "/demo/credentials.yaml")
	first := c.run("broker-1", "/tokenbroker", "token", "get", "officernd-1", "-o", "json")
	if second := c.run("broker-2", "/tokenbroker", "token", "get", "officernd-1", "-o", "json"); idOf(t, first) != idOf(t, second) {
		t.Error("the other broker has another token")
	}
	if got := c.run("shop", "token", "get", "officernd-1", "--address", "broker-2:7430", "-o", "json"); idOf(t, got) != idOf(t, first) {
		t.Error("the service has another token")
	}
	c.run("shop", c.Services["shop"].Command...)

	client := c.client()
	for _, name := range []string{"broker-1", "broker-2"} {
		if got := client(name); got != idOf(t, first) {
			t.Errorf("%s: the client has another token", name)
		}
	}
	ca, err := os.ReadFile(filepath.Join(c.dir, "demo/ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	sim, err := simclient.New(c.hosts["upstream"]+":7443", ca)
	if err != nil {
		t.Fatal(err)
	}
	said, err := sim.Order(t.Context(), http.MethodGet, "/stats")
	var stats struct {
		Systems map[string]struct {
			Requests map[string]int `json:"requests"`
		} `json:"systems"`
	}
	if err == nil {
		err = json.Unmarshal(said, &stats)
	}
	asked := 0
	for _, n := range stats.Systems["officernd"].Requests {
		asked += n
	}
	if err != nil || asked != 1 {
		t.Errorf("the upstream was asked %d times, want once: %s, %v", asked, said, err)
	}
	for name, args := range map[string][]string{
		"nobody's certificate": {"-h", c.hosts["redis"], "-p", "6379", "--tls", "--cacert", c.dir + "/certs/ca.pem", "-e", "ping"},
		"no user":              {"-h", c.hosts["redis"], "-p", "6379", "--tls", "--cacert", c.dir + "/certs/ca.pem", "--cert", c.dir + "/certs/shop.pem", "--key", c.dir + "/certs/shop.key", "-e", "dbsize"},
		"in the clear":         {"-h", c.hosts["redis"], "-p", "6379", "-e", "ping"},
	} {
		if out, err := exec.CommandContext(t.Context(), "redis-cli", args...).CombinedOutput(); err == nil {
			t.Errorf("Redis answers with %s: %s", name, out)
		}
	}
}

func idOf(t *testing.T, out string) string {
	t.Helper()
	var got struct {
		Token struct {
			TokenID string `json:"token_id"`
		} `json:"token"`
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil || got.Token.TokenID == "" {
		t.Fatalf("got %s, %v", out, err)
	}
	return got.Token.TokenID
}

// client asks brokers for a token from an address of its own, with the certificate of the shop.
func (c *composition) client() func(name string) (tokenID string) {
	c.t.Helper()
	pair, err := tls.LoadX509KeyPair(c.dir+"/certs/shop.pem", c.dir+"/certs/shop.key")
	if err != nil {
		c.t.Fatal(err)
	}
	ca, err := os.ReadFile(c.dir + "/certs/ca.pem")
	if err != nil {
		c.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	from := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(c.hosts["shop"])}}
	return func(name string) string {
		c.t.Helper()
		conn, err := grpc.NewClient("passthrough:///"+c.hosts[name]+":7430", grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
			RootCAs: roots, ServerName: c.hosts[name], Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12,
		})), grpc.WithContextDialer(func(ctx context.Context, to string) (net.Conn, error) { return from.DialContext(ctx, "tcp", to) }))
		if err != nil {
			c.t.Fatal(err)
		}
		defer conn.Close()
		ctx, cancel := context.WithTimeout(c.t.Context(), patience)
		defer cancel()
		res, err := tokenbrokerv1.NewTokenBrokerServiceClient(conn).GetToken(ctx, &tokenbrokerv1.GetTokenRequest{Credential: "officernd-1"})
		if err != nil {
			c.t.Fatal(err)
		}
		return res.GetToken().GetTokenId()
	}
}
