package demo

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"go.yaml.in/yaml/v4"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	"github.com/tokenbroker/tokenbroker/internal/readfile"
	"github.com/tokenbroker/tokenbroker/internal/upstreamsim"
)

type upstreamCommand struct {
	Listen   string `default:"127.0.0.1:7443" help:"Where the simulator answers; loopback only, unless --as names it for others."`
	As       string `help:"host:port by which brokers of other machines reach the simulator. It answers whoever reaches it, and takes orders from this machine alone."`
	Dir      string `help:"Where to write settings, CA and credentials for it; made if missing. None: a temporary directory."`
	Settings string `help:"Settings file of a broker, such as certs dev makes it, to which those for the simulator are added in what is written."`
}

// Run runs the simulator until interrupted, and prints a line for each thing that happens there.
func (c *upstreamCommand) Run(p *console.Process) error {
	dir := c.Dir
	if dir == "" {
		var err error
		if dir, err = os.MkdirTemp("", "tokenbroker-upstream-"); err != nil {
			return err
		}
		defer leave(p.Stderr, dir)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	former, err := c.settings()
	if err != nil {
		return err
	}
	sim, err := upstreamsim.New(upstreamsim.Options{Addr: c.Listen, Exposed: c.As != "", OnEvent: func(e upstreamsim.Event) {
		console.Printf(p.Stdout, "%s\n", e)
	}})
	if err != nil {
		return console.WrongInput(err)
	}
	err = sim.Start()
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("another process has the port of %s, probably another `demo upstream`: use that one, or take a free port with --listen 127.0.0.1:0", c.Listen)
	}
	if err != nil {
		return err
	}
	defer sim.Close() //nolint:errcheck // nobody needs it any more
	if err := os.MkdirAll(filepath.Join(dir, secretsDir), 0o700); err != nil {
		return err
	}
	if err := writeDemoFiles(dir, sim, cmp.Or(c.As, sim.Addr()), former); err != nil {
		return err
	}
	console.Printf(p.Stdout, `The simulated upstreams answer on %[1]s. What points a broker at them is in %[2]s.
In another terminal:

  export TOKENBROKER_CONFIG=%[2]s/settings.yaml
  %[3]s serve

and in a third:

  export TOKENBROKER_CONFIG=%[2]s/settings.yaml
  %[3]s credential apply -f %[2]s/credentials.yaml
  %[3]s token get officernd-1
  %[3]s credential status officernd-1

What happens here, a line each:

`, sim.Addr(), dir, called())
	<-p.Context.Done()
	return nil
}

// settings are those to which the simulator's are added; empty: none.
func (c *upstreamCommand) settings() (string, error) {
	if c.As != "" {
		if host, port, err := net.SplitHostPort(c.As); err != nil || host == "" || port == "" {
			return "", console.BadInput("--as: %.100q: write host:port", c.As)
		}
	}
	if c.Settings == "" {
		return "", nil
	}
	data, err := readfile.Read(c.Settings, 1<<20)
	if err != nil {
		return "", console.BadInput("--settings: %s: %v", c.Settings, readfile.Why(err))
	}
	var words map[string]any
	if err := yaml.Unmarshal(data, &words); err != nil {
		return "", console.BadInput("--settings: %s: it cannot be read: %v", c.Settings, err)
	}
	if words["data_dir"] == nil || words["upstream"] != nil {
		return "", console.BadInput("--settings: %s: it has to have data_dir, and not upstream, which is added", c.Settings)
	}
	return string(data), nil
}

// secretsDir is where, beside the settings, the secrets of the simulated accounts are.
const secretsDir = "secrets"

// leave removes what this command has written into its temporary directory. What a broker has put there meanwhile is not its to delete.
func leave(w io.Writer, dir string) {
	for _, name := range []string{"ca.pem", "settings.yaml", "credentials.yaml", secretsDir} {
		_ = os.RemoveAll(filepath.Join(dir, name))
	}
	if os.Remove(dir) != nil {
		console.Printf(w, "a broker has its data in %s: delete it when you need it no more\n", dir)
	}
}

// called is how this program was called, for commands to copy.
func called() string {
	if strings.Contains(os.Args[0], "go-build") {
		return "go run ./cmd/tokenbroker"
	}
	return os.Args[0]
}

// demoHeader is how the files begin that may be written again.
const demoHeader = "# Of `tokenbroker demo upstream`, which writes it anew at each start.\n"

// overwritable fails where one of the files is there and not this command's. They are, where the settings are: those of this version say so at their
// beginning, and those of versions before begin with what nobody else writes.
func overwritable(dir string, names []string) error {
	former := fmt.Sprintf("data_dir: %q\nupstream:\n  ca_file: %q\n  connect_to:\n", filepath.Join(dir, "data"), filepath.Join(dir, "ca.pem"))
	settings, err := readfile.Read(filepath.Join(dir, "settings.yaml"), 1<<20)
	if err == nil && (strings.HasPrefix(string(settings), demoHeader) || strings.HasPrefix(string(settings), former)) {
		return nil
	}
	for _, name := range names {
		if _, err := os.Lstat(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
			return console.BadInput("%s is there, and `demo upstream` has not written it: delete it, or name another directory with --dir", filepath.Join(dir, name))
		}
	}
	return nil
}

// writeDemoFiles writes what a broker and an operator need to use the simulator, which is at this address. settings are what else a broker needs; empty: a place
// for its data.
func writeDemoFiles(dir string, sim *upstreamsim.Sim, address, settings string) error {
	files := map[string]string{"ca.pem": string(sim.CA())}
	var b strings.Builder
	if settings == "" {
		settings = fmt.Sprintf("data_dir: %q\n", filepath.Join(dir, "data"))
	}
	fmt.Fprintf(&b, demoHeader+"%supstream:\n  ca_file: %q\n  connect_to:\n", settings, filepath.Join(dir, "ca.pem"))
	for _, h := range sim.Hosts() {
		fmt.Fprintf(&b, "    %q: %q\n", h, address)
	}
	files["settings.yaml"] = b.String()
	b.Reset()
	b.WriteString(demoHeader)
	for _, a := range sim.Accounts() {
		fmt.Fprintf(&b, "- name: %s\n  provider: %s\n", a.ID, a.System)
		writeMap(&b, "inputs", a.Inputs)
		refs := map[string]string{}
		for _, name := range slices.Sorted(maps.Keys(a.Secrets)) {
			file := filepath.Join(secretsDir, string(a.ID)+"."+name)
			files[file] = a.Secrets[name]
			refs[name] = "file:" + file
		}
		writeMap(&b, "secrets", refs)
		if len(a.Scopes) > 0 {
			fmt.Fprintf(&b, "  default_scopes: [%s]\n", strings.Join(quotedAll(a.Scopes), ", "))
		}
	}
	files["credentials.yaml"] = b.String()
	if err := overwritable(dir, slices.Sorted(maps.Keys(files))); err != nil {
		return err
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

func writeMap(w io.Writer, title string, m map[string]string) {
	if len(m) == 0 {
		return
	}
	console.Printf(w, "  %s:\n", title)
	for _, k := range slices.Sorted(maps.Keys(m)) {
		console.Printf(w, "    %s: %q\n", k, m[k])
	}
}

func quotedAll(all []string) []string {
	var out []string
	for _, s := range all {
		out = append(out, fmt.Sprintf("%q", s))
	}
	return out
}
