package operator

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	"github.com/tokenbroker/tokenbroker/internal/yamldoc"
	"github.com/tokenbroker/tokenbroker/provider"
)

type providerNewCommand struct {
	console.Format
	Name     string   `arg:"" optional:"" help:"What the definition is called; its file is NAME.yaml. What is not given is asked for, where there is a terminal."`
	Docs     string   `help:"The vendor's page about authentication."`
	How      string   `enum:",oauth2,json,form,get" default:"" help:"How a token is asked for: oauth2, json, form or get. Default: oauth2."`
	TokenURL string   `name:"token-url" help:"Where it is asked for. What differs from customer to customer is a name in braces, and becomes an input: https://{{shop}}/token."`
	SecretIn string   `name:"secret-in" enum:",body,query,header,basic" default:"" help:"Where the secret goes: body, query, header or basic (HTTP Basic). Default: body, or query with get."`
	Scope    []string `sep:"none" help:"A scope that is asked for by default; repeat for several."`
	Token    string   `help:"Where the token is in the answer, as data.token. Default: access_token."`
	Lifetime string   `help:"How long a token lives where the answer does not say: 60m, 1d, or until_rejected."`

	ProvidersDir string `type:"place" name:"providers-dir" env:"TOKENBROKER_PROVIDERS_DIR" help:"Where the file is to be, as for serve. Default: the current directory."`
	Config       string `env:"TOKENBROKER_CONFIG" type:"path" help:"The broker's settings file, for its providers_dir."`
}

// Run asks for what was not given, and writes the definition.
func (c *providerNewCommand) Run(p *console.Process) error {
	if canPrompt(p) {
		in := bufio.NewReader(p.Stdin)
		read := func() (string, error) {
			return console.Awaited(p, func() (string, error) { return in.ReadString('\n') })
		}
		if err := c.ask(read, p.Stderr); err != nil {
			return err
		}
	}
	for _, q := range c.questions() {
		if *q.to == "" && q.needed {
			return console.BadInput("%s is missing, and there is no terminal to ask at", q.flag)
		}
	}
	if wrong := c.wrong(); len(wrong) > 0 {
		return console.BadInput("%s", strings.Join(wrong, "\n"))
	}
	file := filepath.Join(c.ProvidersDir, c.Name+".yaml")
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644) //nolint:gosec // no secret is in it, and a broker of another user reads it
	if errors.Is(err, fs.ErrExist) {
		return console.BadInput("%s is there already: choose another name, or move it away", file)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return console.BadInput("there is no directory %s, which is where the broker's providers_dir is: make it, or say --providers-dir for another", c.ProvidersDir)
	}
	if err != nil {
		return err
	}
	_, err = io.WriteString(f, c.definition())
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if c.JSON() {
		return console.JSON(p.Stdout, struct {
			File string `json:"file"`
		}{file})
	}
	place := "in the current directory: move it into the broker's providers_dir once it works"
	if c.ProvidersDir != "" {
		place = "in the broker's providers_dir, which it reads when a file changes"
	}
	console.Printf(p.Stdout, "wrote %[1]s, %[2]s. See what it sends, and try it:\n\n  tokenbroker provider explain %[1]s\n  tokenbroker provider try %[1]s%[3]s\n", file, place, c.tryFlags())
	return nil
}

// A question is asked for what a flag has not given.
type question struct {
	flag, text, fallback string
	choices              []string
	needed               bool
	to                   *string
}

func (c *providerNewCommand) questions() []question {
	places := []string{"body", "header", "basic"}
	switch c.How {
	case "", "oauth2":
		places = []string{"body", "basic"}
	case "get":
		places = []string{"query", "header", "basic"}
	}
	return []question{
		{flag: "NAME", text: "What is it called? Its file is NAME.yaml", needed: true, to: &c.Name},
		{flag: "--docs", text: "Which page of the vendor's is about authentication? Empty: none", to: &c.Docs},
		{flag: "--how", text: "How is a token asked for?", fallback: "oauth2", choices: []string{"oauth2", "json", "form", "get"}, to: &c.How},
		{flag: "--token-url", text: "Where? The whole URL; a part that each customer has is a name in braces, as https://{{shop}}/token", needed: true, to: &c.TokenURL},
		{flag: "--secret-in", text: "Where does the secret go?", fallback: places[0], choices: places, to: &c.SecretIn},
		{flag: "--token", text: "Where in the answer is the token? As data.token", fallback: "access_token", to: &c.Token},
		{flag: "--lifetime", text: "How long does it live, where the answer does not say? As 60m or until_rejected; empty: ten minutes", to: &c.Lifetime},
	}
}

// ask asks for what was not given, and again where an answer cannot be used.
func (c *providerNewCommand) ask(read func() (string, error), out io.Writer) error {
	for i := range c.questions() {
		q := c.questions()[i] // what was answered decides what there is to choose
		for *q.to == "" {
			text := q.text
			if q.choices != nil {
				text += " " + strings.Join(q.choices, ", ")
			}
			if q.fallback != "" {
				text += " [" + q.fallback + "]"
			}
			console.Printf(out, "%s: ", text)
			line, err := read()
			if err != nil {
				return fmt.Errorf("read an answer: %w", err)
			}
			if *q.to = strings.TrimSpace(line); *q.to == "" {
				*q.to = q.fallback
			}
			wrong := c.wrong()
			if *q.to != "" && len(wrong) > 0 {
				console.Println(out, strings.Join(wrong, "\n"))
				*q.to = ""
				continue
			}
			if *q.to == "" && !q.needed {
				break
			}
		}
	}
	if len(c.Scope) > 0 {
		return nil
	}
	console.Printf(out, "Which scopes does it ask for by default? With blanks between; empty: none: ")
	line, err := read()
	if err != nil {
		return fmt.Errorf("read an answer: %w", err)
	}
	c.Scope = strings.Fields(line)
	return nil
}

// wrong says what is wrong with what is known until now: the definition that it makes is checked.
func (c *providerNewCommand) wrong() []string {
	known := *c
	if known.Name == "" {
		known.Name = "example"
	}
	if known.TokenURL == "" {
		known.TokenURL = "https://example.com/token"
	}
	var out []string
	for _, q := range known.questions() {
		if *q.to != "" && q.choices != nil && !slices.Contains(q.choices, *q.to) {
			out = append(out, fmt.Sprintf("%s: with %s it is one of %s", q.flag, orWord(known.How, "oauth2"), strings.Join(q.choices, ", ")))
		}
	}
	if host, here := plainHost(known.TokenURL); host != "" && !here {
		out = append(out, "--token-url: with http:// anybody on the way reads the secret: write https://. Only an address of this machine may do without, as http://localhost:8080/token")
	}
	if len(out) > 0 {
		return out
	}
	for _, problem := range yamldoc.Errors(provider.Check(known.Name+".yaml", []byte(known.definition()))) {
		problem.File, problem.Line = "", 0 // nobody has seen the file
		out = append(out, problem.String())
	}
	return out
}

// plainHost is the host of an address without TLS, and whether that is this machine; empty: another kind of address.
func plainHost(s string) (host string, here bool) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" {
		return "", false
	}
	a, err := netip.ParseAddr(u.Hostname())
	return u.Hostname(), u.Hostname() == "localhost" || err == nil && a.IsLoopback()
}

func orWord(s, fallback string) string {
	if s == "" {
		return fallback
	}
	return s
}
