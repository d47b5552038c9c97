package operator

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/settings"
	"github.com/tokenbroker/tokenbroker/internal/readfile"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/seal"
)

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
	f, _, err := readfile.Open(c.File) // a pipe would be waited for, and nothing could stop that
	if err != nil {
		return console.BadInput("read the export: %s: %w", c.File, readfile.Why(err))
	}
	defer f.Close() //nolint:errcheck // it was only read
	e, err := c.readable(p, f, keys)
	if err != nil {
		return c.unfit(err)
	}
	db, err := c.open(true)
	if err != nil {
		return err
	}
	defer db.Close() //nolint:errcheck // what it acknowledged is stored
	if c.Wrapped() && e != nil {
		if err := store.AdoptKeyring(p.Context, db, e); err != nil {
			return err
		}
	}
	st, err := c.begin(p, db, keys)
	if err != nil {
		return err
	}
	if c.Wrapped() { // what counts is what the store can read
		if e, err = st.ReadExport(f); err != nil {
			return c.unfit(err)
		}
	}
	bar := newProgress(p.Stderr, "imported")
	done, err := st.Import(p.Context, e, bar.show)
	bar.end()
	if err == nil || done.Made > 0 {
		if rErr := c.report(p, done); rErr != nil {
			return rErr
		}
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
		return fmt.Errorf("%s of the export not imported: what is here by the same name was left alone", console.Counted(n, "credential"))
	}
	if c.JSON() {
		return nil
	}
	console.Printf(p.Stderr, "delete %s once the broker serves from here; where it was exported, refreshing stays suspended\n", c.File)
	return nil
}

// readable reads the export before anything is made of it. Where a KEK wraps the keys it is those that the export brings; nil: a store with keys has to read it.
func (c *storeImportCommand) readable(p *console.Process, f io.ReadSeeker, keys *seal.Keyring) (*store.Exported, error) {
	if !c.Wrapped() {
		return store.ReadExport(f, keys)
	}
	kek, err := c.KEK()
	if err != nil {
		return nil, console.WrongInput(err)
	}
	e, err := store.ReadWrappedExport(p.Context, f, kek)
	var refused *store.Refused
	if !errors.As(err, &refused) {
		return e, err
	}
	holds, hErr := c.holds(p)
	if hErr != nil || !holds {
		return nil, errors.Join(err, hErr)
	}
	return nil, nil //nolint:nilnil // it may have been sealed with keys that the store has
}

// holds reports whether the store has data already. It makes none.
func (c *storeImportCommand) holds(p *console.Process) (bool, error) {
	if _, err := os.Stat(filepath.Join(c.DataDir, settings.DataFile)); c.IsEmbedded() && errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	db, err := c.open(false)
	if err != nil {
		return false, err
	}
	defer db.Close() //nolint:errcheck // it was only read
	return store.Holds(p.Context, db)
}

// unfit says why an export is not imported.
func (c *storeImportCommand) unfit(err error) error {
	var bad *store.BadExport
	var refused *store.Refused
	if errors.As(err, &bad) || errors.As(err, &refused) {
		return console.BadInput("%s: %w", c.File, err)
	}
	return fmt.Errorf("%s: %w", c.File, err)
}

func (c *storeImportCommand) report(p *console.Process, done store.Imported) error {
	if c.JSON() {
		return console.JSON(p.Stdout, importReport(done))
	}
	console.Printf(p.Stdout, "imported %s\n", console.Counted(done.Made, "credential"))
	if done.There > 0 {
		console.Printf(p.Stdout, "%s here already\n", console.Counted(done.There, "credential"))
	}
	if done.Ended > 0 {
		console.Printf(p.Stderr, "%s had expired since the export; another is fetched when it is asked for\n", console.Counted(done.Ended, "token"))
	}
	if done.Unconfirmed > 0 {
		console.Printf(p.Stderr, "warning: %s not confirmed by enough replicas (redis.wait_replicas): keep the export until they are\n", console.Counted(done.Unconfirmed, "credential"))
	}
	for _, name := range done.Moved {
		console.Printf(p.Stderr, "%s: here already, and refreshed since the export, here or there; left alone\n", name)
	}
	for _, x := range done.Conflicts {
		console.Printf(p.Stderr, "%s: not imported: %s\n", x.Name, x.Why)
	}
	return nil
}

// importReport is what an import has done, for scripts.
func importReport(done store.Imported) any {
	type conflict struct {
		Name string `json:"name"`
		Why  string `json:"why"`
	}
	out := struct {
		Imported    int        `json:"imported"`
		There       int        `json:"there_already"`
		Expired     int        `json:"expired_tokens"`
		Unconfirmed int        `json:"unconfirmed"`
		Moved       []string   `json:"refreshed_since,omitempty"`
		Conflicts   []conflict `json:"not_imported,omitempty"`
	}{Imported: done.Made, There: done.There, Expired: done.Ended, Unconfirmed: done.Unconfirmed}
	for _, name := range done.Moved {
		out.Moved = append(out.Moved, fmt.Sprint(name))
	}
	for _, x := range done.Conflicts {
		out.Conflicts = append(out.Conflicts, conflict{fmt.Sprint(x.Name), fmt.Sprint(x.Why)})
	}
	return out
}
