package provider

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tokenbroker/tokenbroker/internal/suggest"
)

// What bounds a definition, so that whoever writes a file cannot keep a broker busy with it.
const (
	mostNames    = 1000
	mostRequests = 16
	mostDepth    = 64
	// mostWords is how many words, values, lists and mappings a definition has, and mostReferences how often it names something: enough for fifty times
	// the largest that comes with the broker, and few enough to hold each against each other.
	mostWords      = 5000
	mostReferences = 2000
	// mostProblems is up to how many are looked for: an unknown name is compared with all that are known.
	mostProblems = 100
)

// tooLarge reports, and says, that there is more of something than any definition needs.
func (c *checker) tooLarge() bool {
	names := len(c.d.inputs) + len(c.d.parameters) + len(c.d.let)
	for _, qs := range [][]*request{c.d.obtain, c.d.refresh} {
		if len(qs) > mostRequests {
			c.Wrong(qs[0].at, "definition: %d requests; a run has %d at most, leave some out", len(qs), mostRequests)
			return true
		}
		for _, q := range qs {
			names += len(q.take)
		}
	}
	if names > mostNames {
		c.Wrong(position{}, "definition: %d names; inputs, parameters, let and take together have %d at most, leave some out", names, mostNames)
	}
	return names > mostNames
}

// A place is where a template stands: the names that hold there, and what was found out about let values there.
type place struct {
	names map[string]bool
	lacks map[string]string
}

func placeOf(names map[string]bool) *place { return &place{names, map[string]string{}} }

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
	if c.everything == nil {
		c.everything = c.known(c.d.obtain)
		maps.Copy(c.everything, c.known(c.d.refresh))
		c.everything["refresh_token"], c.everything["token"] = true, true
	}
	return c.everything
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

// text checks that each name of a template holds where it stands.
func (c *checker) text(t text, what string, here *place) {
	for _, n := range t.names() {
		if len(c.Problems) >= mostProblems {
			return
		}
		if through := c.lacks(n, here); through != "" {
			c.Wrong(t.at, "%s: {{%s}} is computed of {{%s}}, and nothing gives that here; name it where that was taken", what, n, through)
		}
		if !here.names[n] {
			p := Problem{
				File: c.File, Line: t.at.Line, Column: t.at.Column,
				Message:    fmt.Sprintf("%s: nothing gives {{%s}} here", what, n),
				Suggestion: suggest.Nearest(n, slices.Collect(maps.Keys(here.names))),
			}
			switch {
			case t.implied:
				p.Message, p.Suggestion = implies(what, n), ""
			case n == "subject_token" || n == "actor_token" || n == "subject_token_type":
				p.Message = fmt.Sprintf("%s: this version does not know {{%s}} yet; leave it out", what, n)
			case n == "access_token" && here.names["token"]:
				p.Suggestion = "token"
			case p.Suggestion == "":
				p.Message += c.gives(n)
			}
			c.Problems = append(c.Problems, p)
		}
	}
}

// gives says what would give a name that nothing gives.
func (c *checker) gives(n string) string {
	switch {
	case n == "scope":
		return "; declare scopes: {}"
	case n == "audience" || n == "resources":
		return "; declare " + n + ": {}"
	case n == "refresh_token":
		return "; it is there in refresh alone"
	case builtinNames[n]:
		return "; name it behind the request that takes it"
	case c.anywhere()[n]:
		return "; name it behind what gives it"
	}
	return fmt.Sprintf("; declare inputs: {%s: {}}, or take it before", n)
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
func (c *checker) lacks(name string, here *place) string {
	x, ok := c.d.let[name]
	if !ok {
		return ""
	}
	if s, ok := here.lacks[name]; ok {
		return s
	}
	here.lacks[name] = "" // for one that is computed from itself
	here.lacks[name] = c.lacking(x, here)
	return here.lacks[name]
}

func (c *checker) lacking(x *compute, here *place) string {
	if x.text != nil {
		for _, n := range x.text.names() {
			c.steps++
			if s := c.lacks(n, here); s != "" {
				return s
			}
			if c.anywhere()[n] && !here.names[n] {
				return n // what is given nowhere is said where the value is declared
			}
		}
	}
	if x.of != nil {
		return c.lacking(x.of, here)
	}
	for i, a := range x.any {
		if s := c.lacking(a, here); s == "" || i == len(x.any)-1 {
			return s
		}
	}
	return ""
}

// A meaning is what a name stands for, let values seen through.
type meaning struct {
	// secret: a secret input, or something computed of one.
	secret bool
	// kept is the secret in it that is not to be handed out, and chosen what a caller is free to choose; empty: nothing.
	kept, chosen string
	// changes: it is drawn or read from a clock.
	changes bool
}

// meaning finds what a name stands for. Each name is looked at once.
func (c *checker) meaning(name string) meaning {
	if m, ok := c.meanings[name]; ok {
		return m
	}
	c.steps++
	c.meanings[name] = meaning{} // for one that is computed from itself
	m := c.declared(name)
	if x, ok := c.d.let[name]; ok {
		m.changes = x.changes()
		for _, n := range x.names() {
			of := c.meaning(n)
			c.steps++
			m.secret, m.changes = m.secret || of.secret, m.changes || of.changes
			if m.kept == "" {
				m.kept = of.kept
			}
			if m.chosen == "" {
				m.chosen = of.chosen
			}
		}
	}
	c.meanings[name] = m
	return m
}

// declared is what a name means that is none of let.
func (c *checker) declared(name string) meaning {
	var m meaning
	free := func(oneOf []string) {
		if oneOf == nil {
			m.chosen = name
		}
	}
	if in := c.d.inputs[name]; in != nil {
		if m.secret = in.secret; in.secret && !in.handedOut {
			m.kept = name
		}
		return m
	}
	if in := c.d.parameters[name]; in != nil {
		if m.secret = in.secret; in.secret {
			m.kept = name
		}
		free(in.oneOf)
		return m
	}
	switch name {
	case "refresh_token":
		m.secret, m.kept = true, name
	case "token":
		m.secret = true
	case "audience":
		if c.d.audience != nil {
			free(c.d.audience.oneOf)
		}
	case "scope":
		if c.d.scopes != nil {
			free(c.d.scopes.oneOf)
		}
	case "resources":
		if c.d.resources != nil {
			free(c.d.resources.oneOf)
		}
	}
	return m
}
