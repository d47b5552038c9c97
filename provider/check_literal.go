package provider

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// secretNames are what fields are called that hold secrets, in lower case and without what separates words; those that end in one of
// secretEndings are too.
var (
	secretNames = map[string]bool{
		"authorization": true, "proxyauthorization": true, "xauthtoken": true, "xauth": true, "accesstoken": true, "refreshtoken": true, "authtoken": true,
		"apitoken": true, "token": true, "pwd": true, "pass": true, "pin": true, "passphrase": true, "clientassertion": true, "privatekey": true,
		"accesskey": true, "secretaccesskey": true, "secretkey": true, "sharedkey": true, "subscriptionkey": true,
	}
	secretEndings = []string{"secret", "password", "passwd", "apikey", "privatekey", "subscriptionkey"}
)

// speaksOfSecrets reports whether a field of this name holds a secret.
func speaksOfSecrets(name string) bool {
	n := strings.ReplaceAll(strings.ToLower(wordSeparators.Replace(name)), ".", "")
	return secretNames[n] || slices.ContainsFunc(secretEndings, func(e string) bool { return strings.HasSuffix(n, e) })
}

var notOfNames = regexp.MustCompile(`[^a-z0-9]+`)

// SecretInput is the input to declare for a field that holds a secret, as in X-Api-Key; empty: the field's name speaks of none.
func SecretInput(field string) string {
	if !speaksOfSecrets(field) {
		return ""
	}
	n := strings.Trim(notOfNames.ReplaceAllString(strings.ToLower(field), "_"), "_")
	n = strings.TrimPrefix(n, "x_")
	switch {
	case n == "authorization", n == "proxy_authorization", builtinNames[n], !nameWord.MatchString(n):
		return "api_key"
	}
	return n
}

// literals refuses secrets that are written into a definition: it is no secret, for callers may read it. They are known by the names of
// the fields that they stand in.
func (c *checker) literals() {
	c.literalFields(c.d.headers, "headers")
	c.literalFields(c.d.present.headers, "present.headers")
	c.literalFields(c.d.present.query, "present.query")
	c.literalFields(c.d.present.cookies.fields, "present.cookies")
	for run, qs := range map[string][]*request{"obtain": c.d.obtain, "refresh": c.d.refresh} {
		for i, q := range qs {
			what := requestNamed(run, i, qs)
			c.literalFields(q.query, what+".query")
			c.literalFields(q.headers, what+".headers")
			c.literalFields(q.cookies.fields, what+".cookies")
			c.literalFields(q.body.fields, what+"."+q.bodyWord())
			c.literalTree(q.body.json, "", what+"."+q.bodyWord(), q.at)
			c.literalURL(q.target().written, what+"."+q.word())
			c.literalBody(q.body.text, what+".text")
			a := q.auth
			if (a.kind == secretBasic || a.kind == rawBasic) && !slices.ContainsFunc(a.id.names(), c.isSecret) {
				c.literal(a.secret, "client_secret", what+".auth", a.secret.at) // beside a secret that is the user, the password is a word that fills its place
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.d.let)) {
		if x := c.d.let[name]; x.text != nil {
			c.literal(*x.text, name, "let."+name, x.at)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.d.inputs)) {
		if in := c.d.inputs[name]; in.hasDefault {
			c.literal(in.fallback, name, "inputs."+name+".default", in.at)
		}
	}
}

func (c *checker) isSecret(name string) bool { return c.meaning(name).secret }

func (c *checker) literalFields(fields []field, what string) {
	for _, f := range fields {
		for _, t := range f.values {
			c.literal(t, f.name, what+"."+f.name, f.at)
		}
	}
}

func (c *checker) literalTree(t *tree, name, what string, at position) {
	switch {
	case t == nil:
	case t.kind == treeLeaf:
		c.literal(*t.leaf, name, what, t.leaf.at)
	case t.kind == treeRaw && t.raw != nil && !isBool(t.raw):
		c.literal(literalText(fmt.Sprint(t.raw)), name, what, at)
	case t.kind == treeList:
		for _, x := range t.list {
			c.literalTree(x, name, what, at)
		}
	case t.kind == treeObject:
		for _, m := range t.members {
			c.literalTree(m.tree, m.name, what+"."+m.name, at)
		}
	}
}

// literalParameter is a parameter of a URL whose value is written in it.
var literalParameter = regexp.MustCompile(`[?&]([^=&#]+)=[^&#]+`)

func (c *checker) literalURL(t text, what string) {
	for i, p := range t.parts {
		for _, m := range literalParameter.FindAllStringSubmatch(p.literal, -1) {
			whole := i == len(t.parts)-1 || !strings.HasSuffix(p.literal, m[0])
			if whole {
				c.literal(literalText("x"), m[1], what, t.at)
			}
		}
	}
}

// literalMembers are names with values as texts write them: of JSON and GraphQL, of forms and attributes, of XML.
var literalMembers = []*regexp.Regexp{
	regexp.MustCompile(`([\w.-]+)\\?["']?\s*:\s*\[?\s*(?:\\?["'][^"'\\]+\\?["']|-?[0-9]+\b)`),
	regexp.MustCompile(`([\w.-]+)\s*=\s*(?:["'][^"']+["']|[^"'&\s<>]+)`),
	regexp.MustCompile(`<(?:[\w-]+:)?([\w.-]+)(?:\s[^<>]*)?>\s*[^<>\s][^<>]*</`),
}

// literalBody looks for them in a text that the definition writes itself.
func (c *checker) literalBody(t text, what string) {
	for i, p := range t.parts {
		for _, member := range literalMembers {
			for _, m := range member.FindAllStringSubmatch(p.literal, -1) {
				goesOn := i < len(t.parts)-1 && strings.HasSuffix(p.literal, m[0]) && !strings.ContainsAny(m[0][len(m[0])-1:], `"'/`)
				if !goesOn {
					c.literal(literalText("x"), m[1], what, t.at)
				}
			}
		}
	}
}

func (c *checker) literal(t text, name, what string, at position) {
	input := SecretInput(name)
	if input == "" || len(t.parts) == 0 || len(t.names()) > 0 || t.parts[0].literal == "true" || t.parts[0].literal == "false" {
		return
	}
	if t.at != (position{}) {
		at = t.at
	}
	c.Wrong(at, "%s: a secret does not stand in a definition, which callers may read: declare inputs: {%s: {secret: true}}, and write {{%s}}", what, input, input)
}
