package project

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

// decidesByText are where a text is all that there is.
var decidesByText = map[string]string{
	"store/bolt/errors.go":      "bbolt keeps no more of the system's error than its text",
	"store/storetest/moving.go": "a suite of tests, which holds what operators are told",
}

// What a program does about a failure it decides by kinds, codes and types. A text is for people, and may change.
func TestNothingIsDecidedByATextForPeople(t *testing.T) {
	n := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && d.Name() != ".." || d.Name() == "gen" || d.Name() == "testdata") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		files := token.NewFileSet()
		f, err := parser.ParseFile(files, path, nil, 0)
		if err != nil {
			return err
		}
		n++
		ast.Inspect(f, func(node ast.Node) bool {
			switch x := node.(type) {
			case *ast.CallExpr:
				if f, ok := x.Fun.(*ast.SelectorExpr); ok && searches(f) {
					for _, a := range x.Args {
						if isText(a) && decidesByText[filepath.ToSlash(rel)] == "" {
							t.Errorf("%s: decides by a text for people", files.Position(x.Pos()))
						}
					}
				}
			case *ast.BinaryExpr:
				literal := func(e ast.Expr) bool { l, ok := e.(*ast.BasicLit); return ok && l.Value != `""` }
				if (x.Op == token.EQL || x.Op == token.NEQ) && (isText(x.X) && literal(x.Y) || literal(x.X) && isText(x.Y)) {
					t.Errorf("%s: decides by a text for people", files.Position(x.Pos()))
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if n < 100 {
		t.Errorf("found %d files only", n)
	}
}

// searches reports whether the function looks into a text: strings.HasPrefix and the like, or an expression's MatchString.
func searches(f *ast.SelectorExpr) bool {
	if pkg, ok := f.X.(*ast.Ident); ok && pkg.Name == "strings" {
		for _, verb := range []string{"Has", "Contains", "Cut", "Trim", "Index", "Split", "EqualFold", "Fields"} {
			if strings.HasPrefix(f.Sel.Name, verb) {
				return true
			}
		}
	}
	return strings.HasPrefix(f.Sel.Name, "Match") || strings.HasPrefix(f.Sel.Name, "Find")
}

// isText reports whether the expression is an error's text, a status's message or a violation's description.
func isText(e ast.Expr) bool {
	call, ok := e.(*ast.CallExpr)
	if !ok {
		sel, ok := e.(*ast.SelectorExpr)
		return ok && (sel.Sel.Name == "Description" || sel.Sel.Name == "Message")
	}
	f, ok := call.Fun.(*ast.SelectorExpr)
	return ok && (f.Sel.Name == "Error" && len(call.Args) == 0 || f.Sel.Name == "GetDescription" || f.Sel.Name == "GetMessage")
}
