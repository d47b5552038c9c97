package operator

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/settings"
)

// KeysCommands look after the keys that seal what is stored.
type KeysCommands struct {
	Create  keysCreateCommand  `cmd:"" help:"Make a file with a key that wraps keys, for keys.kek. No broker is needed."`
	Wrap    keysWrapCommand    `cmd:"" help:"Move the keys from the key file into the store, wrapped; or have another key wrap them. Asks the store itself."`
	List    keysListCommand    `cmd:"" help:"Say which keys there are, which brokers hold them, and how a rewrap stands."`
	Rotate  keysRotateCommand  `cmd:"" help:"Add a key, which seals nothing yet."`
	Promote keysPromoteCommand `cmd:"" help:"Have the key seal that was added."`
	Rewrap  keysRewrapCommand  `cmd:"" help:"Seal with the current key what is sealed with a former one. Goes on where it was interrupted."`
	Retire  keysRetireCommand  `cmd:"" help:"Have a former key open nothing any more."`
	Restore keysRestoreCommand `cmd:"" help:"Undo that."`
	Destroy keysDestroyCommand `cmd:"" help:"Forget a key for ever that was retired a week ago."`
}

// NotePlaces says where in the settings file values stand that came from there, by flag.
func (c *KeysCommands) NotePlaces(at map[string]settings.Position) { c.Wrap.at = at }

// asked asks the broker of this machine that has its data there.
type asked struct {
	console.Format
	whereabouts
}

// ask gives an order to the broker, or asks it where order is nil, and hands its answer to read.
func (c *asked) ask(ctx context.Context, path string, order *settings.KeysOrder, read func(io.Reader) error) error {
	at := filepath.Join(c.DataDir, settings.AdminSocket)
	admin := place{}.socketAt(at)
	h := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return admin.dial(ctx)
	}}}
	defer h.CloseIdleConnections()
	method, body := http.MethodGet, io.Reader(http.NoBody)
	if order != nil {
		text, err := json.Marshal(order)
		if err != nil {
			return err
		}
		method, body = http.MethodPost, bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://broker"+path, body)
	if err != nil {
		return err
	}
	res, err := h.Do(req)
	var stranger *strangerError
	switch {
	case errors.As(err, &stranger):
		return console.WrongInput(stranger)
	case ctx.Err() != nil:
		return console.ErrInterrupted
	case err != nil:
		return console.Unreachable("unix:" + at)
	}
	defer res.Body.Close() //nolint:errcheck // nothing is left to be lost
	if res.StatusCode != http.StatusOK {
		why, _ := io.ReadAll(io.LimitReader(res.Body, 4<<10)) // without it there is still the status
		return saidBy(res.StatusCode, string(bytes.TrimSpace(why)))
	}
	err = read(res.Body)
	if err != nil && ctx.Err() != nil {
		return console.ErrInterrupted
	}
	return err
}

// saidBy is the broker's own sentence, as an error that decides the exit code.
func saidBy(code int, why string) error {
	switch code {
	case http.StatusConflict:
		return status.Error(codes.FailedPrecondition, why)
	case http.StatusServiceUnavailable:
		return status.Error(codes.Unavailable, why)
	case http.StatusNotFound:
		return status.Error(codes.FailedPrecondition, "this broker does not know what it is asked: it is older than this command")
	}
	return errors.New(why)
}

// change orders one change, and says what was done.
func (c *asked) change(p *console.Process, what, id, says string) error {
	if id != "" && !settings.IsKeyID(id) {
		return console.BadInput("that is no key's id: `tokenbroker keys list` has them")
	}
	var done settings.KeyChanged
	err := c.ask(p.Context, "/keys/"+what, &settings.KeysOrder{ID: id}, func(r io.Reader) error { return json.NewDecoder(r).Decode(&done) })
	if err != nil {
		return err
	}
	if c.JSON() {
		return console.JSON(p.Stdout, done)
	}
	console.Printf(p.Stdout, says+"\n", done.ID)
	return nil
}

type keysListCommand struct{ asked }

// Run lists them.
func (c *keysListCommand) Run(p *console.Process) error {
	var k settings.Keys
	if err := c.ask(p.Context, "/keys", nil, func(r io.Reader) error { return json.NewDecoder(r).Decode(&k) }); err != nil {
		return err
	}
	if c.JSON() {
		return console.JSON(p.Stdout, k)
	}
	if k.Generation == 0 {
		console.Println(p.Stdout, "the keys are in a key file: they cannot be rotated there")
	} else {
		console.Printf(p.Stdout, "generation %d, wrapped by %s\n", k.Generation, k.KEK)
	}
	var rows [][]string
	for _, i := range k.Keys {
		since := i.Added
		switch {
		case !i.Retired.IsZero():
			since = i.Retired
		case i.State == "primary":
			since = i.Promoted
		}
		rows = append(rows, []string{i.ID, i.State, c.When(since)})
	}
	if err := c.Table(p.Stdout, "KEY\tSTATE\tSINCE", rows); err != nil {
		return err
	}
	rows = nil
	for _, r := range k.Readers {
		name := r.Name
		if r.This {
			name += " (this one)"
		}
		rows = append(rows, []string{r.Instance[:min(8, len(r.Instance))], strconv.FormatUint(r.Generation, 10), name})
	}
	if len(rows) > 0 {
		if err := c.Table(p.Stdout, "BROKER\tGENERATION\tNAME", rows); err != nil {
			return err
		}
	}
	if r := k.Rewrap; r != nil {
		console.Printf(p.Stdout, "rewrap to %s: %s\n", r.To, standing(*r))
	}
	return nil
}

// standing is how a rewrap stands, for people.
func standing(r settings.Rewrap) string {
	how := "done"
	if !r.Done {
		how = fmt.Sprintf("pass %d, %s looked at", r.Pass, console.Counted(r.Credentials, "credential"))
	}
	how += ", " + console.Counted(r.Rows, "row") + " sealed anew"
	if r.Unreadable > 0 {
		how += ", " + unreadable(r)
	}
	return how
}

// unreadable says what a rewrap has left as it is.
func unreadable(r settings.Rewrap) string {
	return fmt.Sprintf("%s left that nothing opens (the first: %s)", console.Counted(r.Unreadable, "row"), r.Why)
}

type keysRotateCommand struct{ asked }

// Run adds a key.
func (c *keysRotateCommand) Run(p *console.Process) error {
	if err := c.change(p, "rotate", "", "added key %s, which seals nothing yet"); err != nil || c.JSON() {
		return err
	}
	console.Println(p.Stderr, "next, in half a minute: tokenbroker keys promote")
	return nil
}

type keysPromoteCommand struct{ asked }

// Run has it seal.
func (c *keysPromoteCommand) Run(p *console.Process) error {
	if err := c.change(p, "promote", "", "key %s seals from now on"); err != nil || c.JSON() {
		return err
	}
	console.Println(p.Stderr, "next: tokenbroker keys rewrap, so that nothing needs the former one")
	return nil
}

// keyNamed is asked about one key.
type keyNamed struct {
	ID string `arg:"" help:"The key, as keys list names it."`
	asked
}

type keysRetireCommand struct{ keyNamed }

// Run retires one.
func (c *keysRetireCommand) Run(p *console.Process) error {
	if err := c.change(p, "retire", c.ID, "key %s opens nothing any more"); err != nil || c.JSON() {
		return err
	}
	console.Printf(p.Stderr, "if something is missed: tokenbroker keys restore %s; in a week: tokenbroker keys destroy %s\n", c.ID, c.ID)
	return nil
}

type keysRestoreCommand struct{ keyNamed }

// Run restores one.
func (c *keysRestoreCommand) Run(p *console.Process) error {
	return c.change(p, "restore", c.ID, "key %s opens again")
}

type keysDestroyCommand struct{ keyNamed }

// Run destroys one.
func (c *keysDestroyCommand) Run(p *console.Process) error {
	if err := c.change(p, "destroy", c.ID, "key %s is no more"); err != nil || c.JSON() {
		return err
	}
	console.Println(p.Stderr, "exports and backups from before need it: those that are still to be used have to be made anew")
	return nil
}

type keysRewrapCommand struct {
	Rate int `default:"2000" help:"Rows a second, at most; 0: as many as it can."`
	asked
}

// Run rewraps, and shows how it goes.
func (c *keysRewrapCommand) Run(p *console.Process) error {
	if c.Rate < 0 {
		return console.BadInput("--rate must not be negative")
	}
	bar := p.Stderr
	next := time.Now().Add(lineEvery)
	var last settings.Rewrap
	err := c.ask(p.Context, "/keys/rewrap", &settings.KeysOrder{Rate: c.Rate}, func(r io.Reader) error {
		for lines := json.NewDecoder(r); ; {
			var l settings.RewrapLine
			switch err := lines.Decode(&l); {
			case err != nil && last.Done:
				return nil
			case err != nil:
				return status.Error(codes.Unavailable, "the broker broke off: its log says why. Rewrap again, which goes on from here")
			case l.Error != "":
				return saidBy(l.Status, l.Error)
			case l.Rewrap != nil:
				last = *l.Rewrap
				if now := time.Now(); !last.Done && !now.Before(next) {
					console.Println(bar, standing(last))
					next = now.Add(lineEvery)
				}
			}
		}
	})
	switch {
	case errors.Is(err, console.ErrInterrupted):
		console.Println(p.Stderr, "rewrap again, which goes on from here")
		return err
	case err != nil:
		return err
	case c.JSON():
		err = console.JSON(p.Stdout, last)
	case last.Unreadable == 0:
		console.Printf(p.Stdout, "%s sealed anew: all is sealed with key %s\n", console.Counted(last.Rows, "row"), last.To)
		console.Println(p.Stderr, "next: tokenbroker keys retire, with the id of the former key")
	}
	if last.Unreadable > 0 {
		return status.Errorf(codes.DataLoss, "%s sealed anew, and %s: put that row back or delete its credential, and rewrap again", console.Counted(last.Rows, "row"), unreadable(last))
	}
	return err
}
