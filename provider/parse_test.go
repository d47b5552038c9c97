package provider

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/internal/jsondoc"
	"github.com/tokenbroker/tokenbroker/internal/yamldoc"
)

func check(t *testing.T, text string) []string {
	t.Helper()
	var out []string
	for _, p := range yamldoc.Errors(Check("x.yaml", []byte(text))) {
		out = append(out, p.String())
	}
	return out
}

func TestFiveMistakesAreReportedAtOnceWithTheirPlaces(t *testing.T) {
	got := check(t, `name: x
titel: Example
inputs:
  client_id: {secrt: true}
obtain:
  post: ftp://example.com/token
  form: {id: "{{client_id"}
  take: {token: "a..b"}
lifetime: 5 minutes
`)
	want := []string{
		`x.yaml:2:1: definition: unknown word "titel"; did you mean "title"?`,
		`x.yaml:4:15: inputs.client_id: unknown word "secrt"; did you mean "secret"?`,
		`x.yaml:6:9: obtain.post: a URL begins with https:// or with {{name}}`,
		`x.yaml:7:14: obtain.form.id: {{ without }}; write {{{{ for a literal {{`,
		`x.yaml:8:17: obtain.take.token: path "a..b": "" is not a member name`,
		`x.yaml:9:11: lifetime: it is not a duration; write 90s, 1h30m or 5d`,
	}
	if len(got) != len(want) {
		t.Fatalf("got %d problems, want %d:\n%s", len(got), len(want), strings.Join(got, "\n"))
	}
	for i := range want {
		if !strings.HasPrefix(got[i], want[i]) && !(i == 4 && strings.HasPrefix(got[i], "x.yaml:8:17: obtain.take.token: path")) {
			t.Errorf("got  %s\nwant %s", got[i], want[i])
		}
	}
}

const right = `name: x
inputs: {id: {}, s: {secret: true}}
obtain: {post: "https://example.com/t", form: {id: "{{id}}", s: "{{s}}"}, take: {token: t, own: o}}
`

// wrongFiles are definitions with one thing wrong each, and what is said of it.
var wrongFiles = map[string]struct{ text, want string }{
	"no name":                      {"obtain: {get: \"https://e.com\", take: {token: t}}", "name is missing"},
	"a bad name":                   {"name: X_1\ntoken: a", "is not 1 to 63"},
	"another file's name":          {"name: y\ntoken: a", "name: it is not the file's"},
	"another language":             {"name: x\nlanguage: 2\ntoken: a", "reads language 1"},
	"nothing that makes a token":   {"name: x", "how does a token come about"},
	"obtain and token":             {right + "token: a", "either asked for or computed"},
	"token and refresh":            {"name: x\ntoken: a\nrefresh: {oauth2: \"https://e.com\"}", "never refreshed"},
	"refresh without a seed":       {"name: x\nrefresh: {oauth2: \"https://e.com\", auth: none}", "seed: true"},
	"a seed without refresh":       {"name: x\ninputs: {r: {secret: true, seed: true}}\ntoken: a", "no refresh that would use it"},
	"a seed that is no secret":     {"name: x\ninputs: {refresh_token: {seed: true}}\nrefresh: {oauth2: \"https://e.com\", auth: none}", "secret: true"},
	"an unknown template name":     {strings.Replace(right, `"{{id}}"`, `"{{idd}}"`, 1), `nothing gives {{idd}} here; did you mean "id"?`},
	"a value before it is taken":   {strings.Replace(right, `"{{id}}"`, `"{{own}}"`, 1), "nothing gives {{own}}"},
	"a cycle":                      {right + "let: {a: \"{{b}}\", b: {hex: \"{{a}}\"}}", "computed from itself"},
	"a clash":                      {right + "let: {id: a}", "is among inputs already"},
	"a name of the language":       {right + "let: {token: a}", "name of the language"},
	"a secret in a path":           {"name: x\ninputs: {s: {secret: true}}\nobtain: {get: \"https://e.com/{{s}}\", take: {token: t}}", "under query only"},
	"a computed secret in a path":  {"name: x\ninputs: {s: {secret: true}}\nlet: {b: {base64: \"{{s}}\"}}\nobtain: {get: \"https://e.com/{{b}}\", take: {token: t}}", "under query only"},
	"a secret that is shown":       {right + "present: {headers: {X: \"{{token}} {{s}}\"}}", "callers would see the secret"},
	"a computed secret shown":      {right + "let: {b: {hex: \"{{s}}\"}}\npresent: {headers: {X: \"{{token}} {{b}}\"}}", "callers would see the secret"},
	"a secret in handed headers":   {right + "headers: {X-Key: \"{{s}}\"}", "callers would see the secret"},
	"a secret in base_url":         {right + "base_url: \"https://e.com/{{s}}\"", "callers would see the secret"},
	"a header nobody may present":  {right + "present: {headers: {Host: \"{{token}}\"}}", "cannot be handed out"},
	"a forwarded header":           {right + "present: {headers: {X-Forwarded-For: \"{{token}}\"}}", "cannot be handed out"},
	"a pseudo-header":              {right + "present: {headers: {\":path\": \"{{token}}\"}}", "cannot be handed out"},
	"present without a token":      {right + "present: {headers: {X: abc}}", "nothing of it names a value"},
	"an attribute nobody takes":    {right + "attributes: [ownn]", `did you mean "own"?`},
	"an end shown":                 {right + "attributes: [expires_in]", "expires_in is not kept beside the token"},
	"the refresh token shown":      {right + "attributes: [refresh_token]", "nothing of this name is taken"},
	"two bodies":                   {strings.Replace(right, "take:", "json: {}, take:", 1), "one body at most"},
	"a get with a body":            {"name: x\nobtain: {get: \"https://e.com\", form: {a: b}, take: {token: t}}", "get has no body"},
	"two methods":                  {strings.Replace(right, "take:", "get: \"https://e.com\", take:", 1), "exactly one of"},
	"params without oauth2":        {strings.Replace(right, "take:", "params: {}, take:", 1), "goes with oauth2 only"},
	"no token taken":               {"name: x\nobtain: {get: \"https://e.com\", take: {x: y}}", "no request takes a token"},
	"claim without of":             {"name: x\nobtain: {get: \"https://e.com\", take: {token: t, c: {claim: a}}}", "of is missing"},
	"claim of nothing":             {"name: x\nobtain: {get: \"https://e.com\", take: {token: t, c: {claim: a, of: b}}}", "nothing of this name was taken"},
	"a pattern without a group":    {"name: x\nobtain: {get: \"https://e.com\", take: {token: {path: t, pattern: abc}}}", "a group"},
	"a bad rate":                   {right + "rate: often", "write 60/1m"},
	"a bad reuse":                  {right + "refresh_token_reuse: sometimes", "is not a duration"},
	"reuse without refresh":        {right + "refresh_token_reuse: allowed", "there is no refresh"},
	"an alias":                     {"name: x\ninputs: &a {id: {}}\nparameters: *a\ntoken: t", "aliases are not allowed"},
	"a repeated key":               {"name: x\ntoken: a\nname: x", "twice"},
	"a second document":            {right + "---\nname: y", "one document a file"},
	"an empty file":                {"", "empty"},
	"no mapping":                   {"- a\n- b", "it is no definition"},
	"no YAML":                      {"name: [", "not YAML"},
	"a default with secret":        {"name: x\ninputs: {s: {secret: true, default: a}}\ntoken: t", "neither optional nor secret"},
	"a default that is wrong":      {"name: x\ninputs: {s: {format: uuid, default: a}}\ntoken: t", "must be a UUID"},
	"secret: false":                {"name: x\ninputs: {s: {secret: false}}\ntoken: t", "only true can be written"},
	"a line break in a header":     {strings.Replace(right, "take:", `headers: {X: "a\r\nb"}, take:`, 1), "no line breaks"},
	"a line break for everybody":   {right + `headers: {X: "a\nb"}`, "no line breaks"},
	"a line break that is shown":   {right + `present: {headers: {X: "{{token}}\nb"}}`, "printable ASCII"},
	"a line break in a name":       {strings.Replace(right, "take:", `cookies: {"a\r\nY": b}, take:`, 1), "is not a cookie's name"},
	"two cookies in a name":        {strings.Replace(right, "take:", `cookies: {"a; b": c}, take:`, 1), "is not a cookie's name"},
	"two cookies in a value":       {strings.Replace(right, "take:", `cookies: {a: "b; c=d"}, take:`, 1), "write each cookie as an entry of its own"},
	"a line break in a cookie":     {strings.Replace(right, "take:", `cookies: {a: "b\nc"}, take:`, 1), "no line breaks"},
	"a line break in cookies":      {strings.Replace(right, "take:", `cookies: "a=b\nc", take:`, 1), "no line breaks"},
	"a cookie that is shown":       {right + `present: {cookies: {"a b": "{{token}}"}}`, "is not a cookie's name"},
	"no lifetime at all":           {right + "lifetime: 0s", "write how long, as 90s, 1h30m or 5d"},
	"no idle lifetime at all":      {right + "refresh: {oauth2: \"https://e.com\", auth: none}\nrefresh_token_lifetime: {idle: 0m}", "write how long"},
	"random with a unit":           {right + "let: {n: {hex: {random: 8x}}}", "from 8 to 64, without a unit"},
	"split at a word":              {right + "let: {n: {split: {of: a, by: b, at: 1x}}}", "a number is wanted"},
	"a query without a name":       {right + "let: {n: {query: {of: a}}}", "name is missing"},
	"a pattern that gets out":      {"name: x\ninputs: {a: {pattern: 'a)|(.*'}}\ntoken: '{{a}}'", "is not an RE2 expression"},
	"a pattern that searches long": {"name: x\nobtain: {get: 'https://e.com/t', take: {token: {text: true, pattern: '(" + strings.Repeat("(?:a|b)*", 600) + ")d'}}}", "an expression of"},
	"a pattern that quotes":        {"name: x\ninputs: {a: {pattern: '\\Qa'}}\ntoken: '{{a}}'", "is not an RE2 expression"},
	"a built-in's name":            {strings.Replace(right, "name: x", "name: snov", 1), "say override: true if this one is to take its place"},
	"an override of nothing":       {right + "override: true", "there is no built-in definition of the name x"},
	"a list in a list":             {strings.Replace(right, "own: o", "own: {each: l, where: {a: b}, path: {each: m, path: v}}", 1), "has path, each and where; write all three"},
	"a list in no list":            {strings.Replace(right, "own: o", "own: {path: {each: m, where: {a: b}, path: v}}", 1), "each and where go together"},
	"an unknown in a list":         {strings.Replace(right, "own: o", "own: {each: l, where: {a: b}, path: {each: m, where: {a: '{{zz}}'}, path: v}}", 1), "nothing gives {{zz}}"},
	"one_of what is none":          {"name: x\ninputs: {s: {format: url, one_of: [a/b]}}\ntoken: '{{s}}'", "one_of: value 1 must be an absolute https URL"},
	"an unknown format":            {"name: x\ninputs: {s: {format: urll}}\ntoken: t", `did you mean "url"?`},
	"a rule without means":         {strings.Replace(right, "take:", "error: {rules: [{status: 401}]}, take:", 1), "means is missing"},
	"a rule that always applies":   {strings.Replace(right, "take:", "error: {rules: [{means: grant}]}, take:", 1), "status or code"},
	"a header of the transport":    {strings.Replace(right, "take:", "headers: {Content-Length: 5}, take:", 1), "is the transport's"},
}

func TestWhatIsWrongIsSaid(t *testing.T) {
	if got := check(t, right); len(got) != 0 {
		t.Fatalf("got %v of what is right", got)
	}
	for name, c := range wrongFiles {
		got := check(t, c.text)
		if len(got) == 0 || !strings.Contains(strings.Join(got, "\n"), c.want) {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
		for _, g := range got {
			if !strings.HasPrefix(g, "x.yaml:") {
				t.Errorf("%s: %q has no place", name, g)
			}
		}
	}
}

func TestWordsOfALaterVersionAreSaidToBeOnes(t *testing.T) {
	n := 0
	for word := range laterWords {
		n++
		for _, text := range []string{
			right + word + ": {}", strings.Replace(right, "take:", word+": {}, take:", 1),
			right + "let: {a: {" + word + ": x}}", strings.Replace(right, "take:", "auth: "+word+", take:", 1),
		} {
			if got := strings.Join(check(t, text), "\n"); !strings.Contains(got, "does not know") || !strings.Contains(got, word) {
				t.Errorf("%s: got %q", word, got)
			}
		}
	}
	if n < 10 {
		t.Error("found no words")
	}
	if got := strings.Join(check(t, strings.Replace(right, "{{id}}", "{{subject_token}}", 1)), "\n"); !strings.Contains(got, "does not know {{subject_token}} yet") {
		t.Errorf("got %q", got)
	}
}

func TestARevisionIsOfWhatDecidesIssuance(t *testing.T) {
	digestOf := func(text string) string {
		t.Helper()
		d, problems := parse("", []byte(text))
		if len(yamldoc.Errors(problems)) > 0 {
			t.Fatal(problems)
		}
		return d.Facts().Digest
	}
	base := digestOf(right)
	for name, text := range map[string]string{
		"a comment": "# hello\n" + right, "a title": right + "title: T", "docs": right + "docs: https://d", "present": right + "present: {headers: {X: \"{{token}}\"}}",
		"base_url": right + "base_url: https://a", "margin": right + "margin: 1m", "attributes": right + "attributes: [own]", "rate": right + "rate: 5/1s",
		"order": `name: x
obtain: {take: {own: o, token: t}, form: {s: "{{s}}", id: "{{id}}"}, post: "https://example.com/t"}
inputs: {s: {secret: true, title: S}, id: {hint: h}}`,
	} {
		if digestOf(text) != base {
			t.Errorf("%s: another revision", name)
		}
	}
	for name, text := range map[string]string{
		"a URL": strings.Replace(right, "/t", "/u", 1), "a field": strings.Replace(right, "form: {id:", "form: {di:", 1), "a lifetime": right + "lifetime: 1m",
		"a header": right + "headers: {X: y}", "a scope": strings.Replace(right, `id: "{{id}}",`, `id: "{{id}}", scope: "{{scope}}",`, 1) + "scopes: {}",
	} {
		if digestOf(text) == base {
			t.Errorf("%s: the same revision", name)
		}
	}
}

func TestTemplates(t *testing.T) {
	v := newValues(nil)
	v.set("a", "A", false)
	v.set("empty", "", false)
	for in, want := range map[string]string{
		"": "", "x": "x", "{{a}}": "A", "{{ a }}": "A", "x{{a}}y{{a}}": "xAyA", "{{{{": "{{", "{{{{a}}": "{{a}}", "{": "{", "}}": "}}", "{a}": "{a}", "{{empty}}": "",
	} {
		parts, err := parseText(in)
		if err != nil {
			t.Errorf("%q: %v", in, err)
			continue
		}
		got, ok, err := (text{parts: parts}).expand(v)
		if got != want || !ok || err != nil {
			t.Errorf("%q: got %q %v %v, want %q", in, got, ok, err, want)
		}
	}
	for _, in := range []string{"{{", "{{a", "{{}}", "{{A}}", "{{a b}}", "{{ a  }}", "{{.a}}", "{{a|b}}", "{{1a}}", "{{a-b}}"} {
		if _, err := parseText(in); err == nil {
			t.Errorf("%q: no error", in)
		}
	}
}

func TestPaths(t *testing.T) {
	doc, err := jsondoc.Read([]byte(`{"a": {"b c": [1, {"@x": "y"}], "d.e": true}, "$": "dollar", "n": null, "a-b:c": 5}`))
	if err != nil {
		t.Fatal(err)
	}
	for in, want := range map[string]string{
		`a."b c"[0]`: "1", `a."b c"[-1].@x`: "y", `a."d.e"`: "true", `a-b:c`: "5", `$.a."d.e"`: "true",
	} {
		p, err := parsePath(in)
		if err != nil {
			t.Errorf("%q: %v", in, err)
			continue
		}
		if got, ok := p.find(doc); !ok || jsondoc.Text(got) != want {
			t.Errorf("%q: got %v, want %s", in, got, want)
		}
	}
	for _, in := range []string{`n`, `a.x`, `a[0]`, `a."b c"[2]`, `a."b c"[-3]`, `a.b.c.d`} {
		p, err := parsePath(in)
		if err != nil {
			t.Errorf("%q: %v", in, err)
			continue
		}
		if got, ok := p.find(doc); ok {
			t.Errorf("%q: got %v, want nothing", in, got)
		}
	}
	for _, in := range []string{"", ".", "a.", ".a", "a..b", "a[", "a[]", "a[x]", "a[+1]", "a[1]b", `"`, `a.""`, `a b`, "a[0", strings.Repeat("a.", 70) + "a"} {
		if _, err := parsePath(in); err == nil {
			t.Errorf("%q: no error", in)
		}
	}
	if p, err := parsePath("$"); err != nil || fmt.Sprint(p.steps) != "[]" {
		t.Errorf("got %v %v", p, err)
	}
}

// TestWhatIsAskedForIsSent: what a definition declares and sends nowhere would be ignored, and a token for something else handed out.
func TestWhatIsAskedForIsSent(t *testing.T) {
	const seeded = "name: x\ninputs: {client_id: {}, client_secret: {secret: true}, first: {secret: true, seed: true}}\n"
	for _, c := range []struct{ text, want string }{
		{right + "scopes: {}", "scopes: obtain does not send {{scope}}"},
		{right + "audience: {}", "audience: obtain does not send {{audience}}"},
		{right + "resources: {}", "resources: obtain does not send {{resources}}"},
		{right + "parameters: {region: {}}", "parameters.region: obtain does not send {{region}}"},
		{right + "scopes: {}\nlet: {wanted: {upper: \"{{scope}}\"}}", "scopes: obtain does not send"},
		{"name: x\nscopes: {}\ntoken: a", "scopes: token does not send"},
		{seeded + "scopes: {}\nrefresh: {oauth2: \"https://e.com/\"}", `scopes: refresh does not send {{scope}}, and what a caller asks for would be ignored: send it, as in params: {scope: "{{scope}}"}`},
		{seeded + "audience: {}\nobtain: {oauth2: \"https://e.com/\"}\nrefresh: {oauth2: \"https://e.com/\"}", "audience: refresh does not send"},
		{seeded + "scopes: {}\nrefresh: {oauth2: \"https://e.com/\", params: {scope: \"{{scope}}\"}}", ""},
		{right + "parameters: {region: {one_of: [eu, us]}}\nbase_url: \"https://{{region}}.e.com\"", ""},
		{right + "scopes: {}\nlet: {wanted: {upper: \"{{scope}}\"}}\nheaders: {X-Scope: \"{{wanted}}\"}", ""},
		{"name: x\ninputs: {client_id: {}, client_secret: {secret: true}}\nscopes: {}\nobtain: {oauth2: \"https://e.com/\"}\nrefresh: {oauth2: \"https://e.com/\"}", ""},
	} {
		got := strings.Join(check(t, c.text), "\n")
		if (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s\ngot  %s\nwant %s", c.text, got, c.want)
		}
	}
}

func TestARefreshThatNeverRunsIsAWarning(t *testing.T) {
	const obtain = "name: x\nobtain: {post: \"https://e.com/t\", take: {token: t%s}}\n"
	const refresh = "refresh: {post: \"https://e.com/t\", form: {r: \"{{refresh_token}}\"}, take: {token: t}}\n"
	never := Check("x.yaml", fmt.Appendf(nil, obtain+refresh, ""))
	if len(never) != 1 || !never[0].Warning || !strings.Contains(never[0].Message, "refresh: nothing brings a refresh token") {
		t.Errorf("got %v", never)
	}
	for _, text := range []string{fmt.Sprintf(obtain+refresh, ", refresh_token: r"), "name: x\ninputs: {first: {secret: true, seed: true}}\n" + refresh} {
		if got := Check("x.yaml", []byte(text)); len(got) > 0 {
			t.Errorf("%s\ngot %v", text, got)
		}
	}
}

func TestWhatNothingUsesIsAWarning(t *testing.T) {
	got := Check("x.yaml", []byte(`name: x
inputs: {used: {}, idle: {}, home: {}, first: {secret: true, seed: true}}
parameters: {region: {default: "{{home}}"}}
let: {a: {hex: "{{b}}"}, b: {upper: "{{used}}"}, c: {lower: "{{a}}"}}
refresh:
  post: https://e.com/t
  form: {a: "{{a}}", r: "{{refresh_token}}", g: "{{region}}"}
  take: {token: t, tenant: x, id: y, jwt: j, who: {claim: sub, of: jwt}}
attributes: [tenant, who]
`))
	want := []string{
		"x.yaml:2:20: warning: inputs.idle: nothing uses it: write {{idle}} where it is wanted, or leave it out",
		"x.yaml:4:53: warning: let.c: nothing uses it: write {{c}} where it is wanted, or leave it out",
		"x.yaml:8:31: warning: take.id: nothing uses it: name it in attributes where callers are to have it, or leave it out",
	}
	if len(got) != len(want) {
		t.Fatalf("got %v", got)
	}
	for i, p := range got {
		if p.String() != want[i] || !p.Warning {
			t.Errorf("got  %s\nwant %s", p, want[i])
		}
	}
}
