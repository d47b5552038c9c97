package operator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"

	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/settings"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/internal/newfile"
	"github.com/tokenbroker/tokenbroker/store/bolt"
)

// BackupCommand copies the embedded store.
type BackupCommand struct {
	File    string `arg:"" help:"Where to write the copy; it must not exist."`
	Offline bool   `help:"Copy the file of the data directory although a broker runs on this machine that has its data elsewhere."`
	console.Format
	whereabouts
}

// Run copies the data: through the running broker, or from the file itself when none runs.
func (c *BackupCommand) Run(p *console.Process) error {
	if _, err := os.Lstat(c.File); err == nil {
		return console.BadInput("%s exists already: a backup never overwrites a file", c.File)
	}
	from, online := "of the broker that runs on "+c.DataDir, true
	err := c.online(p.Context)
	if errors.Is(err, errNoBroker) {
		if err := c.notAnothers(p.Context); err != nil {
			return err
		}
		from, online = "of "+filepath.Join(c.DataDir, settings.DataFile)+", on which no broker runs", false
		err = c.offline(p.Context)
	}
	if err != nil {
		return err
	}
	if c.JSON() {
		return console.JSON(p.Stdout, struct {
			File    string `json:"file"`
			DataDir string `json:"data_dir"`
			Online  bool   `json:"online"`
		}{c.File, c.DataDir, online})
	}
	console.Printf(p.Stdout, "wrote %s, a copy %s\n", c.File, from)
	console.Println(p.Stderr, "it is sealed: keep a copy of the key file too, or of the key that keys.kek names, in another place; without it the backup cannot be read")
	return nil
}

var errNoBroker = errors.New("no broker runs")

// online asks the running broker for a consistent copy.
func (c *BackupCommand) online(ctx context.Context) error {
	admin := place{}.socketAt(filepath.Join(c.DataDir, settings.AdminSocket))
	h := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return admin.dial(ctx)
	}}}
	defer h.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://broker/backup", nil)
	if err != nil {
		return err
	}
	res, err := h.Do(req)
	var stranger *strangerError
	switch {
	case errors.As(err, &stranger):
		return console.WrongInput(stranger)
	case err != nil:
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
		if res.Trailer.Get(settings.BackupComplete) != "yes" {
			return errors.New("back up: the broker broke off; its log says why")
		}
		return nil
	})
}

// notAnothers fails where a broker answers at the address that is everybody's default: it runs on other data than those of the directory, and
// they are the ones that somebody wants to have copied.
func (c *BackupCommand) notAnothers(ctx context.Context) error {
	if c.Offline {
		return nil
	}
	asked := remote{Address: settings.DefaultAddress, Timeout: dialMost}
	err := asked.with(ctx, func(ctx context.Context, cl *client) error {
		_, err := healthv1.NewHealthClient(cl.conn).Check(ctx, &healthv1.HealthCheckRequest{Service: tokenbrokerv1.TokenBrokerService_ServiceDesc.ServiceName})
		return err
	})
	if err != nil {
		return nil //nolint:nilerr // nobody answers, or it is no broker
	}
	return console.BadInput("a broker answers at %s, and does not run on %s: name its settings file with --config, or its --data-dir; "+
		"--offline copies %s all the same", settings.DefaultAddress, c.DataDir, filepath.Join(c.DataDir, settings.DataFile))
}

func (c *BackupCommand) offline(ctx context.Context) error {
	path := filepath.Join(c.DataDir, settings.DataFile)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return console.BadInput("there is nothing to back up in %s; another directory goes with --data-dir", c.DataDir)
	}
	db, err := bolt.Open(path, bolt.Options{})
	if err != nil {
		return err
	}
	defer db.Close() //nolint:errcheck // it was only read
	return db.BackupFile(ctx, c.File)
}

// writeNew writes a file of mode 0600 that appears when it is complete. What write fails with is passed on.
func writeNew(path string, write func(io.Writer) error) error {
	var failure error
	err := newfile.Write(path, func(f *os.File) error {
		failure = write(f)
		return failure
	})
	if failure == nil && err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return failure
}
