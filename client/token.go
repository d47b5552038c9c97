package client

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

// A Token is valid, and has what is needed to use it. Immutable: all who use it share it. It prints as its id, whichever verb is used; its fields do not.
type Token struct {
	// ID is safe to log. Another token has another one.
	ID string
	// AccessToken is the token as it was issued; of a login by cookie its value. Prefer Headers, Cookies and Query.
	AccessToken string
	// TokenType is as of RFC 6749 section 7.1; mostly Bearer.
	TokenType string
	// ExpireTime is when it ends, by the broker's clock. RefreshTime is when the broker wants to be asked for the next one, which is earlier.
	ExpireTime, RefreshTime time.Time
	// Scopes are those that were granted.
	Scopes []string
	// Headers, Cookies and Query are what authenticates a request, all of them together, at the origin of BaseURL and nowhere else.
	Headers, Cookies, Query []Field
	// BaseURL is where the API is; empty: the definition does not say.
	BaseURL string
	// Attributes are what the definition says beside it, never a secret. Nil: nothing.
	Attributes map[string]string
	// Degraded: it is valid, and its refresh is failing.
	Degraded bool
}

// A Field is a name and a value.
type Field struct{ Name, Value string }

func newToken(t *tokenbrokerv1.Token, degraded bool) *Token {
	out := &Token{
		ID: t.GetTokenId(), AccessToken: t.GetAccessToken(), TokenType: t.GetTokenType(), ExpireTime: t.GetExpireTime().AsTime(), RefreshTime: t.GetRefreshTime().AsTime(),
		Scopes: t.GetScopes(), BaseURL: t.GetBaseUrl(), Attributes: t.GetAttributes(), Degraded: degraded,
	}
	for _, h := range t.GetHeaders() {
		out.Headers = append(out.Headers, Field{h.GetName(), h.GetValue()})
	}
	for _, c := range t.GetCookies() {
		out.Cookies = append(out.Cookies, Field{c.GetName(), c.GetValue()})
	}
	for _, q := range t.GetQueryParameters() {
		out.Query = append(out.Query, Field{q.GetName(), q.GetValue()})
	}
	return out
}

// String is its id.
func (t Token) String() string { return "token " + t.ID }

// Format implements fmt.Formatter, for every verb.
func (t Token) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(t.String())) }

// LogValue implements slog.LogValuer.
func (t Token) LogValue() slog.Value { return slog.StringValue(t.String()) }

// MarshalJSON implements json.Marshaler: what is written down of it is its id, and when it ends.
func (t Token) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		ID         string    `json:"token_id"`
		ExpireTime time.Time `json:"expire_time"`
	}{t.ID, t.ExpireTime})
}

// Format implements fmt.Formatter: a value may be a secret.
func (f Field) Format(s fmt.State, _ rune) { _, _ = s.Write([]byte(f.Name)) }

// LogValue implements slog.LogValuer.
func (f Field) LogValue() slog.Value { return slog.StringValue(f.Name) }

// MarshalJSON implements json.Marshaler.
func (f Field) MarshalJSON() ([]byte, error) { return json.Marshal(f.Name) }
