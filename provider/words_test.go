package provider

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

// sources are the package's files without its tests.
func goSources(t *testing.T) map[string]*ast.File {
	t.Helper()
	out := map[string]*ast.File{}
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if strings.HasSuffix(f.Name(), ".go") && !strings.HasSuffix(f.Name(), "_test.go") {
			if out[f.Name()], err = parser.ParseFile(token.NewFileSet(), f.Name(), nil, 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(out) < 10 {
		t.Fatalf("found %d files", len(out))
	}
	return out
}

// TestTheParserKnowsTheWordsOfTheTables and no others: what it allows comes from them, what it looks for is in them, and all that is in
// them is looked for.
func TestTheParserKnowsTheWordsOfTheTables(t *testing.T) {
	known, used := map[string]bool{}, map[string]bool{}
	for _, v := range vocabularies {
		for _, w := range v.words {
			known[w.name] = true
			for _, x := range w.values {
				known[x] = true
			}
		}
	}
	for name, f := range goSources(t) {
		if strings.HasPrefix(name, "words") {
			continue
		}
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CallExpr:
				if s, ok := n.Fun.(*ast.SelectorExpr); ok && s.Sel.Name == "Words" {
					t.Errorf("%s: words that are in no table", name)
				}
			case *ast.BasicLit:
				if s, err := strconv.Unquote(n.Value); err == nil && n.Kind == token.STRING {
					used[s] = true
				}
			case *ast.IndexExpr:
				lit, ok := n.Index.(*ast.BasicLit)
				if x, is := n.X.(*ast.Ident); ok && is && (x.Name == "w" || x.Name == "in") && lit.Kind == token.STRING {
					if s, err := strconv.Unquote(lit.Value); err != nil || !known[s] {
						t.Errorf("%s: looks for %s, which is in no table", name, lit.Value)
					}
				}
			}
			return true
		})
	}
	for w := range known {
		if !used[w] {
			t.Errorf("nothing looks for %q", w)
		}
	}
}

// frames put an example where its words stand. What it does not say itself is filled in.
var frames = map[string]func(ex map[string]any) map[string]any{
	"definition": func(ex map[string]any) map[string]any { return ex },
	"input": func(ex map[string]any) map[string]any {
		root := map[string]any{"inputs": map[string]any{"x": ex}}
		if ex["seed"] != nil {
			root["refresh"] = map[string]any{"oauth2": "https://example.com/token"}
		}
		return root
	},
	"parameter": func(ex map[string]any) map[string]any {
		return map[string]any{"parameters": map[string]any{"x": ex}, "obtain": requestOf(map[string]any{"query": map[string]any{"x": "{{x}}"}})}
	},
	"set": func(ex map[string]any) map[string]any {
		return map[string]any{"scopes": ex, "obtain": map[string]any{"oauth2": "https://example.com/token"}}
	},
	"refresh_token_lifetime": func(ex map[string]any) map[string]any {
		return map[string]any{"refresh_token_lifetime": ex, "refresh": map[string]any{"oauth2": "https://example.com/token"}}
	},
	"present": func(ex map[string]any) map[string]any { return map[string]any{"present": ex} },
	"request": func(ex map[string]any) map[string]any {
		if ex["with_token"] != nil {
			return map[string]any{"obtain": []any{requestOf(map[string]any{}), ex}}
		}
		return map[string]any{"obtain": requestOf(ex)}
	},
	"oauth2": func(ex map[string]any) map[string]any { return map[string]any{"obtain": map[string]any{"oauth2": ex}} },
	"auth": func(ex map[string]any) map[string]any {
		return map[string]any{"obtain": requestOf(map[string]any{"auth": ex})}
	},
	"pair": func(ex map[string]any) map[string]any {
		return map[string]any{"obtain": requestOf(map[string]any{"auth": map[string]any{"client_secret_post": ex}})}
	},
	"where": func(ex map[string]any) map[string]any {
		return map[string]any{"obtain": requestOf(map[string]any{"take": map[string]any{"token": "t", "x": ex}})}
	},
	"within": func(ex map[string]any) map[string]any {
		outer := map[string]any{"each": "accounts", "where": map[string]any{"main": true}, "path": ex}
		return map[string]any{"obtain": requestOf(map[string]any{"take": map[string]any{"token": "t", "x": outer}})}
	},
	"test": func(ex map[string]any) map[string]any {
		return map[string]any{"obtain": requestOf(map[string]any{"expect": map[string]any{"state": ex}})}
	},
	"error": func(ex map[string]any) map[string]any { return map[string]any{"error": ex} },
	"rule": func(ex map[string]any) map[string]any {
		return map[string]any{"error": map[string]any{"rules": []any{ex}}}
	},
	"compute": func(ex map[string]any) map[string]any { return map[string]any{"let": map[string]any{"x": ex}} },
	"now":     func(ex map[string]any) map[string]any { return computed("now", ex) },
	"split":   func(ex map[string]any) map[string]any { return computed("split", ex) },
	"field":   func(ex map[string]any) map[string]any { return computed("field", ex) },
	"query":   func(ex map[string]any) map[string]any { return computed("query", ex) },
}

func computed(op string, ex map[string]any) map[string]any {
	return map[string]any{"let": map[string]any{"x": map[string]any{op: ex}}}
}

// requestOf fills in how it is asked, and the token.
func requestOf(ex map[string]any) map[string]any {
	out := maps.Clone(ex)
	asks := slices.ContainsFunc([]string{"oauth2", "get", "post", "put", "delete"}, func(w string) bool { return ex[w] != nil })
	if !asks {
		out["post"] = "https://example.com/token"
	}
	if ex["take"] == nil && ex["oauth2"] == nil {
		out["take"] = map[string]any{"token": "t"}
	}
	return out
}

// TestEveryExampleParses where its word stands, and has it.
func TestEveryExampleParses(t *testing.T) {
	for _, v := range vocabularies {
		for _, w := range v.words {
			var ex map[string]any
			if err := yaml.Unmarshal([]byte("{"+w.example+"}"), &ex); err != nil {
				t.Errorf("%s.%s: %v", v.place, w.name, err)
				continue
			}
			if !strings.Contains(w.example, w.name) {
				t.Errorf("%s.%s: the example %s has not the word", v.place, w.name, w.example)
			}
			if w.meaning == "" || w.kind == "" && w.values == nil {
				t.Errorf("%s.%s: nobody says what it is", v.place, w.name)
			}
			root := maps.Clone(frames[v.place](ex))
			if root["name"] == nil {
				root["name"] = "example"
			}
			if root["obtain"] == nil && root["token"] == nil {
				root["obtain"] = requestOf(map[string]any{})
			}
			inputs := map[string]any{
				"client_id": map[string]any{}, "client_secret": map[string]any{"secret": true}, "username": map[string]any{}, "password": map[string]any{"secret": true},
				"api_key": map[string]any{"secret": true, "handed_out": true}, "server": map[string]any{"format": "url"},
			}
			if own, ok := root["inputs"].(map[string]any); ok {
				maps.Copy(inputs, own)
			}
			root["inputs"] = inputs
			text, err := yaml.Marshal(root)
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range Check("", text) {
				about := fmt.Sprintf("override: true, and there is no built-in definition of the name %s", root["name"])
				if !p.Warning && !strings.HasPrefix(p.Message, about) {
					t.Errorf("%s.%s: %s: %v\n%s", v.place, w.name, w.example, p, text)
				}
			}
		}
	}
}
