package operator

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	"github.com/tokenbroker/tokenbroker/provider"
)

// sourceWords say what decided when a token ends.
var sourceWords = map[broker.ExpirySource]string{
	broker.ExpiryUpstream:   "as the answer says",
	broker.ExpiryToken:      "as the token itself says, which is a JWT",
	broker.ExpiryDefinition: "by the definition's lifetime, for the answer does not say",
	broker.ExpiryNone:       "a day from now: nobody knows, and it is kept until it is rejected",
	broker.ExpiryUnknown:    "ten minutes from now: neither the answer nor the definition says; write lifetime",
}

// print says what was found. That it did not work is said by the error alone.
func (c *providerTryCommand) print(p *console.Process, rep provider.TryReport) error {
	failure := c.failed(rep)
	if c.JSON() {
		return cmp.Or(console.JSON(p.Stdout, tryJSON(rep, failure == nil)), failure)
	}
	for _, r := range rep.Requests {
		code := "no answer"
		if r.Status != 0 {
			code = fmt.Sprint(r.Status)
		}
		console.Printf(p.Stdout, "%s %s: %s\n", r.Method, orDash(r.Host), code)
		var names []string
		for n := range r.Taken {
			names = append(names, n)
		}
		slices.Sort(names)
		for _, n := range names {
			what := ""
			if n == "token_type" {
				what = ": " + r.TokenType
			}
			console.Printf(p.Stdout, "  took %s from %s%s\n", n, r.Taken[n], what)
		}
		if r.Message != "" {
			console.Printf(p.Stdout, "  the upstream says: %s\n", r.Message)
		}
	}
	if failure != nil {
		return failure
	}
	console.Printf(p.Stdout, "it works: the token ends at %s, %s\n", rep.ExpiresAt.UTC().Format(time.RFC3339), sourceWords[rep.Source])
	console.Println(p.Stdout, "callers present it as")
	for _, line := range rep.Presented {
		console.Printf(p.Stdout, "  %s\n", line)
	}
	if len(rep.Refusals) > 0 {
		console.Println(p.Stdout, "a wrong secret would be told to callers as, for what the upstream may answer:")
		for _, line := range rep.Refusals {
			console.Printf(p.Stdout, "  %s\n", line)
		}
	}
	if rep.RefreshToken {
		console.Println(p.Stdout, "the answer has a refresh token, which was thrown away: if the upstream rotates them, the one before is spent")
	}
	return nil
}

// tryJSON is the same for scripts.
func tryJSON(rep provider.TryReport, works bool) any {
	type request struct {
		Method    string            `json:"method"`
		Host      string            `json:"host,omitempty"`
		Status    int               `json:"status,omitempty"`
		Taken     map[string]string `json:"taken,omitempty"`
		TokenType string            `json:"token_type,omitempty"`
		Message   string            `json:"message,omitempty"`
	}
	out := struct {
		Works        bool      `json:"works"`
		Requests     []request `json:"requests"`
		ExpireTime   string    `json:"expire_time,omitempty"`
		DecidedBy    string    `json:"decided_by,omitempty"`
		Presented    []string  `json:"presented,omitempty"`
		Refusals     []string  `json:"refusals,omitempty"`
		RefreshToken bool      `json:"refresh_token"`
	}{Works: works, Requests: []request{}, Presented: rep.Presented, Refusals: rep.Refusals, RefreshToken: rep.RefreshToken}
	for _, r := range rep.Requests {
		out.Requests = append(out.Requests, request(r))
	}
	if out.Works {
		out.ExpireTime, out.DecidedBy = rep.ExpiresAt.UTC().Format(time.RFC3339), sourceWords[rep.Source]
	}
	return out
}
