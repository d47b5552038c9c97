// Package catalogview shows a catalog of definitions to the server, which knows no definition. It decides nothing.
package catalogview

import (
	"github.com/tokenbroker/tokenbroker/broker"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/provider"
	"github.com/tokenbroker/tokenbroker/server"
)

// A View is a catalog as server.Providers. Safe for concurrent use.
type View struct{ catalog *provider.Catalog }

// New shows the catalog as it is at each call.
func New(c *provider.Catalog) View { return View{c} }

var origins = map[provider.Origin]tokenbrokerv1.Origin{
	provider.Builtin:               tokenbrokerv1.Origin_ORIGIN_BUILTIN,
	provider.File:                  tokenbrokerv1.Origin_ORIGIN_FILE,
	provider.FileOverridingBuiltin: tokenbrokerv1.Origin_ORIGIN_FILE_OVERRIDING_BUILTIN,
}

// Providers implements server.Providers.
func (v View) Providers() []server.Provider {
	var out []server.Provider
	for _, e := range v.catalog.List() {
		out = append(out, server.Provider{
			Name: e.Name, Title: e.Title, DocsURL: e.Docs, Origin: origins[e.Origin], Revision: e.Revision,
			Problems: v.problems(e), Definition: e.Text,
		})
	}
	return out
}

// Explain implements server.Providers.
func (v View) Explain(name string, inputs map[string]string, sel broker.Selection) (requests, problems []string, err error) {
	requests, ps, err := v.catalog.Explain(name, inputs, sel)
	return requests, sentences(ps), err
}

// problems are what is wrong with a definition's file, and what is used meanwhile.
func (v View) problems(e provider.Entry) []string {
	out := places(e.Problems)
	if len(out) == 0 {
		return nil
	}
	if _, err := v.catalog.Definition(e.Name); err == nil {
		return append(out, e.Name+": until that is mended, the definition is used that was there before")
	}
	return append(out, e.Name+": until that is mended, nothing is used of it, and its credentials get no tokens")
}

// places says of a file that is wrong where it is, and nothing that is in it: it may be any file, with anybody's secrets. The operator's log
// and provider check say more.
func places(ps []provider.Problem) []string {
	var out []string
	for _, p := range ps {
		if p.Line > 0 { // what is said of the file as a whole quotes nothing of it
			p.Message, p.Suggestion = "wrong: the broker's log says what, and so does `tokenbroker provider check`", ""
		}
		out = append(out, p.String())
	}
	return out
}

func sentences(ps []provider.Problem) []string {
	var out []string
	for _, p := range ps {
		out = append(out, p.String())
	}
	return out
}
