package provider

import (
	"fmt"
	"go/ast"
	"go/token"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// taking is a definition of which only one take is wrong.
func taking(take string) string {
	return "name: x\nobtain: {get: \"https://e.com\", take: {token: t, own: " + take + "}}"
}

// asking is one of which only the URL is wrong.
func asking(url string) string { return "name: x\nobtain: {get: \"" + url + "\", take: {token: t}}" }

// moreWrongFiles are, with wrongFiles, one for each message.
var moreWrongFiles = []string{
	"name: x\nobtain: {post: \"https://e.com\", json: [" + strings.Repeat("a, ", mostWords) + "a], take: {token: t}}",
	"name: x\ninputs: {a: {was: c}, b: {was: c}}\nobtain: {get: \"https://e.com/{{a}}/{{b}}\", take: {token: t}}",
	"name: x\ninputs: {k: {secret: true}}\nobtain: {get: \"https://e.com\", query: {k: \"{{k}}\"}, take: {token: {each: l, where: {id: \"{{k}}\"}, path: t}}}",
	"name: x\nobtain: []", "name: x\nobtain: {oauth2: {}}", "name: x\nobtain: {oauth2: \"https://e.com\", auth: none, form: {a: b}}",
	"name: x\nobtain: {oauth2: \"https://e.com\", auth: none, params: {a: {b: c}}}", "name: x\nobtain: {get: \"https://e.com\", auth: basic, take: {token: t}}",
	"name: x\nobtain: {get: \"https://e.com\", auth: {}, take: {token: t}}", "name: x\nobtain: {get: \"https://e.com\", auth: {basic: a}, take: {token: t}}",
	"name: x\nobtain: {get: \"https://e.com\", auth: private_key_jwt, take: {token: t}}", "name: x\nobtain: {get: \"https://e.com\", ok: 99, take: {token: t}}",
	"name: x\nobtain: {get: \"https://e.com\", expect: {a: {}}, take: {token: t}}", "name: x\nobtain: {get: \"https://e.com\", expect: {a: []}, take: {token: t}}",
	"name: x\nobtain: {get: \"https://e.com\", expect: {a: {present: maybe}}, take: {token: t}}", "name: x\nobtain: {get: \"https://e.com\", expect: {a..b: c}, take: {token: t}}",
	"name: x\nobtain: {get: \"https://e.com\", error: {rules: {}}, take: {token: t}}", "name: x\nobtain: {get: \"https://e.com\", with_token: true, take: {token: t}}",
	"name: x\nobtain: {get: \"https://e.com\", headers: {\"a b\": c}, take: {token: t}}",
	"name: x\nobtain: {get: \"https://e.com\", headers: {X: \"{{xyzzy}}\"}, take: {token: t}}", "name: x\nobtain: {get: \"https://e.com\", headers: {X: \"{{a\"}, take: {token: t}}",
	"name: x\nobtain: {get: \"https://e.com\", headers: {X: \"{{a-b}}\"}, take: {token: t}}", "name: x\nobtain: {post: \"https://e.com\", form: {password: abc}, take: {token: t}}",
	"name: x\nobtain: {oauth2: \"https://e.com\"}", "name: x\nobtain: {oauth2: \"https://e.com\", params: {a: \"{{subject_token}}\"}, auth: none}",
	"name: x\nobtain: {post: \"https://e.com\", text: \"a {{scope}}\", take: {token: t}}\nscopes: {}",
	taking("[]"), taking("{}"), taking("{path: a, of: token}"), taking("{path: a, each: b}"), taking("{path: a, each: b, where: {c..d: e}}"), taking("{path: \"a[\"}"), taking("{path: \"a[x]\"}"), taking("{path: \"a[0]b\"}"),
	taking("{path: 'a.\"\"'}"), taking("{path: \"a b\"}"), taking("''"), taking(strings.Repeat("a.", 70) + "a"), taking("{path: a, layout: abc}"), taking("{path: a, layout: '%Q'}"),
	taking("{path: a, layout: '%S%f'}"), taking("{path: a, layout: '%S Mon'}"), taking("{path: a, unit: hours}"), taking("{path: a, pattern: '('}"), taking("{path: a, pattern: '(a{300})'}"),
	"name: x\nobtain: {get: \"https://e.com\", take: {token: t, Own: a}}",
	asking(""), asking("e.com"), asking("https://e.com/#a"), asking("https://"), asking("https://a@e.com"), asking("https://e.com:x"), asking("https://ü.com"), asking("https://a_b!.com"),
	asking("https://[x]"), asking("https://e.com/../a"), asking("https://e.com/%zz"), asking(`https://e.com/\n`),
	"name: x\ninputs: {u: {format: url}}\n" + strings.TrimPrefix(asking("{{u}}x"), "name: x\n"), "name: x\ninputs: {u: {}}\n" + strings.TrimPrefix(asking("{{u}}"), "name: x\n"),
	"name: x\ninputs: {u: {format: url}}\n" + strings.TrimPrefix(asking("https://{{u}}/a"), "name: x\n"),
	"name: x\ninputs: {u: {one_of: [a/b]}}\n" + strings.TrimPrefix(asking("https://{{u}}/a"), "name: x\n"),
	"name: x\nparameters: {u: {}}\n" + strings.TrimPrefix(asking("https://{{u}}/a"), "name: x\n"),
	"name: x\nlet: {h: {from_hex: \"ff\"}}\n" + strings.TrimPrefix(asking("https://{{h}}.e.com"), "name: x\n"),
	right + "parameters: {p: {default: " + strings.Repeat("x", longestDefault+1) + "}}",
	"name: x\nobtain: {get: \"https://e.com\", error: {rules: [{status: 99999, means: grant}]}, take: {token: t}}",
	right + "resources: {default: [\"https://e.com/#a\"]}",
	right + "attributes: a", right + "attributes: [zzz]", right + "present: {}", right + "scopes: {default: read}", right + "scopes: {}", right + "inputs2: {}",
	right + "scopes: {default: [\"{{s}}\"]}", right + "parameters: {id: {}}", right + "let: {a: {uuid: 1}}", right + "let: {a: {first: x}}", right + "let: {a: {now: {add: soon}}}",
	right + "let: {a: {split: {of: a, at: 1}}}", right + "let: {a: {split: {of: a, by: b}}}", right + "let: {a: {split: {by: b, at: 1}}}", right + "let: {a: {field: {of: a}}}",
	right + "let: {a: {}}", right + "let: {a: {sha1: b}}", right + "let: {a: \"{{own}}\"}\nheaders: {X: \"{{a}}\"}", right + "let: {a: {uuid: 4}}\npresent: {headers: {X: \"{{token}}{{a}}\"}}",
	"name: x\nobtain: {oauth2: \"https://e.com\", auth: none, take: {own: refresh_token}}\nattributes: [own]", "name: x\nobtain: {oauth2: \"https://e.com\", auth: none, take: {token: {text: true}}}",
	"name: x\ninputs: {idle: {}}\n" + strings.TrimPrefix(asking("https://e.com"), "name: x\n"),
	right + "headers: {X-A: b, Host: c}", right + "let: {a: b}",
	"name: x\ninputs: {a: {default: \"{{b}}\"}}\ntoken: \"{{a}}\"", "name: x\ninputs: {a: {one_of: []}}\ntoken: \"{{a}}\"", "name: x\ninputs: {a: {was: b}, b: {}}\ntoken: \"{{a}}{{b}}\"",
	"name: x\ninputs: {a: {secret: true, seed: true}, b: {secret: true, seed: true}}\nrefresh: {oauth2: \"https://e.com\", auth: none}",
	"name: x\ninputs: {a: {secret: true}}\ntoken: \"{{a}}\"", "name: x\ntoken: abc", "name: x\ninputs: {a: {}}\ntoken: \"a\"",
	"name: x\nobtain: {get: \"https://e.com\", take: {token: t, own: o}}", "name: x\ntoken: [a]", "name: x\ninputs: {a: {}, [b]: {}}\ntoken: a", "name: x\nobtain: {post: \"https://e.com\", json: " +
		strings.Repeat("[", 70) + strings.Repeat("]", 70) + ", take: {token: t}}",
	"name: x\ninputs: {" + strings.ReplaceAll(strings.Join(strings.SplitAfter(manyNames(), "}, ")[:mostFlows], ""), "{}", "{secret: true, handed_out: true}") + "}\ntoken: a",
	"name: x\nobtain: [" + strings.Repeat("{get: \"https://e.com\", take: {token: t}}, ", 20) + "]", "name: x\ninputs: {" + manyNames() + "}\ntoken: a", strings.Repeat("#", 1<<20+1),
}

func manyNames() string {
	var b strings.Builder
	for i := range mostNames + 1 {
		fmt.Fprintf(&b, "n%d: {}, ", i)
	}
	return b.String()
}

// neverSaid are messages that no file brings about, and why.
var neverSaid = map[string]string{
	"%s: %s cannot be sent": "what is no text, list or mapping is an alias, and those are refused before",
}

// advice is how a message says what to write instead.
var advice = regexp.MustCompile(`(?i)\b(write|leave|declare|choose|say|name|use|take|put|wrap|call|must|begin)\b|did you mean|as in|none of|not YAML|and \d+ problems more`)

// TestEveryMessageSaysWhatToWrite, and for every one there is a file that brings it about.
func TestEveryMessageSaysWhatToWrite(t *testing.T) {
	var said []string
	files := slices.Clone(moreWrongFiles)
	for _, c := range wrongFiles {
		files = append(files, c.text)
	}
	for _, f := range files {
		problems := Check("x.yaml", []byte(f))
		if len(problems) == 0 {
			t.Errorf("nothing is wrong with\n%.300s", f)
		}
		for _, p := range problems {
			said = append(said, p.Message)
			if p.File = ""; !advice.MatchString(p.String()) {
				t.Errorf("%s: and what is to be written?", p)
			}
		}
	}
	formats := messageFormats(t)
	if len(formats) < 100 {
		t.Errorf("found %d messages", len(formats))
	}
	for _, f := range formats {
		re := regexp.MustCompile(`(?s)` + regexp.MustCompile(`%[a-z]`).ReplaceAllString(strings.ReplaceAll(regexp.QuoteMeta(f), "%%", "%"), ".*"))
		if !slices.ContainsFunc(said, re.MatchString) && neverSaid[f] == "" {
			t.Errorf("no file brings about %q", f)
		}
	}
}

// messageFormats are what the parser and the checker may say.
func messageFormats(t *testing.T) []string {
	t.Helper()
	var out []string
	for name, f := range goSources(t) {
		errs := name == "path.go" || name == "url.go" || name == "template.go"
		ast.Inspect(f, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			s, ok := call.Fun.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			at := -1
			switch {
			case (s.Sel.Name == "Wrong" || s.Sel.Name == "Warn") && len(call.Args) > 1:
				at = 1
			case errs && (s.Sel.Name == "New" || s.Sel.Name == "Errorf"):
				at = 0
			}
			if at < 0 {
				return true
			}
			if _, logged := call.Args[0].(*ast.BasicLit); at == 1 && logged {
				return true
			}
			if lit, ok := call.Args[at].(*ast.BasicLit); ok && lit.Kind == token.STRING {
				if text, err := strconv.Unquote(lit.Value); err == nil && len(regexp.MustCompile(`%[a-z]|\W`).ReplaceAllString(text, "")) > 3 {
					out = append(out, text)
				}
			}
			return true
		})
	}
	return out
}
