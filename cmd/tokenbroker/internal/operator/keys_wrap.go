package operator

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/kek"
	"github.com/tokenbroker/tokenbroker/store/seal"
)

type keysCreateCommand struct {
	File string `arg:"" help:"Where to write it; it must not exist."`
	console.Format
}

// Run makes the file.
func (c *keysCreateCommand) Run(p *console.Process) error {
	path, err := filepath.Abs(c.File)
	if err != nil {
		return err
	}
	switch err := kek.CreateFile(path); {
	case errors.Is(err, fs.ErrExist):
		return console.BadInput("%s exists already: a key is never overwritten", c.File)
	case err != nil:
		return err
	}
	uri := "file://" + path
	if c.JSON() {
		return console.JSON(p.Stdout, struct {
			File string `json:"file"`
			URI  string `json:"uri"`
		}{path, uri})
	}
	console.Printf(p.Stdout, "wrote %s, for keys.kek: %s\n", path, uri)
	console.Println(p.Stderr, "back it up, apart from the data and their backups: without it nothing that is stored can be read")
	return nil
}

type keysWrapCommand struct {
	FormerKEK string `name:"former-kek" help:"URI of the key that wraps them now, where it is not the key file that has them."`
	movedStore
}

// Help implements kong.HelpProvider.
func (*keysWrapCommand) Help() string {
	return "The key that wraps them from now on is that of keys.kek. Stop the broker of an embedded store first; those that share a Redis may run, and are started again one after the other, with keys.kek."
}

// Run wraps them.
func (c *keysWrapCommand) Run(p *console.Process) error {
	if err := c.problems(); err != nil {
		return err
	}
	if !c.Wrapped() {
		return console.BadInput("name the key that is to wrap them: --keys-kek, or keys.kek in the settings file")
	}
	to, err := c.KEK()
	if err != nil {
		return console.WrongInput(err)
	}
	var former seal.KEK
	var file *seal.Keyring
	path := c.keyPath()
	if c.FormerKEK != "" {
		if former, err = c.Open(c.FormerKEK); err != nil {
			return console.WrongInput(fmt.Errorf("--former-kek: %w", err))
		}
	} else {
		file, err = seal.Load(path)
		if errors.Is(err, fs.ErrNotExist) {
			return console.BadInput("there is no key file %s: name it with --key-file; or say --former-kek, if the keys are wrapped by another key now", path)
		}
		if err != nil {
			return err
		}
	}
	db, err := c.open(false)
	if err != nil {
		return err
	}
	defer db.Close() //nolint:errcheck // what it acknowledged is stored
	err = store.WrapKeyring(p.Context, db, file, former, to)
	var refused *store.Refused
	switch {
	case errors.As(err, &refused):
		return console.WrongInput(err)
	case errors.Is(err, broker.StoreUnavailable) && p.Context.Err() != nil:
		return console.ErrInterrupted
	case err != nil:
		return err
	}
	if c.JSON() {
		return console.JSON(p.Stdout, struct {
			KEK string `json:"kek"`
		}{to.URI()})
	}
	console.Printf(p.Stdout, "the keys are in the store, wrapped by %s\n", to.URI())
	if former != nil {
		console.Println(p.Stderr, "brokers that run go on; each needs keys.kek set to it at its next start. Keep the former one as long as there are backups and exports that it has wrapped")
		return nil
	}
	console.Println(p.Stderr, "start every broker again with keys.kek set to it; until then they go on with their key file")
	console.Printf(p.Stderr, "%s opens all the same what is stored: once all brokers run with keys.kek, and backups and exports from before are not needed any more, delete it, and rotate the keys\n", path)
	return nil
}
