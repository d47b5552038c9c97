package provider

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tokenbroker/tokenbroker/internal/suggest"
)

func (c *checker) inputNames() map[string]bool {
	out := map[string]bool{}
	for n, in := range c.d.inputs {
		if !in.seed {
			out[n] = true
		}
	}
	return out
}

// base are the names that hold before anything was asked.
func (c *checker) base() map[string]bool {
	out := c.inputNames()
	for n := range c.d.parameters {
		out[n] = true
	}
	for n := range c.d.let {
		out[n] = true
	}
	if c.d.scopes != nil {
		out["scope"] = true
	}
	if c.d.audience != nil {
		out["audience"] = true
	}
	if c.d.resources != nil {
		out["resources"] = true
	}
	return out
}

// known are the names that hold after some requests of a run.
func (c *checker) known(before []*request) map[string]bool {
	out := c.base()
	for _, q := range before {
		for _, t := range q.take {
			out[t.name] = true
		}
	}
	return out
}

// anywhere are all names: a let is computed where it is used, from what holds there.
func (c *checker) anywhere() map[string]bool {
	out := c.known(c.d.obtain)
	maps.Copy(out, c.known(c.d.refresh))
	out["refresh_token"], out["token"] = true, true
	return out
}

// held are the own values of the last answer, that a refresh may name.
func (d *definition) held() []string { return ownOf(d.obtain) }

// own are the own values that any run takes.
func (d *definition) own() []string { return ownOf(slices.Concat(d.obtain, d.refresh)) }

func ownOf(qs []*request) []string {
	var out []string
	for _, q := range qs {
		for _, t := range q.take {
			if !builtinNames[t.name] && !slices.Contains(out, t.name) {
				out = append(out, t.name)
			}
		}
	}
	return out
}

func (c *checker) text(t text, what string, known map[string]bool) {
	for _, n := range t.names() {
		if through := c.lacks(n, known, map[string]bool{}); through != "" {
			c.Wrong(t.at, "%s: {{%s}} is computed of {{%s}}, and nothing gives that here", what, n, through)
		}
		if !known[n] {
			p := Problem{
				File: c.File, Line: t.at.Line, Column: t.at.Column,
				Message:    fmt.Sprintf("%s: nothing gives {{%s}} here", what, n),
				Suggestion: suggest.Nearest(n, slices.Collect(maps.Keys(known))),
			}
			switch {
			case t.implied:
				p.Message, p.Suggestion = implies(what, n), ""
			case n == "access_token" && known["token"]:
				p.Suggestion = "token"
			}
			if n == "subject_token" || n == "actor_token" || n == "subject_token_type" {
				p.Message = fmt.Sprintf("%s: this version does not know {{%s}} yet", what, n)
			}
			c.Problems = append(c.Problems, p)
		}
	}
}

// implies says of a text that nobody wrote what it is there for, and what to write.
func implies(what, name string) string {
	run, _, _ := strings.Cut(what, ".")
	declare := "{}"
	if name == "client_secret" || name == "password" {
		declare = "{secret: true}"
	}
	s := fmt.Sprintf("%s: it sends {{%s}} by itself, and nothing gives that: declare inputs: {%s: %s}", run, name, name, declare)
	switch name {
	case "client_id", "client_secret":
		s += ", or say otherwise with auth"
	case "username", "password":
		s += ", or say otherwise with params"
	}
	return s
}

// lacks finds what a let value is computed of and nothing gives at a place; empty: nothing. Of alternatives one is enough.
func (c *checker) lacks(name string, known, seen map[string]bool) string {
	x, ok := c.d.let[name]
	if !ok || seen[name] {
		return ""
	}
	seen[name] = true
	return c.lacking(x, known, seen)
}

func (c *checker) lacking(x *compute, known, seen map[string]bool) string {
	if x.text != nil {
		for _, n := range x.text.names() {
			if s := c.lacks(n, known, seen); s != "" {
				return s
			}
			if c.anywhere()[n] && !known[n] {
				return n // what is given nowhere is said where the value is declared
			}
		}
	}
	if x.of != nil {
		return c.lacking(x.of, known, seen)
	}
	for i, a := range x.any {
		if s := c.lacking(a, known, seen); s == "" || i == len(x.any)-1 {
			return s
		}
	}
	return ""
}
