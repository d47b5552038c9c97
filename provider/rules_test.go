package provider

import (
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/yamldoc"
)

func TestRulesThatTheSchemaCannotSay(t *testing.T) {
	obtain := func(s string) string { return "name: x\n" + s }
	for name, c := range map[string]struct{ text, want string }{
		"a let of a taken value before it is taken": {
			obtain(`let: {e: {base64: "{{sid}}"}}
obtain:
- {post: "https://e.com/{{e}}", take: {sid: s}}
- {post: "https://e.com/", form: {e: "{{e}}"}, take: {token: t}}`), `obtain[0].post: {{e}} is computed of {{sid}}, and nothing gives that here`},
		"a let of a let":                    {obtain("let: {a: {hex: \"{{b}}\"}, b: {hex: \"{{token}}\"}}\nobtain: {post: \"https://e.com/\", form: {a: \"{{a}}\"}, take: {token: t}}"), "{{a}} is computed of {{token}}"},
		"a name in a list's choice":         {obtain(`obtain: {post: "https://e.com/", take: {token: {path: t, each: l, where: {n: "{{nobody}}"}}}}`), "nothing gives {{nobody}} here"},
		"an input that is no URL":           {obtain(`inputs: {s: {}}` + "\n" + `obtain: {post: "{{s}}/x", take: {token: t}}`), "must be a whole one: format: url"},
		"a base_url that is none":           {obtain("inputs: {s: {}}\nbase_url: \"{{s}}/x\"\ntoken: t"), "must be a whole one"},
		"two seeds":                         {obtain("inputs: {a: {secret: true, seed: true}, b: {secret: true, seed: true}}\nrefresh: {oauth2: \"https://e.com/\", auth: none}"), "a and b are both seeds"},
		"one_of nothing":                    {obtain("inputs: {a: {one_of: []}}\ntoken: \"{{a}}\""), "allows nothing"},
		"a layout with digits":              {obtain(`obtain: {post: "https://e.com/", take: {token: t, expires_at: {path: e, layout: "T1 %Y"}}}`), "would be read as a time"},
		"a layout with a month":             {obtain(`obtain: {post: "https://e.com/", take: {token: t, expires_at: {path: e, layout: "Jan %Y"}}}`), "would be read as a time"},
		"a fraction without a dot":          {obtain(`obtain: {post: "https://e.com/", take: {token: t, expires_at: {path: e, layout: "%S%f"}}}`), "comes after a dot"},
		"an unknown conversion":             {obtain(`obtain: {post: "https://e.com/", take: {token: t, expires_at: {path: e, layout: "%Q"}}}`), "unknown conversion"},
		"an alias for a flag":               {obtain("title: &true x\ninputs: {a: {secret: *true}}\ntoken: \"{{a}}\""), "aliases are not allowed"},
		"an alias bomb":                     {obtain("a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\ntoken: t"), "aliases are not allowed"},
		"presented, and only a refresh has": {obtain("obtain: {oauth2: \"https://e.com/\", auth: none}\nrefresh: {oauth2: \"https://e.com/\", auth: none, take: {o: o}}\npresent: {headers: {X: \"{{token}}{{o}}\"}}"), "nothing gives {{o}} here"},
		"an issuer's path by callers":       {obtain("parameters: {p: {default: a}}\nobtain: {oauth2: {issuer: \"https://e.com/{{p}}\"}, auth: none}"), `obtain.oauth2.issuer: callers choose "p", and could send the credential's secrets to themselves: make the issuer of inputs, or say one_of`},
		"an issuer's query by callers":      {obtain("parameters: {p: {}}\nobtain: {oauth2: {issuer: \"https://e.com/?p={{p}}\"}, auth: none}"), `callers choose "p"`},
		"an issuer by a let of callers'":    {obtain("parameters: {p: {}}\nlet: {l: {lower: \"{{p}}\"}}\nobtain: {oauth2: {issuer: \"https://e.com/{{l}}\"}, auth: none}"), `callers choose "p"`},
		"an issuer by the audience":         {obtain("audience: {}\nobtain: {oauth2: {issuer: \"https://e.com/{{audience}}\"}, auth: none}"), `callers choose "audience"`},
		"an issuer of a refresh by scope":   {obtain("inputs: {r: {secret: true, seed: true}}\nscopes: {}\nrefresh: {oauth2: {issuer: \"https://e.com/{{scope}}\"}, auth: none}"), `refresh.oauth2.issuer: callers choose "scope"`},
		"a parameter as the host":           {obtain("parameters: {p: {format: url}}\nobtain: {post: \"{{p}}\", take: {token: t}}"), "send the credential's secrets to themselves"},
	} {
		if got := strings.Join(check(t, c.text), "\n"); !strings.Contains(got, c.want) {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
	if got := check(t, obtain("parameters: {p: {one_of: [a, b]}}\nobtain: {oauth2: {issuer: \"https://e.com/{{p}}\"}, auth: none}")); len(got) != 0 {
		t.Errorf("got %v of an issuer that callers choose among a few", got)
	}
	right := obtain(`let: {pick: {first: ["{{sid}}", none]}, later: {hex: "{{sid}}"}}
obtain:
- {post: "https://e.com/", form: {p: "{{pick}}"}, take: {sid: s}}
- {post: "https://e.com/", form: {l: "{{later}}"}, take: {token: t, expires_at: {path: e, layout: "%Y-%m-%dT%H:%M:%S.%fZ"}}}`)
	if got := check(t, right); len(got) != 0 {
		t.Errorf("got %v of what is right", got)
	}
}

func TestATitleIsForPeopleAndAFieldOfThatNameIsNot(t *testing.T) {
	digestOf := func(text string) string {
		d, problems := parse("", []byte(text))
		if len(yamldoc.Errors(problems)) > 0 {
			t.Fatal(problems)
		}
		return d.digest
	}
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{"inputs: {a: {title: x, hint: y}}\ntoken: \"{{a}}\"", "inputs: {a: {}}\ntoken: \"{{a}}\"", true},
		{"audience: {optional: true, title: x}\ntoken: \"{{audience}}\"", "audience: {optional: true}\ntoken: \"{{audience}}\"", true},
		{`obtain: {post: "https://e.com/", json: {title: x}, take: {token: t}}`, `obtain: {post: "https://e.com/", json: {title: y}, take: {token: t}}`, false},
		{`obtain: {post: "https://e.com/", form: {hint: x}, take: {token: t}}`, `obtain: {post: "https://e.com/", form: {}, take: {token: t}}`, false},
		{`inputs: {title: {}}` + "\ntoken: \"{{title}}\"", `inputs: {title: {pattern: a}}` + "\ntoken: \"{{title}}\"", false},
	} {
		if got := digestOf("name: x\n"+c.a) == digestOf("name: x\n"+c.b); got != c.same {
			t.Errorf("%q and %q: got the same %v, want %v", c.a, c.b, got, c.same)
		}
	}
}

func TestTheHostIsKnownFromWhatIsKnown(t *testing.T) {
	v := newVendor(t, nil)
	c := credential(map[string]string{"server": "https://Server.example/base", "sub": "acme"})
	for text, want := range map[string]string{
		"parameters: {p: {}}\nobtain: {post: \"https://example.com/{{p}}/t\", take: {token: t}}":                                                 "example.com:443",
		"inputs: {sub: {}}\nparameters: {p: {}}\nobtain: {post: \"https://{{sub}}.example.com:8443/{{p}}\", take: {token: t}}":                   "acme.example.com:8443",
		"inputs: {server: {format: url}}\nobtain: {post: \"{{server}}/x\", take: {token: t}}":                                                    "server.example:443",
		"inputs: {refresh_token: {secret: true, seed: true}}\nrefresh: {oauth2: \"https://example.com?a=b\", auth: none}":                        "example.com:443",
		"inputs: {missing: {format: url}}\nobtain: [{get: \"{{missing}}\", take: {a: a}}, {post: \"https://second.example\", take: {token: t}}]": "second.example:443",
		"inputs: {missing: {format: url}}\nobtain: {oauth2: {issuer: \"{{missing}}\"}, auth: none}":                                              "unknown",
		"parameters: {region: {one_of: [eu, us]}}\nobtain: {post: \"https://{{region}}.example.com/t\", take: {token: t}}":                       "eu.example.com:443",
		"inputs: {sub: {}}\ntoken: \"{{sub}}\"": "",
	} {
		if got := v.define(text).Host(c, broker.Selection{Parameters: broker.NewPairs(map[string]string{"region": "eu"})}); got != want {
			t.Errorf("%s: got %q, want %q", text, got, want)
		}
	}
}

func TestAURLLeadsWhereItIsWritten(t *testing.T) {
	v := newVendor(t, jsonSays(`{"t": "x"}`))
	d := v.define(`
inputs: {server: {format: url}, a: {}, b: {default: x}}
obtain: {post: "{{server}}/p/{{a}}{{b}}/q", take: {token: t}}`)
	run := func(server, a, b string) error {
		_, err := v.obtain(d, credential(map[string]string{"server": server, "a": a, "b": b}), broker.Selection{})
		return err
	}
	for _, bad := range [][3]string{{"https://example.com", ".", "."}, {"https://example.com?x=1", "a", "b"}, {"https://example.com/?", "a", "b"}, {"https://example.com#f", "a", "b"}} {
		if err := run(bad[0], bad[1], bad[2]); err == nil {
			t.Errorf("%v: it was asked", bad)
		}
	}
	if err := run("https://example.com", "..", "/"); err == nil {
		t.Error("it was asked, and a server that decodes first is led elsewhere")
	}
	if err := run("https://example.com", "...", "/"); err != nil || v.requests()[0].uri != "/p/...%2F/q" {
		t.Errorf("got %v %v", err, v.requests())
	}
}

func TestNullInARefreshsTakeInheritsNothing(t *testing.T) {
	v := newVendor(t, jsonSays(`{"t": "new", "r": "another", "e": 60}`))
	d := v.define(`
obtain: {post: "https://example.com/t", take: {token: t, refresh_token: r, expires_in: e}}
refresh: {post: "https://example.com/r", form: {r: "{{refresh_token}}"}, take: {token: t, refresh_token: null}}`)
	a, err := v.refresh(d, credential(nil), "old", nil)
	if err != nil || !a.RefreshToken.IsZero() || a.Expiry.In == nil {
		t.Errorf("got %+v %v", a, err)
	}
}

func TestClientSecretPostGoesWhereTheOtherFieldsGo(t *testing.T) {
	v := newVendor(t, jsonSays(`{"t": "x"}`))
	for body, want := range map[string]func(asked) bool{
		"form: {a: b}": func(a asked) bool { return a.body == "a=b&client_id=id&client_secret=s3cret-value" },
		"json: {a: b}": func(a asked) bool { return a.body == `{"a":"b","client_id":"id","client_secret":"s3cret-value"}` },
		"multipart: {a: b}": func(a asked) bool {
			return strings.Contains(a.body, `name="client_secret"`) && !strings.Contains(a.uri, "?")
		},
	} {
		d := v.define("inputs: {client_id: {}, client_secret: {secret: true}}\nobtain: {post: \"https://example.com/t\", auth: client_secret_post, " + body + ", take: {token: t}}")
		if _, err := v.obtain(d, credential(client), broker.Selection{}); err != nil {
			t.Fatal(err)
		}
		all := v.requests()
		if got := all[len(all)-1]; !want(got) {
			t.Errorf("%s: got %s %s", body, got.uri, got.body)
		}
	}
}

// TestAnErrorSaysWhatToWrite, and names places that somebody wrote.
func TestAnErrorSaysWhatToWrite(t *testing.T) {
	for text, want := range map[string]string{
		`obtain: {post: "https://e.com/", auth: basic, take: {token: t}}`:                                    `write {basic: ["{{username}}", "{{password}}"]}`,
		"obtain: {oauth2: \"https://e.com/\"}":                                                               "obtain: it sends {{client_id}} by itself, and nothing gives that: declare inputs: {client_id: {}}",
		"obtain: {oauth2: \"https://e.com/\", send: json}":                                                   "obtain: it sends {{client_secret}} by itself, and nothing gives that: declare inputs: {client_secret: {secret: true}}, or say otherwise with auth",
		"obtain: {oauth2: \"https://e.com/\", auth: client_secret_basic}":                                    "obtain: it sends {{client_id}} by itself",
		"obtain: {oauth2: \"https://e.com/\", auth: none, grant: password}":                                  "declare inputs: {password: {secret: true}}, or say otherwise with params",
		"obtain: {post: \"https://e.com/\", form: {a: \"{{b}}\"}, take: {token: t}}":                         "obtain.form.a: nothing gives {{b}} here",
		"obtain: {get: \"https://e.com/\", take: {token: t}}\npresent: {headers: {X: \"{{access_token}}\"}}": `nothing gives {{access_token}} here; did you mean "token"?`,
		"inputs: {k: {secret: true}}\ntoken: \"{{k}}\"":                                                      `token: callers would see the secret "k"; say handed_out: true on it if that is meant`,
		"inputs: {u: {}, p: {secret: true}}\nlet: {b: {base64: \"{{u}}:{{p}}\"}}\ntoken: \"{{b}}\"":          `token: callers would see the secret "p"`,
	} {
		if got := strings.Join(check(t, "name: x\n"+text), "\n"); !strings.Contains(got, want) {
			t.Errorf("%s\ngot  %s\nwant %s", text, got, want)
		}
	}
	if got := check(t, "name: x\nobtain: {get: \"https://e.com/\", ok: 201, take: {token: t}}"); len(got) != 0 {
		t.Errorf("got %v of a status that is no list", got)
	}
}

// TestALiteralSecretIsRefused: who may read a definition is not who may read secrets. What it is, its field's name says.
func TestALiteralSecretIsRefused(t *testing.T) {
	post := func(s string) string { return "obtain: {post: \"https://e.com/\", " + s + ", take: {token: t}}" }
	for text, want := range map[string]string{
		post(`form: {client_secret: abc}`):                       "obtain.form.client_secret: a secret does not stand in a definition, which callers may read: declare inputs: {client_secret: {secret: true}}, and write {{client_secret}}",
		post(`form: {Password: [a, b]}`):                         "declare inputs: {password: {secret: true}}",
		post(`json: {login: {apiKey: abc}}`):                     "obtain.json.login.apiKey: a secret",
		post(`json: {pin: 1234}`):                                "declare inputs: {pin: {secret: true}}",
		post(`headers: {Authorization: Basic abc}`):              "obtain.headers.Authorization: a secret does not stand in a definition, which callers may read: declare inputs: {api_key: {secret: true}}",
		post(`headers: {X-Api-Key: abc}`):                        "declare inputs: {api_key: {secret: true}}",
		post(`query: {access_token: abc}`):                       "obtain.query.access_token",
		post(`cookies: {auth-token: abc}`):                       "obtain.cookies.auth-token",
		post(`auth: {basic: [me, abc]}`):                         "obtain.auth: a secret",
		post(`text: ""`) + "\nheaders: {Authorization: Token a}": "headers.Authorization: a secret",
		post(`text: ""`) + "\npresent: {headers: {X-T: \"{{token}}\", Ocp-Apim-Subscription-Key: abc}}":            "present.headers.Ocp-Apim-Subscription-Key",
		"obtain: {post: \"https://e.com/?client_secret=abc&x=1\", take: {token: t}}":                               "obtain.post: a secret",
		"inputs: {client_id: {}}\nobtain: {oauth2: \"https://e.com/\", params: {client_secret: abc}}":              "obtain.params.client_secret",
		"let: {password: abc}\n" + post(`form: {p: "{{password}}"}`):                                               "let.password",
		"inputs: {password: {default: abc}}\n" + post(`form: {p: "{{password}}"}`):                                 "inputs.password.default",
		"inputs: {client_id: {}}\nobtain: {oauth2: \"https://e.com/\", auth: {client_secret_post: {secret: abc}}}": "client_secret: a secret",
		post(`text: '{"client": "me", "password" : "abc"}'`):                                                       "obtain.text: a secret does not stand in a definition",
		post(`text: '{"client": "me", "pin" : 1234}'`):                                                             "declare inputs: {pin: {secret: true}}",
		post(`text: '{"client": "me", "password": [ "abc" ]}'`):                                                    "declare inputs: {password: {secret: true}}",
		post(`text: '{"query": "mutation { login(user: \"me\", password: \"abc\") { token } }"}'`):                 "declare inputs: {password: {secret: true}}",
		post(`text: 'grant_type=password&username=me&password=abc'`):                                               "declare inputs: {password: {secret: true}}",
		post(`text: '<Login Password="abc"/>'`):                                                                    "declare inputs: {password: {secret: true}}",
		post(`text: '<s:Body><ser:password xsi:type="xsd:string">abc</ser:password></s:Body>'`):                    "declare inputs: {password: {secret: true}}",
	} {
		if got := strings.Join(check(t, "name: x\n"+text), "\n"); !strings.Contains(got, want) || strings.Contains(got, "abc") {
			t.Errorf("%s\ngot  %s\nwant %s", text, got, want)
		}
	}
	for _, text := range []string{
		post(`form: {grant_type: refresh_token, password: "", token_type: x, RememberPassword: false, key: value}`),
		"inputs: {k: {secret: true}}\n" + post(`auth: {basic: ["{{k}}", X]}`),
		post(`text: '{"query": "mutation Login($password: String!) { token }", "type": "password", "password": "", "pin": true}'`),
		"inputs: {k: {secret: true}}\n" + post(`headers: {Content-Type: application/x-www-form-urlencoded}, text: 'password={{k}}&a=b'`),
		"inputs: {k: {secret: true}}\n" + post(`headers: {Content-Type: application/x-www-form-urlencoded}, text: 'password=salt{{k}}'`),
		"inputs: {k: {secret: true}}\n" + post(`headers: {Content-Type: text/xml}, text: '<a><password></password><b>{{k}}</b></a>'`),
		"inputs: {k: {secret: true}}\n" + post(`headers: {Authorization: "Token {{k}}"}`),
		"inputs: {k: {}}\nobtain: {post: \"https://e.com/?token={{k}}&x=1\", take: {token: t}}",
	} {
		if got := check(t, "name: x\n"+text); len(got) > 0 {
			t.Errorf("%s\ngot %v", text, got)
		}
	}
}
