package client

import (
	"context"
	"fmt"
	"strings"

	"golang.org/x/oauth2"
)

// OAuth2 returns the tokens for a library that wants an oauth2.TokenSource. What such a library does with them is its own: it may send them anywhere, keeps them to their
// end if it wraps the source (oauth2.ReuseTokenSource, oauth2.NewClient), and gets no other where the API refuses one. Where it takes an http.Client, give it HTTPClient.
// ctx is what a call waits with. A credential whose requests need more than one Authorization header of the token's type (RFC 6749 section 7.1) has none to give.
func (s *Source) OAuth2(ctx context.Context) oauth2.TokenSource { return oauth2Source{ctx, s} }

type oauth2Source struct {
	ctx context.Context //nolint:containedctx // oauth2.TokenSource takes none
	s   *Source
}

// Token implements oauth2.TokenSource.
func (o oauth2Source) Token() (*oauth2.Token, error) {
	t, err := o.s.Token(o.ctx)
	if err != nil {
		return nil, err
	}
	out := &oauth2.Token{AccessToken: t.AccessToken, TokenType: t.TokenType, Expiry: t.ExpireTime}
	sole := len(t.Headers) == 1 && len(t.Cookies) == 0 && len(t.Query) == 0
	if !sole || !strings.EqualFold(t.Headers[0].Name, "Authorization") || t.Headers[0].Value != out.Type()+" "+t.AccessToken {
		return nil, fmt.Errorf("tokenbroker: a request with a token of %s needs more than an Authorization header: use HTTPClient", o.s.request.Credential)
	}
	return out, nil
}
