package product

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
)

// told is all that a caller is told of a token, or of why there is none.
func (p *places) toldCaller() string {
	_, _ = p.Invalidate(p.t.Context(), here, engine.Invalidation{Credential: "c", All: true})
	s, err := p.Token(p.t.Context(), here, engine.Request{Credential: "c"})
	if err != nil {
		f := &broker.Failure{}
		errors.As(err, &f)
		return fmt.Sprint(f.Kind.Name(), " ", f.Detail, " ", f.Violations)
	}
	return fmt.Sprint(s.Token.TokenType, " ", s.Token.Scopes, " ", s.Token.Attributes)
}

const (
	secretly = `
name: x
inputs: {client_id: {}, client_secret: {secret: true}}
obtain: {oauth2: "https://here.example.com/token"}
`
	scoped     = secretly + "scopes: {default: [read]}\n"
	refreshing = secretly + `refresh: {oauth2: "https://here.example.com/token"}
`
	login = `
name: x
inputs: {user: {default: me}, client_secret: {secret: true}}
obtain:
- {post: "https://here.example.com/login", form: {password: "{{client_secret}}"}, take: {session: held}}
- {post: "https://here.example.com/token", form: {session: "{{session}}"}, take: {token: access_token, scope: {path: scope, optional: true}}}
`
)

const (
	asForm = `headers: {Content-Type: application/x-www-form-urlencoded}`
	form   = secretly + asForm + "\n"
	typed  = `
name: x
inputs: {user: {default: me}, client_secret: {secret: true}}
obtain: {post: "https://here.example.com/token", ` + asForm + `, form: {user: "{{user}}", password: "{{client_secret}}"}, take: {token: access_token, scope: {path: scope, optional: true}}}
`
	shown = `
name: x
inputs: {client_id: {}, client_secret: {secret: true}}
obtain:
- {oauth2: "https://here.example.com/token"}
- {post: "https://here.example.com/token", with_token: true, json: {"&scope=": x, client_secret: "{{client_secret}}", "&z=": z}, take: {token: access_token, scope: {path: scope, optional: true}}}
present: {headers: {Authorization: "Bearer {{token}}"}}
`
	document = `
name: x
inputs: {user: {default: me}, client_secret: {secret: true}}
obtain: {post: "https://here.example.com/token", form: {request: "<user>{{user}}</user><pass>{{client_secret}}</pass>"}, take: {token: access_token, scope: {path: scope, optional: true}}}
`
	listed = `
name: x
inputs: {user: {default: me}, client_secret: {secret: true}}
obtain: {post: "https://here.example.com/token", form: {scope: ["{{user}}", "{{client_secret}}"]}, take: {token: access_token, scope: {path: scope, optional: true}}}
`
	asked = `
name: x
inputs: {client_secret: {secret: true}}
scopes: {default: [read]}
let: {proof: {first: ["{{scope}}", "{{client_secret}}"]}}
obtain: {post: "https://here.example.com/token", form: {scope: "{{proof}}", client_secret: "{{client_secret}}"}, take: {token: access_token, scope: {path: scope, optional: true}}}
`
	another = `
name: x
inputs: {client_secret: {secret: true}}
obtain:
- {post: "https://here.example.com/login", form: {client_secret: "{{client_secret}}"}, take: {acct: token_type}}
- {post: "https://here.example.com/token", form: {scope: "{{acct}}"}, take: {token: access_token, scope: {path: scope, optional: true}}}
`
	instead = `
name: x
inputs: {pick: {default: x}, client_secret: {secret: true}}
let: {proof: {first: ["{{pick}}", "{{client_secret}}"]}}
obtain: {post: "https://here.example.com/token", form: {scope: "{{proof}}", client_secret: "{{client_secret}}"}, take: {token: access_token, scope: {path: scope, optional: true}}}
`
)

// TestAnUpstreamRepeatsWhatItIsAsked: a file that has a secret in another part of a request, or something made of it, is asked about, for callers may be
// told that part: here as the scopes that were granted.
func TestAnUpstreamRepeatsWhatItIsAsked(t *testing.T) {
	const oauth2 = `oauth2: "https://here.example.com/token"`
	for name, c := range map[string]struct{ before, old, new, more string }{
		"the client secret as the scope": {secretly, oauth2, oauth2 + `, params: {scope: "{{client_secret}}"}`, ""},
		"beside the scopes":              {scoped, oauth2, oauth2 + `, params: {scope: "{{scope}} {{client_secret}}"}`, ""},
		"in the query":                   {secretly, oauth2, oauth2 + `, query: {scope: "{{client_secret}}"}`, ""},
		"as the client's id":             {secretly, oauth2, oauth2 + `, auth: {client_secret_basic: {id: "{{client_secret}}", secret: "{{client_secret}}"}}`, ""},
		"the refresh token in hex":       {refreshing, "refresh: {" + oauth2, "refresh: {" + oauth2 + `, params: {scope: "{{r}}"}`, `let: {r: {hex: "{{refresh_token}}"}}`},
		"a session":                      {login, `form: {session: "{{session}}"}`, `form: {session: "{{session}}", scope: "{{session}}"}`, ""},
		"a session in hex":               {login, `form: {session: "{{session}}"}`, `form: {session: "{{s}}"}`, `let: {s: {hex: "{{session}}"}}`},
		"as an end":                      {refreshing, "obtain: {" + oauth2 + "}", "obtain:\n- {" + oauth2 + ", take: {expires_at: refresh_token}}\n- {" + oauth2 + `, params: {scope: "{{expires_at}}"}, take: {expires_at: null}}`, ""},
		"a session in the URL":           {login, `token", form: {session: "{{session}}"}`, `token?scope={{session}}", form: {session: "{{session}}"}`, ""},
		"the second of a list":           {listed, `["{{user}}", "{{client_secret}}"]`, `["{{client_secret}}", "{{user}}"]`, ""},
		"behind one that may be absent":  {listed, `user: {default: me}`, `user: {optional: true}`, ""},
		"instead of what is asked for":   {asked, `scopes: {default: [read]}`, `scopes: {}`, ""},
		"a refresh token as another":     {another, `acct: token_type`, `acct: refresh_token`, ""},
		"what is there instead":          {instead, `pick: {default: x}`, `pick: {optional: true}`, ""},
		"what looks like a computation":  {instead, `{first: ["{{pick}}", "{{client_secret}}"]}`, `"{first: [{{pick}}, {{client_secret}}]}"`, ""},
		"JSON that is read as a form":    {secretly, oauth2, oauth2 + `, send: json, params: {"&grant_type=client_credentials&scope=": x, client_secret: "{{client_secret}}", "&z=": z}, ` + asForm, ""},
		"by a header of all requests":    {form, oauth2, oauth2 + `, send: json, params: {"&grant_type=client_credentials&scope=": x, client_secret: "{{client_secret}}", "&z=": z}`, ""},
		"another kind of body":           {typed, `form: {user: "{{user}}", password`, `json: {user: "{{user}}", "&scope=": x, "&z=": z, password`, ""},
		"many parts of a body":           {typed, `form: {user: "{{user}}", password`, `multipart: {user: "{{user}}", "&scope=": x, "&z=": z, password`, ""},
		"what shows the token":           {shown, `Bearer {{token}}"`, `Bearer {{token}}", Content-Type: application/x-www-form-urlencoded`, ""},
		"a default beside a secret":      {document, `default: me`, `default: "</user><scope>"`, ""},
		"a suffix beside a secret":       {document, `default: me`, `default: me, suffix: "</user><scope>"`, ""},
		"with what is cut off":           {secretly, "client_secret: {secret: true}", "client_secret: {secret: true, prefix: given}", ""},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlaces(t)
			p.redefine("x", c.before)
			inputs := map[string]string{"client_id": "id"}
			if !strings.Contains(c.before, "client_id") {
				inputs = nil
			}
			p.giveOne("x", inputs)
			after := strings.ReplaceAll(c.before, c.old, c.new) + c.more + "\n"
			if after == c.before {
				t.Fatal("nothing is edited")
			}
			p.redefine("x", after)
			for range 2 {
				told := p.toldCaller()
				if !strings.HasPrefix(told, broker.CredentialHeld.Name()) {
					t.Errorf("nobody was asked, and callers are told %q", told)
				}
				p.mu.Lock()
				for _, secret := range p.plant {
					if strings.Contains(told, secret) || strings.Contains(told, hex.EncodeToString([]byte(secret))) {
						t.Errorf("callers are told a secret: %q", told)
					}
				}
				p.mu.Unlock()
			}
			p.accept("c")
			if told := p.toldCaller(); !strings.HasPrefix(told, "Bearer") && !strings.HasPrefix(told, " ") {
				t.Errorf("accepted: got %q", told)
			}
		})
	}
}

// TestWhichOfAnswersIsTakenIsAskedAbout: an edit of something else in the file has another address come out of an answer, or another value for callers.
func TestWhichOfAnswersIsTakenIsAskedAbout(t *testing.T) {
	const (
		head  = "name: x\ninputs: {client_id: {}, client_secret: {secret: true}}\nobtain:\n- {oauth2: \"https://here.example.com/token\"}\n"
		last  = "- {post: \"{{next}}\", form: {client_secret: \"{{client_secret}}\"}, take: {unused: endpoint}}\n"
		order = head + "- {get: \"https://here.example.com/token\", take: {pick: other}}\n- {get: \"https://here.example.com/token\", take: {pick: pick, next: {each: hosts, where: {id: \"{{pick}}\"}, path: url}}}\n"
		told  = head + "- {get: \"https://here.example.com/token\", with_token: true, take: {next: told}}\n" + last
	)
	swap := []string{`pick: pick, next: {each: hosts, where: {id: "{{pick}}"}, path: url}`, `next: {each: hosts, where: {id: "{{pick}}"}, path: url}, pick: pick`}
	for name, c := range map[string]struct {
		before string
		edit   []string
	}{
		"the order of takes":                           {order + last, swap},
		"the order of takes, for callers":              {order + "attributes: [next]\n", swap},
		"what shows the token":                         {told, []string{"\nobtain:", "\npresent: {headers: {Authorization: \"Bearer {{token}}\", X-Tenant: there}}\nobtain:"}},
		"a header of all requests":                     {told, []string{"\nobtain:", "\nheaders: {X-Tenant: there}\nobtain:"}},
		"a default that is in one, beside many others": {strings.Replace(told, "with_token: true", "headers: {X-Tenant: \"{{tenant}}\"}", 1) + "parameters: {tenant: {default: here}}\n", []string{"default: here", "default: there"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlaces(t)
			p.redefine("x", c.before)
			p.giveOne("x", map[string]string{"client_id": "id"})
			after := strings.Replace(c.before, c.edit[0], c.edit[1], 1)
			if after == c.before {
				t.Fatal("nothing is edited")
			}
			p.redefine("x", after)
			p.wantNothingThere(broker.CredentialHeld)
			p.accept("c")
			if told := p.toldCaller(); p.wire[thereHost].Len() == 0 && !strings.Contains(told, thereHost) {
				t.Errorf("after it was accepted nothing of there is seen: %s", told)
			}
		})
	}
}

// TestAFileAsksNothingOfASecretThatIsKept: what a definition wants of a secret is held against it when it is given. What a later file wants of it would
// tell of it, a question an edit.
func TestAFileAsksNothingOfASecretThatIsKept(t *testing.T) {
	p := newPlaces(t)
	p.redefine("x", secretly)
	p.giveOne("x", map[string]string{"client_id": "id"})
	for name, wanted := range map[string]string{
		"a pattern":         `client_secret: {secret: true, pattern: "a.*"}`,
		"choices":           `client_secret: {secret: true, one_of: [a, b]}`,
		"a format":          `client_secret: {secret: true, format: uuid}`,
		"by another name":   `a: {secret: true, was: client_secret, pattern: "a.*"}`,
		"in what is wanted": `client_secret: {secret: true, pattern: "given.*"}, host: {optional: true}`,
	} {
		p.redefine("x", strings.Replace(strings.Replace(secretly, "client_secret: {secret: true}", wanted, 1), `/token"`, `/token", auth: none, params: {client_id: "{{client_id}}"}`, 1))
		if told := p.toldCaller(); strings.Contains(told, "must") || strings.Contains(told, "secrets.") {
			t.Errorf("%s: callers are told %q", name, told)
		}
	}
}

// TestWhatIsWantedOfASecretCountsWhenItIsGiven, also the same one again, and to another provider; a label needs none.
func TestWhatIsWantedOfASecretCountsWhenItIsGiven(t *testing.T) {
	const wanted = `{secret: true, pattern: "[0-9]+"}`
	p := newPlaces(t)
	p.redefine("x", secretly)
	p.redefine("y", strings.NewReplacer("name: x", "name: y", "{secret: true}", wanted).Replace(secretly))
	p.create(map[string]string{"client_id": "id"}, map[string]string{"client_secret": "letters"})
	p.redefine("x", strings.Replace(secretly, "{secret: true}", wanted, 1))
	for name, change := range map[string]func(*engine.Draft){
		"another":  func(d *engine.Draft) { d.Secrets = revealed(map[string]string{"client_secret": "others"}) },
		"the same": func(d *engine.Draft) { d.Secrets = revealed(map[string]string{"client_secret": "letters"}) },
		"to another place": func(d *engine.Draft) {
			d.Provider, d.Secrets = "y", revealed(map[string]string{"client_secret": "letters"})
		},
	} {
		_, err := p.UpdateCredential(t.Context(), here, engine.Change{Name: "c", Edit: func(d *engine.Draft) error {
			change(d)
			return nil
		}})
		if f := (*broker.Failure)(nil); !errors.As(err, &f) || f.Kind != broker.RequestInvalid || !strings.Contains(fmt.Sprint(f.Violations), "must match") {
			t.Errorf("%s: got %v, want that it does not match", name, err)
		}
	}
	label := func(when string) {
		t.Helper()
		_, err := p.UpdateCredential(t.Context(), here, engine.Change{Name: "c", Edit: func(d *engine.Draft) error {
			d.Labels = map[string]string{"when": when}
			return nil
		}})
		if err != nil {
			t.Errorf("a label %s: %v", when, err)
		}
	}
	label("while the file wants another")
	p.redefine("x", strings.NewReplacer("client_secret: {secret: true}", "pass: {was: client_secret, "+wanted[1:], `/token"`, `/token", auth: {client_secret_post: {id: "{{client_id}}", secret: "{{pass}}"}}`).Replace(secretly))
	p.accept("c")
	label("once it has another name")
	if err := p.edit(nil, map[string]string{"pass": "12"}); err != nil {
		t.Errorf("given as it is wanted: %v", err)
	}
}

// TestAFileComputesNothingOfASecretUnasked: whether a computation fails would tell of it.
func TestAFileComputesNothingOfASecretUnasked(t *testing.T) {
	p := newPlaces(t)
	p.redefine("x", secretly)
	p.giveOne("x", map[string]string{"client_id": "id"})
	for _, by := range []string{"given", "xyzzy"} {
		p.redefine("x", strings.Replace(strings.Replace(secretly, "obtain:", `let: {l: {split: {of: "<{{client_secret}}", by: "<`+by+`", at: 1}}}`+"\nobtain:", 1),
			`/token"`, `/token", params: {p: "{{l}}"}`, 1))
		if told := p.toldCaller(); !strings.HasPrefix(told, broker.CredentialHeld.Name()) || strings.Contains(told, "split") {
			t.Errorf("%s: callers are told %q", by, told)
		}
	}
}

// TestStatusTellsNothingOfAnAnswersValues: a file may take a value where it looks so, and status says what was taken.
func TestStatusTellsNothingOfAnAnswersValues(t *testing.T) {
	p := newPlaces(t)
	p.redefine("x", refreshing)
	p.giveOne("x", map[string]string{"client_id": "id"})
	for _, looks := range []string{`pattern: "refresh-(.)"`, `pattern: "xyzzy(.)"`} {
		p.redefine("x", strings.ReplaceAll(refreshing, `/token"`, `/token", take: {guess: {path: refresh_token, optional: true, `+looks+`}}`))
		p.toldCaller()
		status, err := p.CredentialStatus(t.Context(), here, "c")
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range status.Attempts {
			if !slices.Contains(a.Taken, "token") || slices.Contains(a.Taken, "guess") {
				t.Errorf("%s: status says that %v were taken", looks, a.Taken)
			}
		}
	}
}
