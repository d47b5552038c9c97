package operator

import (
	"context"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

// TokenCommands get, invalidate and watch tokens.
type TokenCommands struct {
	Get        tokenGetCommand        `cmd:"" help:"Print a token that is valid now."`
	Invalidate tokenInvalidateCommand `cmd:"" help:"Drop a token that an API has refused, or all of them."`
	Watch      tokenWatchCommand      `cmd:"" set:"timeout_help=How long to wait for the broker; what happens then is waited for until the command is interrupted" help:"Print the current token's id and then what happens to it, until interrupted; never the token itself, in JSON neither."`
}

// selectionFlags say which of a credential's tokens is meant.
type selectionFlags struct {
	Scope     []string `sep:"none" help:"A scope; repeat for several. None: the defaults."`
	Audience  string   `help:"The audience."`
	Parameter pairs    `sep:"none" placeholder:"NAME=VALUE" help:"A parameter that the definition declares; repeat for several."`
	Resource  []string `sep:"none" help:"A resource (RFC 8707); repeat for several."`
}

// selection is what the flags say, where no broker is asked.
func (f *selectionFlags) selection() (broker.Selection, error) {
	scopes, err := broker.ParseSet("scope", f.Scope)
	if err != nil {
		return broker.Selection{}, console.WrongInput(err)
	}
	resources, err := broker.ParseSet("resource", f.Resource)
	if err != nil {
		return broker.Selection{}, console.WrongInput(err)
	}
	return broker.Selection{Scopes: scopes, Audience: f.Audience, Parameters: broker.NewPairs(f.Parameter), Resources: resources}, nil
}

// get is a question for a token.
func (f *selectionFlags) get(credential string) *tokenbrokerv1.GetTokenRequest {
	return &tokenbrokerv1.GetTokenRequest{Credential: credential, Scopes: f.Scope, Audience: f.Audience, Parameters: f.Parameter, Resources: f.Resource}
}

type tokenGetCommand struct {
	remote
	selectionFlags
	Name            string        `arg:"" names:"credential" help:"The credential."`
	MinTTL          time.Duration `name:"min-ttl" help:"Get another token if the current one ends sooner than this. What the upstream then issues is given, even if it ends sooner too."`
	RejectedTokenID string        `name:"rejected-token-id" help:"Id of a token that the API has refused: another one is wanted."`
	Header          bool          `help:"Print headers and cookies as curl reads them: h=$$(tokenbroker token get NAME --header) && curl -H @- URL <<< \"$$h\""`
}

// Run prints the token on standard output, and what else is to be known on standard error where that is a terminal.
func (c *tokenGetCommand) Run(p *console.Process) error {
	return c.with(p.Context, func(ctx context.Context, cl *client) error {
		req := c.get(c.Name)
		req.RejectedTokenId = c.RejectedTokenID
		if c.MinTTL != 0 {
			req.MinTtl = durationpb.New(c.MinTTL)
		}
		res, err := cl.tokens.GetToken(ctx, req)
		if err != nil {
			return err
		}
		t := res.GetToken()
		switch {
		case c.Output == "json":
			return printJSON(p.Stdout, res)
		case c.Header:
			console.Printf(p.Stdout, "%s", headerLines(t))
			if len(t.GetQueryParameters()) > 0 {
				console.Println(p.Stderr, "tokenbroker: this API wants query parameters too: see --output json")
			}
			return nil
		}
		console.Println(p.Stdout, t.GetAccessToken())
		if console.IsTerminal(p.Stderr) {
			console.Printf(p.Stderr, "token %s expires %s, %s\n", t.GetTokenId(), c.When(t.GetExpireTime().AsTime()), refreshWord(c.Format, t.GetRefreshTime()))
			if res.GetDegraded() {
				console.Println(p.Stderr, "degraded: it is valid, but its refresh is failing; see credential status")
			}
		}
		return nil
	})
}

// headerLines are the headers, one a line, the cookies as one.
func headerLines(t *tokenbrokerv1.Token) string {
	var out strings.Builder
	for _, h := range t.GetHeaders() {
		fmt.Fprintf(&out, "%s: %s\n", h.GetName(), h.GetValue())
	}
	var cookies []string
	for _, c := range t.GetCookies() {
		cookies = append(cookies, c.GetName()+"="+c.GetValue())
	}
	if len(cookies) > 0 {
		fmt.Fprintf(&out, "Cookie: %s\n", strings.Join(cookies, "; "))
	}
	return out.String()
}

type tokenInvalidateCommand struct {
	remote
	selectionFlags
	Name            string `arg:"" names:"credential" help:"The credential."`
	TokenID         string `name:"token-id" xor:"target" help:"Id of the rejected token."`
	AccessTokenFile string `name:"access-token-file" xor:"target" help:"File with the rejected token itself; - for standard input."`
	All             bool   `xor:"target" help:"Every token of the credential; with --scope and the like, exactly that one."`
}

// Run says what was dropped.
func (c *tokenInvalidateCommand) Run(p *console.Process) error {
	req := &tokenbrokerv1.InvalidateRequest{Credential: c.Name, Scopes: c.Scope, Audience: c.Audience, Parameters: c.Parameter, Resources: c.Resource}
	switch {
	case c.TokenID != "":
		req.Target = &tokenbrokerv1.InvalidateRequest_TokenId{TokenId: c.TokenID}
	case c.AccessTokenFile != "":
		token, err := readSecretFile(p, c.AccessTokenFile)
		if err != nil {
			return err
		}
		req.Target = &tokenbrokerv1.InvalidateRequest_AccessToken{AccessToken: token}
	case c.All:
		req.Target = &tokenbrokerv1.InvalidateRequest_All{All: true}
	default:
		return console.BadInput("say which token: --token-id, --access-token-file or --all")
	}
	return c.with(p.Context, func(ctx context.Context, cl *client) error {
		res, err := cl.tokens.Invalidate(ctx, req)
		if err != nil {
			return err
		}
		if c.Output == "json" {
			return printJSON(p.Stdout, res)
		}
		switch {
		case res.GetInvalidated() > 0:
			console.Printf(p.Stdout, "invalidated %d\n", res.GetInvalidated())
		case c.All:
			console.Println(p.Stdout, "nothing to invalidate: there is no such token")
		default:
			console.Printf(p.Stdout, "nothing to invalidate: that token is no longer the current one; the current one is %s\n", orDash(res.GetCurrentTokenId()))
		}
		return nil
	})
}

// refreshWord says when a token is refreshed. A time that is over says that a refresh is due, and not that there was one.
func refreshWord(f console.Format, at *timestamppb.Timestamp) string {
	word := "refresh "
	if !at.AsTime().After(time.Now()) {
		word = "refresh due "
	}
	return word + f.When(at.AsTime())
}
