package operator

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/settings"
	"github.com/tokenbroker/tokenbroker/internal/yamldoc"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/bolt"
	"github.com/tokenbroker/tokenbroker/store/redis"
	"github.com/tokenbroker/tokenbroker/store/seal"
)

// StoreCommands move what is stored.
type StoreCommands struct {
	Export storeExportCommand `cmd:"" help:"Write everything that is stored to a file, sealed, and suspend refreshing where it was."`
	Import storeImportCommand `cmd:"" help:"Add what an export has to another store. Nothing that is there is changed."`
}

// NotePlaces says where in the settings file values stand that came from there, by flag.
func (c *StoreCommands) NotePlaces(at map[string]settings.Position) {
	c.Export.at, c.Import.at = at, at
}

// movedStore is the store that is exported, or imported into.
type movedStore struct {
	// at is where in the settings file a value stands that came from there, by flag.
	at map[string]settings.Position

	Config  string `env:"TOKENBROKER_CONFIG" type:"path" help:"The broker's settings file, for where its store is."`
	DataDir string `type:"place" name:"data-dir" env:"TOKENBROKER_DATA_DIR" default:"${data_dir}" help:"Where the embedded store and the key are."`
	KeyFile string `type:"place" name:"key-file" env:"TOKENBROKER_KEY_FILE" default:"auto" help:"The key that seals what is stored; both stores have the same. auto: key.json in the data directory."`
	settings.StoreSettings
	settings.KeysSettings
	console.Format
}

// problems are what is wrong with where the store is, and its keys.
func (m *movedStore) problems() error {
	var wrong []yamldoc.Problem
	bad := func(setting, format string, args ...any) {
		wrong = append(wrong, m.at[settings.FlagOf(setting)].Problem("setting %s: %s", setting, fmt.Sprintf(format, args...)))
	}
	m.RedisProblems(bad)
	m.KeysProblems(bad)
	if len(wrong) > 0 {
		return console.WrongInput(yamldoc.Together(wrong))
	}
	return nil
}

func (m *movedStore) keyPath() string { return settings.OrIn(m.KeyFile, m.DataDir, "key.json") }

// keyring is that of the key file; nil: a KEK wraps the keys.
func (m *movedStore) keyring() (*seal.Keyring, error) {
	if err := m.problems(); err != nil {
		return nil, err
	}
	if m.Wrapped() {
		return nil, nil //nolint:nilnil // they are in the store
	}
	path := m.keyPath()
	k, err := seal.Load(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, console.BadInput("there is no key file %s: both stores have the same; name it with --key-file, or copy it there", path)
	}
	return k, err
}

// open opens the backend; create: an embedded store that is not there yet is made.
func (m *movedStore) open(create bool) (store.Backend, error) {
	if !m.IsEmbedded() {
		o, err := m.RedisOptions()
		if err != nil {
			return nil, console.WrongInput(err)
		}
		return redis.Open(o)
	}
	path := filepath.Join(m.DataDir, settings.DataFile)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) && !create {
		return nil, console.BadInput("there is no embedded store in %s; another directory goes with --data-dir, a Redis with --store", m.DataDir)
	}
	// A broker that runs on it has it for itself. It could be asked for the export; but it would go on with a store that is on its
	// way to another one, and what is changed there is lost.
	return bolt.Open(path, bolt.Options{})
}

// begin makes the store usable, and says what is to be said of its backend.
func (m *movedStore) begin(p *console.Process, db store.Backend, keys *seal.Keyring) (*store.Store, error) {
	o := store.Options{Later: true}
	if m.Wrapped() {
		k, err := m.KEK()
		if err != nil {
			return nil, console.WrongInput(err)
		}
		o.KEK, o.Name = k, "a command that moves what is stored"
	}
	st, err := store.New(db, keys, o)
	if err != nil {
		return nil, err
	}
	go st.FollowKeys(p.Context) // ends with the command
	warnings, err := st.Begin(p.Context)
	for _, w := range warnings {
		console.Printf(p.Stderr, "warning: %s\n", w)
	}
	return st, err
}

type storeExportCommand struct {
	File   string `arg:"" optional:"" help:"Where to write the export; it must not exist."`
	Resume bool   `help:"Undo the suspension instead: the export will not be imported, or its import was undone."`
	movedStore
}

// Run exports, or resumes.
func (c *storeExportCommand) Run(p *console.Process) error {
	switch _, err := os.Lstat(c.File); {
	case (c.File == "") != c.Resume:
		return console.BadInput("name a file to export to, or say --resume")
	case !c.Resume && err == nil:
		return console.BadInput("%s exists already: an export never overwrites a file", c.File)
	}
	keys, err := c.keyring()
	if err != nil {
		return err
	}
	db, err := c.open(false)
	if err != nil {
		return err
	}
	defer db.Close() //nolint:errcheck // what it acknowledged is stored
	switch holds, err := store.Holds(p.Context, db); {
	case err != nil:
		return err
	case !holds:
		return console.BadInput("this store holds no tokenbroker data: is it the right one?")
	}
	st, err := c.begin(p, db, keys)
	if err != nil {
		return err
	}
	if c.Resume {
		return c.resume(p, st)
	}
	return c.export(p, st)
}

func (c *storeExportCommand) resume(p *console.Process, st *store.Store) error {
	was, err := st.Resume(p.Context)
	if err != nil {
		return err
	}
	if c.JSON() {
		return console.JSON(p.Stdout, struct {
			Resumed bool `json:"resumed"`
		}{was})
	}
	if !was {
		console.Println(p.Stdout, "refreshing was not suspended")
		return nil
	}
	console.Println(p.Stdout, "refreshing has resumed here")
	console.Println(p.Stderr, "what was exported must not be used any more: delete the file, and stop whoever serves from it")
	return nil
}

func (c *storeExportCommand) export(p *console.Process, st *store.Store) error {
	bar := newProgress(p.Stderr, "exported")
	count := 0
	err := writeNew(c.File, func(w io.Writer) error {
		b := bufio.NewWriter(w)
		err := st.Export(p.Context, b, func(done, total int) {
			count = done
			bar.show(done, total)
		})
		if err != nil {
			return err
		}
		return b.Flush()
	})
	bar.end()
	if p.Context.Err() != nil && err != nil {
		err = console.ErrInterrupted
	}
	if err != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(p.Context), 5*time.Second)
		defer cancel()
		if since, sErr := st.Suspended(ctx); sErr != nil || !since.IsZero() {
			err = fmt.Errorf("%w\nthere is no export, and refreshing may be suspended all the same: export again, or undo it with `tokenbroker store export --resume`", err)
		}
		return err
	}
	if c.JSON() {
		return console.JSON(p.Stdout, struct {
			File        string `json:"file"`
			Credentials int    `json:"credentials"`
		}{c.File, count})
	}
	console.Printf(p.Stdout, "wrote %s: %s\n", c.File, console.Counted(count, "credential"))
	console.Println(p.Stderr, "no refresh token is presented here from now on, because it has one owner; valid tokens go on being served")
	with := "key file"
	if c.Wrapped() {
		with = "keys.kek"
	}
	console.Printf(p.Stderr, "next: tokenbroker store import, with the same %s; or undo this with tokenbroker store export --resume\n", with)
	return nil
}
