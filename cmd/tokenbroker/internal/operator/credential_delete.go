package operator

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

type credentialDeleteCommand struct {
	remote
	Name         string `arg:"" names:"credential" help:"The credential."`
	Etag         string `help:"Delete it only if it still has this etag."`
	AllowMissing bool   `help:"Succeed even if it does not exist."`
	Yes          bool   `help:"Do not ask. Without a terminal it is needed."`
}

// Run deletes it, and says whether it was there.
func (c *credentialDeleteCommand) Run(p *console.Process) error {
	return c.with(p.Context, func(ctx context.Context, cl *client) error {
		if !c.Yes {
			switch sure, err := confirmed(p, fmt.Sprintf("delete %s of the broker at %s, with its tokens and refresh tokens?", c.Name, c.Address)); {
			case err != nil:
				return err
			case !sure:
				return errors.New("nothing was deleted")
			}
		}
		_, err := cl.credentials.DeleteCredential(ctx, &tokenbrokerv1.DeleteCredentialRequest{Name: c.Name, Etag: c.Etag})
		word, deleted := "deleted %s\n", true
		switch {
		case c.AllowMissing && status.Code(err) == codes.NotFound:
			word, deleted = "%s was not there\n", false
		case err != nil:
			return err
		}
		return c.Print(p.Stdout, struct {
			Name    string `json:"name"`
			Deleted bool   `json:"deleted"`
		}{c.Name, deleted}, word, c.Name)
	})
}
