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
	"strings"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
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
	DataDir string `name:"data-dir" env:"TOKENBROKER_DATA_DIR" default:"${data_dir}" help:"Where the embedded store and the key are."`
	KeyFile string `name:"key-file" env:"TOKENBROKER_KEY_FILE" default:"auto" help:"The key that seals what is stored; both stores have the same. auto: key.json in the data directory."`
	settings.StoreSettings
}

func (m *movedStore) keyring() (*seal.Keyring, error) {
	var wrong []yamldoc.Problem
	m.RedisProblems(func(setting, format string, args ...any) {
		wrong = append(wrong, m.at[settings.FlagOf(setting)].Problem("setting %s: %s", setting, fmt.Sprintf(format, args...)))
	})
	if len(wrong) > 0 {
		return nil, console.WrongInput(settings.Together(wrong))
	}
	path := settings.OrIn(m.KeyFile, m.DataDir, "key.json")
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
	st, err := store.New(db, keys, store.Options{Later: true})
	if err != nil {
		return nil, err
	}
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
	console.Printf(p.Stdout, "wrote %s: %s\n", c.File, credentials(count))
	console.Println(p.Stderr, "no refresh token is presented here from now on, because it has one owner; valid tokens go on being served")
	console.Println(p.Stderr, "next: tokenbroker store import, with the same key file; or undo this with tokenbroker store export --resume")
	return nil
}

type storeImportCommand struct {
	File string `arg:"" help:"The export."`
	movedStore
}

// Run imports.
func (c *storeImportCommand) Run(p *console.Process) error {
	keys, err := c.keyring()
	if err != nil {
		return err
	}
	f, err := os.Open(c.File)
	if err != nil {
		return console.BadInput("read the export: %w", err)
	}
	defer f.Close() //nolint:errcheck // it was only read
	e, err := store.ReadExport(f, keys)
	var bad *store.BadExport
	switch {
	case errors.As(err, &bad):
		return console.BadInput("%s: %w", c.File, err)
	case err != nil:
		return fmt.Errorf("%s: %w", c.File, err)
	}
	db, err := c.open(true)
	if err != nil {
		return err
	}
	defer db.Close() //nolint:errcheck // what it acknowledged is stored
	st, err := c.begin(p, db, keys)
	if err != nil {
		return err
	}
	bar := newProgress(p.Stderr, "imported")
	done, err := st.Import(p.Context, e, bar.show)
	bar.end()
	if err == nil || done.Made > 0 {
		c.report(p, done)
	}
	if p.Context.Err() != nil && err != nil {
		err = console.ErrInterrupted
	}
	switch n := len(done.Conflicts); {
	case errors.Is(err, console.ErrInterrupted), errors.Is(err, broker.StoreUnavailable):
		return fmt.Errorf("%w\nnot everything is imported: import it again, which goes on from here", err)
	case err != nil:
		return err
	case n > 0:
		return fmt.Errorf("%s of the export not imported: what is here by the same name was left alone", credentials(n))
	}
	console.Printf(p.Stderr, "delete %s once the broker serves from here; where it was exported, refreshing stays suspended\n", c.File)
	return nil
}

func (c *storeImportCommand) report(p *console.Process, done store.Imported) {
	console.Printf(p.Stdout, "imported %s\n", credentials(done.Made))
	if done.There > 0 {
		console.Printf(p.Stdout, "%s here already\n", credentials(done.There))
	}
	if done.Ended > 0 {
		console.Printf(p.Stderr, "%d tokens had expired since the export; new ones are fetched when they are asked for\n", done.Ended)
	}
	if done.Unconfirmed > 0 {
		console.Printf(p.Stderr, "warning: %s not confirmed by enough replicas (redis.wait_replicas): keep the export until they are\n", credentials(done.Unconfirmed))
	}
	for _, name := range done.Moved {
		console.Printf(p.Stderr, "%s: here already, and refreshed since the export, here or there; left alone\n", name)
	}
	for _, x := range done.Conflicts {
		console.Printf(p.Stderr, "%s: not imported: %s\n", x.Name, x.Why)
	}
}

func credentials(n int) string {
	if n == 1 {
		return "1 credential"
	}
	return fmt.Sprint(n, " credentials")
}

// A progress shows how far something is: as a bar on a terminal, elsewhere as a line every few seconds.
type progress struct {
	w        io.Writer
	what     string
	terminal bool
	now      func() time.Time
	next     time.Time
	shown    bool
}

const (
	barWidth  = 30
	barEvery  = 100 * time.Millisecond
	lineEvery = 5 * time.Second
)

func newProgress(w io.Writer, what string) *progress {
	p := &progress{w: w, what: what, terminal: console.IsTerminal(w), now: time.Now}
	if !p.terminal {
		p.next = p.now().Add(lineEvery) // what is done by then needs no line
	}
	return p
}

func (p *progress) show(done, total int) {
	now := p.now()
	if now.Before(p.next) || total == 0 {
		return
	}
	if !p.terminal {
		p.next = now.Add(lineEvery)
		console.Printf(p.w, "%s %d of %d\n", p.what, done, total)
		return
	}
	p.next, p.shown = now.Add(barEvery), true
	full := barWidth * done / total
	console.Printf(p.w, "\r%s [%s%s] %d of %d\x1b[K", p.what, strings.Repeat("#", full), strings.Repeat(".", barWidth-full), done, total)
}

// end takes the bar away.
func (p *progress) end() {
	if p.shown {
		console.Printf(p.w, "\r\x1b[K")
	}
}
