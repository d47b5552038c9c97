package operator

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// definition is the file.
func (c *providerNewCommand) definition() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("name: %s", scalar(c.Name))
	if c.Docs != "" {
		line("docs: %s", scalar(c.Docs))
	}
	line("inputs:")
	for _, in := range c.inputs() {
		line("  %s: {%s}", in.name, map[bool]string{true: "secret: true"}[in.secret])
	}
	if len(c.Scope) > 0 {
		var all []string
		for _, s := range c.Scope {
			all = append(all, fmt.Sprintf("%q", s))
		}
		line("scopes: {default: [%s]}", strings.Join(all, ", "))
	}
	line("obtain:")
	if how := orWord(c.How, "oauth2"); how == "oauth2" {
		line("  oauth2: %q", c.TokenURL)
	} else {
		line("  %s: %q", map[string]string{"json": "post", "form": "post", "get": "get"}[how], c.TokenURL)
		c.fields(line)
	}
	switch {
	case c.SecretIn != "basic":
	case orWord(c.How, "oauth2") == "oauth2":
		line("  auth: client_secret_basic")
	default:
		line(`  auth: {basic: ["{{client_id}}", "{{client_secret}}"]}`)
	}
	if c.SecretIn == "header" {
		line(`  headers: {X-Api-Key: "{{api_key}}"}`)
	}
	if token := orWord(c.Token, "access_token"); token != "access_token" || orWord(c.How, "oauth2") != "oauth2" {
		line("  take: {token: %q}", token)
	}
	if c.Lifetime != "" {
		line("lifetime: %s", scalar(c.Lifetime))
	}
	return b.String()
}

// fields are what a request sends that is no OAuth. Their names are the vendor's: these are guesses, to be changed.
func (c *providerNewCommand) fields(line func(string, ...any)) {
	var fields []string
	if c.SecretIn == "" || c.SecretIn == "body" || c.SecretIn == "query" {
		fields = append(fields, `client_id: "{{client_id}}"`, `client_secret: "{{client_secret}}"`)
	}
	if len(c.Scope) > 0 {
		fields = append(fields, `scope: "{{scope}}"`)
	}
	if len(fields) == 0 {
		return
	}
	line("  # the names on the left are the vendor's: change them to what its page says")
	line("  %s: {%s}", map[string]string{"json": "json", "form": "form", "get": "query"}[c.How], strings.Join(fields, ", "))
}

type newInput struct {
	name   string
	secret bool
}

// nameInURL is a name that a URL takes a part from.
var nameInURL = regexp.MustCompile(`\{\{\s*([a-z][a-z0-9_]*)`)

// inputs are what a credential brings: what the request is made of, and what the URL names, such as a customer's host.
func (c *providerNewCommand) inputs() []newInput {
	all := []newInput{{"client_id", false}, {"client_secret", true}}
	if c.SecretIn == "header" {
		all = []newInput{{"api_key", true}}
	}
	for _, m := range nameInURL.FindAllStringSubmatch(c.TokenURL, -1) {
		if !slices.ContainsFunc(all, func(in newInput) bool { return in.name == m[1] }) {
			all = append(all, newInput{m[1], false})
		}
	}
	return all
}

// tryFlags are what try does not ask for: inputs, and what lets it ask a server of this machine.
func (c *providerNewCommand) tryFlags() string {
	out := ""
	for _, in := range c.inputs() {
		if !in.secret {
			out += " --input " + in.name + "=…"
		}
	}
	if host, here := plainHost(c.TokenURL); here {
		out += " --upstream-allow-http " + host + " --upstream-allow-private 127.0.0.0/8,::1/128"
	}
	return out
}

// scalar is a text in YAML, without quotes where it is a plain word.
func scalar(s string) string {
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool { return (r < 'a' || r > 'z') && r != '-' && r != '_' }) && s[0] != '-' {
		return s
	}
	return fmt.Sprintf("%q", s)
}
