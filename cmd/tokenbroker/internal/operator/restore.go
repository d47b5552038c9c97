package operator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/settings"
	"github.com/tokenbroker/tokenbroker/internal/newfile"
	"github.com/tokenbroker/tokenbroker/internal/readfile"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/bolt"
	"github.com/tokenbroker/tokenbroker/store/seal"
)

// RestoreCommand makes a data directory of a backup.
type RestoreCommand struct {
	File    string `arg:"" help:"The backup."`
	DataDir string `type:"place" name:"data-dir" env:"TOKENBROKER_DATA_DIR" default:"${data_dir}" help:"The data directory that is to have it; made if missing. It must have no data yet."`
	KeyFile string `type:"place" name:"key-file" env:"TOKENBROKER_KEY_FILE" default:"auto" help:"The key file of the time of the backup. auto: key.json in the data directory."`
	Config  string `env:"TOKENBROKER_CONFIG" type:"path" help:"The broker's settings file, for where its data are."`
	settings.KeysSettings
	console.Format
}

// Run puts the backup in place once it has been read with its key: what cannot be read is not put there.
func (c *RestoreCommand) Run(p *console.Process) error {
	path, key := filepath.Join(c.DataDir, settings.DataFile), settings.OrIn(c.KeyFile, c.DataDir, "key.json")
	if _, err := os.Lstat(path); err == nil {
		return console.BadInput("%s is there: a restore replaces nothing. Stop the broker, and move its data away first", path)
	}
	keys, err := seal.Load(key)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	wrong := error(nil)
	c.KeysProblems(func(setting, format string, args ...any) {
		wrong = console.BadInput("setting %s: %s", setting, fmt.Sprintf(format, args...))
	})
	if wrong != nil {
		return wrong
	}
	from, info, err := readfile.Open(c.File)
	if errors.Is(err, readfile.ErrNotRegular) {
		return console.BadInput("%s is no backup: %w; nothing was changed", c.File, err)
	}
	if err != nil {
		return console.BadInput("read the backup: %w", err)
	}
	defer from.Close()                                      //nolint:errcheck // it is only read
	if err := bolt.Inspect(from, info.Size()); err != nil { // before all of it is copied
		return c.unfit(err)
	}
	if _, err := os.Stat(c.DataDir); errors.Is(err, fs.ErrNotExist) {
		defer os.Remove(c.DataDir) //nolint:errcheck // it stays if something is in it
	}
	if err := os.MkdirAll(c.DataDir, 0o700); err != nil {
		return fmt.Errorf("make the data directory: %w", err)
	}
	n, kek := 0, ""
	err = newfile.Write(path, func(f *os.File) error {
		if _, err := io.Copy(f, untilStopped{p.Context, from}); err != nil {
			return err
		}
		defer os.Remove(f.Name() + ".lock") //nolint:errcheck // nobody else knows the name
		n, kek, err = c.readable(p.Context, f.Name(), keys)
		return err
	})
	switch {
	case p.Context.Err() != nil:
		return console.ErrInterrupted
	case err != nil:
		return c.unfit(err)
	}
	if c.JSON() {
		return console.JSON(p.Stdout, struct {
			File        string `json:"file"`
			KeyFile     string `json:"key_file,omitzero"`
			KEK         string `json:"kek,omitzero"`
			Credentials int    `json:"credentials"`
		}{path, map[bool]string{true: key}[kek == ""], kek, n})
	}
	console.Printf(p.Stdout, "restored %s to %s\n", console.Counted(n, "credential"), path)
	switch {
	case kek != "":
		console.Printf(p.Stderr, "its keys are in it, wrapped by %s\n", kek)
	case key == filepath.Join(c.DataDir, "key.json"):
		console.Printf(p.Stderr, "its key is %s\n", key)
	default:
		console.Printf(p.Stderr, "its key is %s: put it into %s, or say --key-file to `serve` too\n", key, c.DataDir)
	}
	console.Println(p.Stderr, "refresh tokens that have rotated since the backup are spent: after `serve`, `credential list --filter 'state = REAUTHORIZATION_REQUIRED'` names "+
		"who needs a new one as soon as it has been tried")
	return nil
}

// unfit says why a file is not restored.
func (c *RestoreCommand) unfit(err error) error {
	switch {
	case errors.Is(err, bolt.ErrForeign):
		return console.BadInput("%s is no backup: it is not a file of `tokenbroker backup`; nothing was changed", c.File)
	case errors.Is(err, bolt.ErrTruncated), errors.Is(err, bolt.ErrDamaged):
		return console.BadInput("%s is not a whole backup: it is cut off or damaged; take another; nothing was changed", c.File)
	}
	return fmt.Errorf("%s is not restored: %w", c.File, err)
}

// untilStopped reads until whoever asked for it has stopped the command.
type untilStopped struct {
	ctx context.Context //nolint:containedctx // of one reading
	io.Reader
}

func (r untilStopped) Read(b []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(b)
}

// readable opens data with their key, and counts the credentials. kek is the URI of what wraps the keys; empty: they are those of the key file.
func (c *RestoreCommand) readable(ctx context.Context, path string, keys *seal.Keyring) (n int, kek string, err error) {
	db, err := bolt.Open(path, bolt.Options{})
	if err != nil {
		return 0, "", err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if kek, err = store.WrappedBy(ctx, db); err != nil {
		return 0, "", err
	}
	var o store.Options
	switch {
	case kek != "" && !c.Wrapped():
		return 0, "", console.BadInput("its keys are in it, wrapped by %s: set keys.kek to that", kek)
	case kek != "":
		if o.KEK, err = c.KEK(); err != nil {
			return 0, "", console.WrongInput(err)
		}
		keys = nil
	case keys == nil:
		return 0, "", console.BadInput("there is no key file %s: put the one there that the broker had when the backup was made, or name it with --key-file",
			settings.OrIn(c.KeyFile, c.DataDir, "key.json"))
	}
	st, err := store.New(db, keys, o)
	if err != nil {
		return 0, "", err
	}
	n, err = counted(ctx, st)
	return n, kek, err
}

// counted is how many credentials can be read.
func counted(ctx context.Context, st *store.Store) (n int, err error) {
	for after := broker.CredentialName(""); ; {
		page, err := st.Credentials(ctx, after, 100)
		if err != nil {
			return 0, err
		}
		n += len(page)
		if len(page) < 100 {
			return n, nil
		}
		after = page[len(page)-1].Name
	}
}
