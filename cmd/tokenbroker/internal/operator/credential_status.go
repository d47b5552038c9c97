package operator

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

type credentialStatusCommand struct {
	remote
	Name string `arg:"" names:"credential" help:"The credential."`
}

// Run shows how it is doing.
func (c *credentialStatusCommand) Run(p *console.Process) error {
	return c.with(p.Context, func(ctx context.Context, cl *client) error {
		res, err := cl.credentials.GetCredentialStatus(ctx, &tokenbrokerv1.GetCredentialStatusRequest{Name: c.Name})
		if err != nil {
			return err
		}
		if c.JSON() {
			res.Exchanges = nil //nolint:staticcheck // attempts by its former name
			return printJSON(p.Stdout, res)
		}
		return printStatus(p.Stdout, c.Format, res)
	})
}

func printStatus(w io.Writer, f console.Format, res *tokenbrokerv1.GetCredentialStatusResponse) error {
	rows := [][]string{{"state", stateWord(res.GetState())}}
	if res.GetReason() != "" {
		rows = append(rows, []string{"reason", res.GetReason()})
	}
	if res.GetMessage() != "" {
		rows = append(rows, []string{"", res.GetMessage()})
	}
	if res.GetAdvice() != "" {
		rows = append(rows, []string{"advice", res.GetAdvice()})
	}
	rows = append(rows, []string{"last success", f.When(res.GetLastSuccessTime().AsTime())})
	if res.GetNextAttemptTime() != nil {
		rows = append(rows, []string{"next attempt", nextAttempt(f, res.GetNextAttemptTime().AsTime())})
	}
	if res.GetRefreshTokenExpireTime() != nil {
		rows = append(rows, []string{"refresh token ends", f.When(res.GetRefreshTokenExpireTime().AsTime())})
	}
	if err := f.Table(w, "", rows); err != nil {
		return err
	}
	rows = nil
	for _, t := range res.GetTokens() {
		rows = append(rows, []string{"token " + t.GetTokenId(), "expires " + f.When(t.GetExpireTime().AsTime()) + ", " + refreshWord(f, t.GetRefreshTime()) + scopesNote(t.GetScopes())})
	}
	if err := f.Table(w, "", rows); err != nil {
		return err
	}
	if len(res.GetAttempts()) > 0 {
		console.Println(w)
	}
	return printAttempts(w, f, res.GetAttempts())
}

// nextAttempt says when an upstream is asked again: nobody asks it before somebody wants a token.
func nextAttempt(f console.Format, at time.Time) string {
	if at.After(time.Now()) {
		return f.When(at)
	}
	return "when somebody asks for a token"
}

func scopesNote(scopes []string) string {
	if len(scopes) == 0 {
		return ""
	}
	return ", for " + strings.Join(scopes, " ")
}

// printAttempts prints a line each, the newest first. Where there is little room, the name of the error says enough.
func printAttempts(w io.Writer, f console.Format, xs []*tokenbrokerv1.Attempt) error {
	if len(xs) == 0 {
		return nil
	}
	header, rows := "WHEN\tHOST\tSTATUS\tOUTCOME", [][]string{}
	if f.Wide() {
		header = "WHEN\tHOST\tSTATUS\tTOOK\tOUTCOME\tTAKEN"
	}
	for _, x := range xs {
		at, host, code := f.When(x.GetStartTime().AsTime()), x.GetHost(), "none"
		if x.GetStatus() != 0 {
			code = fmt.Sprint(x.GetStatus())
		}
		outcome := x.GetReason()
		if f.Wide() {
			if x.GetUpstreamError() != "" {
				outcome += " (" + x.GetUpstreamError() + ")"
			}
			took := x.GetDuration().AsDuration().Round(time.Millisecond).String()
			rows = append(rows, []string{at, host, code, took, cmp.Or(outcome, "ok"), strings.Join(x.GetTaken(), " ")})
			continue
		}
		rows = append(rows, []string{at, strings.TrimSuffix(host, ":443"), code, cmp.Or(x.GetUpstreamError(), outcome, "ok")})
	}
	return f.Table(w, header, rows)
}
