package operator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

type tokenWatchCommand struct {
	remote
	selectionFlags
	Name  string `arg:"" names:"credential" help:"The credential."`
	Known string `name:"known-token-id" help:"Id of the token that is known already."`
}

// watchPause is how long a watch waits before it connects again, so that a broker that ends it at once is not asked in a loop.
const watchPause = time.Second

// Run prints one line an event. Brokers end connections, since they age and are stopped: then it connects again, perhaps to
// another one, and goes on where it was. The timeout bounds how long it waits for a connection.
func (c *tokenWatchCommand) Run(p *console.Process) error {
	return c.with(p.Context, func(ctx context.Context, cl *client) error {
		known := c.Known
		for again := false; ; again = true {
			connected, err := c.watch(ctx, p, cl, &known, again)
			switch {
			case p.Context.Err() != nil, errors.Is(err, io.EOF):
				return nil //nolint:nilerr // interrupted: that is how it ends
			case !connected, !connectionEnded(err):
				return err
			}
			console.Println(p.Stderr, "tokenbroker: the connection has ended: connecting again")
			select {
			case <-time.After(watchPause):
			case <-ctx.Done():
				return nil
			}
		}
	})
}

// watch prints events until the stream ends, and keeps the id of the token that is known then. The first time it fails at once
// when nobody answers, later it waits.
func (c *tokenWatchCommand) watch(ctx context.Context, p *console.Process, cl *client, known *string, again bool) (connected bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	inTime := func() bool { return true }
	if c.Timeout > 0 {
		inTime = time.AfterFunc(c.Timeout, cancel).Stop
	}
	stream, err := cl.tokens.WatchToken(ctx, &tokenbrokerv1.WatchTokenRequest{
		Credential: c.Name, Scopes: c.Scope, Audience: c.Audience, Parameters: c.Parameter, Resources: c.Resource, KnownTokenId: *known,
	}, grpc.WaitForReady(again))
	if !inTime() {
		return false, console.Unreachable(c.Address)
	}
	if err != nil {
		return false, err
	}
	for {
		e, err := stream.Recv()
		if err != nil {
			return true, err
		}
		switch e := e.GetEvent().(type) {
		case *tokenbrokerv1.WatchTokenResponse_Token:
			*known = e.Token.GetTokenId()
		case *tokenbrokerv1.WatchTokenResponse_InvalidatedTokenId:
			*known = ""
		}
		if c.JSON() {
			withoutSecrets(e.ProtoReflect())
			if err := printJSONLine(p.Stdout, e); err != nil {
				return true, err
			}
			continue
		}
		console.Printf(p.Stdout, "%s %s\n", time.Now().Format("15:04:05"), eventLine(e))
	}
}

// connectionEnded reports whether an error tells of the connection, or of this one broker's end, and not of the token.
func connectionEnded(err error) bool {
	return status.Code(err) == codes.Unavailable && (len(status.Convert(err).Details()) == 0 || console.Describe(err).Reason == "SHUTTING_DOWN")
}

func eventLine(e *tokenbrokerv1.WatchTokenResponse) string {
	switch e := e.GetEvent().(type) {
	case *tokenbrokerv1.WatchTokenResponse_Token:
		return fmt.Sprintf("token %s expires %s", e.Token.GetTokenId(), (console.Format{}).When(e.Token.GetExpireTime().AsTime()))
	case *tokenbrokerv1.WatchTokenResponse_InvalidatedTokenId:
		return fmt.Sprintf("invalidated %s: do not use it any more", e.InvalidatedTokenId)
	case *tokenbrokerv1.WatchTokenResponse_State:
		switch {
		case e.State.GetReason() == "":
			return "all is well"
		case e.State.GetDegraded():
			return fmt.Sprintf("degraded: the token is valid, its refresh fails: %s, next attempt %s", e.State.GetReason(), (console.Format{}).When(e.State.GetRetryTime().AsTime()))
		default:
			return fmt.Sprintf("no token: %s, next attempt %s", e.State.GetReason(), (console.Format{}).When(e.State.GetRetryTime().AsTime()))
		}
	}
	return "unknown event"
}
