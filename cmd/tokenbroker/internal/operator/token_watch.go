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

// Run prints one line an event.
func (c *tokenWatchCommand) Run(p *console.Process) error {
	return c.with(p.Context, func(ctx context.Context, cl *client) error {
		w := watching{
			request: c.watch(c.Name, c.Known), timeout: c.Timeout, address: c.Address,
			ended: func() { console.Println(p.Stderr, "tokenbroker: the connection has ended: connecting again") },
			heard: func(e *tokenbrokerv1.WatchTokenResponse) error {
				if c.JSON() {
					withoutSecrets(e.ProtoReflect())
					return printJSONLine(p.Stdout, e)
				}
				console.Printf(p.Stdout, "%s %s\n", time.Now().Format("15:04:05"), eventLine(e))
				return nil
			},
		}
		err := w.run(ctx, cl)
		if p.Context.Err() != nil || errors.Is(err, io.EOF) {
			return nil //nolint:nilerr // interrupted: that is how it ends
		}
		return err
	})
}

// watch is a question for what happens to a token.
func (f *selectionFlags) watch(credential, known string) *tokenbrokerv1.WatchTokenRequest {
	return &tokenbrokerv1.WatchTokenRequest{
		Credential: credential, Scopes: f.Scope, Audience: f.Audience, Parameters: f.Parameter, Resources: f.Resource, KnownTokenId: known,
	}
}

// A watching hears what a broker says of a token. Brokers end connections, since they age and are stopped: then it connects again, perhaps to another one, and
// goes on where it was.
type watching struct {
	// request has, in known_token_id, the token of which was heard last.
	request *tokenbrokerv1.WatchTokenRequest
	// timeout bounds how long a connection is waited for; 0: for ever. address is where, for people.
	timeout time.Duration
	address string
	// heard is called for each event; its error ends the watch. ended is called for each connection that has ended.
	heard func(*tokenbrokerv1.WatchTokenResponse) error
	ended func()
}

// watchPause is how long a watch waits before it connects again, so that a broker that ends it at once is not asked in a loop.
const watchPause = time.Second

// run hears events until ctx ends, nobody answers in time, or the broker or heard says that this was all. It returns why. The first time it fails at once when nobody
// answers, later it waits.
func (w *watching) run(ctx context.Context, cl *client) error {
	for again := false; ; again = true {
		connected, err := w.hear(ctx, cl, again)
		if ctx.Err() != nil || !connected || !connectionEnded(err) {
			return err
		}
		w.ended()
		if err := wait(ctx, watchPause); err != nil {
			return err
		}
	}
}

// hear hears events until the stream ends.
func (w *watching) hear(ctx context.Context, cl *client, again bool) (connected bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	inTime := func() bool { return true }
	if w.timeout > 0 {
		inTime = time.AfterFunc(w.timeout, cancel).Stop
	}
	stream, err := cl.tokens.WatchToken(ctx, w.request, grpc.WaitForReady(again))
	if !inTime() {
		return false, console.Unreachable(w.address)
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
			w.request.KnownTokenId = e.Token.GetTokenId()
		case *tokenbrokerv1.WatchTokenResponse_InvalidatedTokenId:
			w.request.KnownTokenId = ""
		}
		if err := w.heard(e); err != nil {
			return true, err
		}
	}
}

// wait returns after so long, or ctx's error.
func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
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
