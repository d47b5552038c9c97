package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"

	"github.com/alecthomas/kong"

	"github.com/tokenbroker/tokenbroker/store/bolt"
)

type configCommands struct {
	Check configCheckCommand `cmd:"" help:"Say everything that is wrong with a settings file."`
}

type configCheckCommand struct {
	File string `arg:"" help:"The settings file."`
}

// Run reads the file as serve would, and holds the settings against their rules.
func (c *configCheckCommand) Run(p *process) error {
	file, wrong, err := readSettings(c.File)
	if err != nil {
		return err
	}
	s := struct{ settings }{settings{at: map[string]position{}}}
	parser, err := kong.New(&s, settingVars(defaultDataDir()), kong.Exit(func(int) {}), kong.Resolvers(file.resolver(s.at)))
	if err != nil {
		return err
	}
	// It is the file that is checked, and not what is around it here.
	if err := withoutEnvironment(parser, func(string) bool { return true }); err != nil {
		return err
	}
	if _, err := parser.Parse(nil); err != nil {
		return badInput("%s: %w", c.File, err)
	}
	if wrong = sorted(append(wrong, s.problems()...)); len(wrong) > 0 {
		return &inputError{errors.Join(wrong...)}
	}
	printline(p.stderr, "no problems")
	return nil
}

type backupCommand struct {
	DataDir string `name:"data-dir" env:"TOKENBROKER_DATA_DIR" default:"${data_dir}" help:"The broker's data directory."`
	File    string `arg:"" help:"Where to write the copy; it must not exist."`
}

// Run copies the data: through the running broker, or from the file itself when none runs.
func (c *backupCommand) Run(p *process) error {
	if _, err := os.Lstat(c.File); err == nil {
		return badInput("%s exists already: a backup overwrites nothing", c.File)
	}
	err := c.online(p.ctx)
	if errors.Is(err, errNoBroker) {
		err = c.offline(p.ctx)
	}
	if err != nil {
		return err
	}
	printf(p.stdout, "wrote %s\n", c.File)
	printline(p.stderr, "it is sealed: keep a copy of the key file too, in another place; without it the backup cannot be read")
	return nil
}

var errNoBroker = errors.New("no broker runs")

// online asks the running broker for a consistent copy.
func (c *backupCommand) online(ctx context.Context) error {
	socket := filepath.Join(c.DataDir, adminSocket)
	h := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	defer h.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://broker/backup", nil)
	if err != nil {
		return err
	}
	res, err := h.Do(req)
	if err != nil {
		return errNoBroker
	}
	defer res.Body.Close() //nolint:errcheck // nothing is left to be lost
	if res.StatusCode != http.StatusOK {
		why, _ := io.ReadAll(io.LimitReader(res.Body, 1<<10)) // without it there is still the status
		return fmt.Errorf("back up: the broker answers %s: %s", res.Status, bytes.TrimSpace(why))
	}
	return writeNew(c.File, func(w io.Writer) error {
		if _, err := io.Copy(w, res.Body); err != nil {
			return fmt.Errorf("back up: %w", err)
		}
		if res.Trailer.Get(backupComplete) != "yes" {
			return errors.New("back up: the broker broke off; its log says why")
		}
		return nil
	})
}

func (c *backupCommand) offline(ctx context.Context) error {
	path := filepath.Join(c.DataDir, dataFile)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return badInput("there is nothing to back up in %s; another directory goes with --data-dir", c.DataDir)
	}
	db, err := bolt.Open(path, bolt.Options{})
	if err != nil {
		return err
	}
	defer db.Close() //nolint:errcheck // it was only read
	return db.BackupFile(ctx, c.File)
}

// writeNew writes a file of mode 0600 that appears when it is complete.
func writeNew(path string, write func(io.Writer) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	if err = write(f); err != nil {
		return err
	}
	if err = errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err = os.Link(f.Name(), path); err != nil { // unlike a rename it overwrites nothing
		return fmt.Errorf("write %s: %w", path, err)
	}
	return os.Remove(f.Name())
}

type versionCommand struct{}

// version is set by the linker in a release.
var version = ""

// Run says what this is.
func (versionCommand) Run(p *process) error { //nolint:unparam // kong wants one
	v, commit := version, ""
	if info, ok := debug.ReadBuildInfo(); ok {
		if v == "" {
			v = info.Main.Version
		}
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				commit = " " + s.Value
			}
		}
	}
	if v == "" {
		v = "(development)"
	}
	printf(p.stdout, "tokenbroker %s%s %s %s/%s\n", v, commit, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return nil
}

// readFile reads a file or, for -, standard input.
func readFile(p *process, name string) ([]byte, error) {
	var b []byte
	var err error
	if name == "-" {
		b, err = awaited(p, func() ([]byte, error) { return io.ReadAll(p.stdin) })
	} else {
		b, err = os.ReadFile(name) //nolint:gosec // the operator names it
	}
	if err != nil {
		return nil, badInput("read %s: %w", name, err)
	}
	return b, nil
}

func parsePrefixes(all []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, s := range all {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, badInput("upstream.allow_private: %q is no range such as 10.1.0.0/16", s)
		}
		out = append(out, p)
	}
	return out, nil
}
