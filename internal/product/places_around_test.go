package product

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
	"github.com/tokenbroker/tokenbroker/internal/yamldoc"
	"github.com/tokenbroker/tokenbroker/provider"
)

// giveOne stores a credential for here, and has a token of it.
func (p *places) giveOne(definition string, inputs map[string]string) {
	p.t.Helper()
	_, err := p.CreateCredential(p.t.Context(), here, engine.Change{Name: "c", Edit: func(d *engine.Draft) error {
		*d = engine.Draft{Provider: definition, Inputs: inputs, Secrets: secretsFor("c", "given-first-")}
		return nil
	}})
	p.secret("given-first-c")
	if err == nil {
		err = p.ask("c")
	}
	if err != nil {
		p.t.Fatal(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.given = true
}

// wantNothingThere uses the credential, which fails with this kind, and looks for what has arrived there.
func (p *places) wantNothingThere(want broker.Kind) {
	p.t.Helper()
	if err := p.use("c"); broker.KindOf(err) != want {
		p.t.Errorf("got %v, want %s", err, want.Name())
	}
	if found := p.astray(); len(found) > 0 {
		p.t.Error(strings.Join(found, "\n"))
	}
}

const regional = `
name: regional
inputs: {client_id: {}, zone: {default: here.example.com}, client_secret: {secret: true}}
parameters: {region: {one_of: [here.example.com, us.example.com], default: here.example.com}}
obtain: {oauth2: "https://{{region}}/token", params: {zone: "{{zone}}"}}
`

// TestADefaultIsOneOfTheChoices: the default of a parameter that makes a host may be made of an input, and leads nowhere else for that.
func TestADefaultIsOneOfTheChoices(t *testing.T) {
	byInput := strings.Replace(regional, "default: here.example.com}}\nobtain", "default: \"{{zone}}\"}}\nobtain", 1)
	t.Run("the file is edited", func(t *testing.T) {
		p := newPlaces(t)
		p.redefine("regional", regional)
		p.giveOne("regional", map[string]string{"client_id": "id"})
		p.redefine("regional", strings.Replace(byInput, "zone: {default: here.example.com}", "zone: {default: there.example.com}", 1))
		p.wantNothingThere(broker.CredentialIncomplete)
	})
	t.Run("the input is edited", func(t *testing.T) {
		p := newPlaces(t)
		p.redefine("regional", byInput)
		p.giveOne("regional", map[string]string{"client_id": "id"})
		_, err := p.UpdateCredential(t.Context(), here, engine.Change{Name: "c", Edit: func(d *engine.Draft) error {
			d.Inputs["zone"] = thereHost
			return nil
		}})
		if broker.KindOf(err) != broker.SecretsRequired {
			t.Errorf("got %v", err)
		}
	})
}

// TestWhatLeadsElsewhereByAnotherWord: ways around what is looked at first.
func TestWhatLeadsElsewhereByAnotherWord(t *testing.T) {
	const plain = "name: x\ninputs: {client_id: {}, client_secret: {secret: true}}\nobtain: {oauth2: \"https://here.example.com/token\"}\nrefresh: {oauth2: \"https://here.example.com/token\"}\n"
	const shown = `
name: x
inputs: {client_id: {}, client_secret: {secret: true}, api_key: {secret: true, optional: true, handed_out: true}}
obtain: {oauth2: "https://here.example.com/token"}
present: {headers: {Authorization: "Bearer {{token}}", X-Key: "{{api_key}}"}}
`
	const login = "name: x\ninputs: {client_id: {}, client_secret: {secret: true}}\nobtain: {post: \"https://here.example.com/token\", form: {s: \"{{client_secret}}\"}, take: {token: data.at, refresh_token: data.rt}}\n"
	const two = `
name: x
inputs: {client_id: {}, client_secret: {secret: true}}
let: {which: me}
obtain:
- oauth2: "https://here.example.com/token"
  take: {held: held, jwt: held}
- get: "https://here.example.com/me"
  take: {who: id, kept: {claim: sub, of: jwt, optional: true}}
- get: "https://there.example.com/me"
  headers: {X-Who: "{{client_id}}"}
  take: {unused: endpoint}
attributes: [who, kept]
refresh: {oauth2: "https://here.example.com/token", take: {held: held, jwt: held}}
`
	for name, c := range map[string]struct {
		before string
		edits  []string
	}{
		"scopes, which callers always get": {plain, []string{"obtain: {oauth2: \"https://here.example.com/token\"", "obtain: {oauth2: \"https://here.example.com/token\", take: {scope: held}"}},
		"its type, which callers always get": {plain, []string{"obtain: {oauth2: \"https://here.example.com/token\"", "obtain: {oauth2: \"https://here.example.com/token\", take: {token_type: held}",
			"refresh: {oauth2: \"https://here.example.com/token\"}", "refresh: {oauth2: \"https://here.example.com/token\"}\npresent: {headers: {Authorization: \"Bearer {{token}}\"}}"}},
		"another member as the token":                    {login, []string{"token: data.at, refresh_token: data.rt", "token: data.rt"}},
		"all of the answer as the token":                 {strings.Replace(login, ", refresh_token: data.rt", "", 1), []string{"token: data.at", "token: {text: true}", "obtain:", "present: {query: {t: \"{{token}}\"}}\nobtain:"}},
		"a part of the answer, by a pattern":             {strings.Replace(login, ", refresh_token: data.rt", "", 1), []string{"token: data.at", "token: {path: data, pattern: 'rt\": ?\"([^\"]+)'}"}},
		"another document":                               {two, []string{"here.example.com/me", "here.example.com/vault"}},
		"another document, by a query":                   {two, []string{"here.example.com/me\"", "here.example.com/me\"\n  query: {id: vault}"}},
		"another document, by a let":                     {strings.Replace(two, "here.example.com/me", "here.example.com/{{which}}", 1), []string{"which: me", "which: vault"}},
		"a claim of something else":                      {two, []string{"jwt: held", "jwt: {path: data.rt}"}},
		"a secret to a place that was asked":             {two, []string{"{{client_id}}", "{{client_secret}}"}},
		"the token to a place that was asked":            {two, []string{"headers: {X-Who", "with_token: true\n  headers: {X-Who"}},
		"the refresh token to a place that was asked":    {two, []string{"{{client_id}}", "{{refresh_token}}"}},
		"a value of an answer to a place that was asked": {two, []string{"{{client_id}}", "{{held}}"}},
		"a secret's former name": {shown, []string{
			"client_secret: {secret: true}, api_key: {secret: true, optional: true, handed_out: true}", "api_key: {secret: true, handed_out: true, was: client_secret}",
			`obtain: {oauth2: "https://here.example.com/token"}`, `obtain: {oauth2: "https://here.example.com/token", auth: {client_secret_post: {id: "{{client_id}}", secret: "{{api_key}}"}}}`,
		}},
		"an issuer's other document": {plain, []string{
			"refresh: {oauth2: \"https://here.example.com/token\"}", "refresh: {oauth2: {issuer: \"https://here.example.com/evil\"}}",
		}},
		"another issuer": {strings.ReplaceAll(plain, `"https://here.example.com/token"`, `{issuer: "https://here.example.com"}`), []string{
			"obtain: {oauth2: {issuer: \"https://here.example.com\"", "obtain: {oauth2: {issuer: \"https://here.example.com/evil\"",
			"refresh: {oauth2: {issuer: \"https://here.example.com\"", "refresh: {oauth2: {issuer: \"https://here.example.com/evil\"",
		}},
		"more of a value that callers get": {
			strings.ReplaceAll(plain, `token"}`, `token", take: {own: {path: held, pattern: "held-([a-z])"}}}`) + "attributes: [own]\n",
			[]string{`pattern: "held-([a-z])"`, `pattern: "held-(.*)"`, `pattern: "held-([a-z])"`, `pattern: "held-(.*)"`},
		},
		"a value of the answer for callers": {plain, []string{
			"obtain: {oauth2: \"https://here.example.com/token\"}", "obtain: {oauth2: \"https://here.example.com/token\", take: {kept: held}}",
			"refresh: {oauth2: \"https://here.example.com/token\"}", "refresh: {oauth2: \"https://here.example.com/token\", take: {kept: held}}\nattributes: [kept]",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlaces(t)
			p.redefine("x", c.before)
			p.giveOne("x", map[string]string{"client_id": "id"})
			after := c.before
			for i := 0; i < len(c.edits); i += 2 {
				if !strings.Contains(after, c.edits[i]) {
					t.Fatalf("%q is not in the definition", c.edits[i])
				}
				after = strings.Replace(after, c.edits[i], c.edits[i+1], 1)
			}
			p.redefine("x", after)
			p.wantNothingThere(broker.CredentialHeld)
		})
	}
}

// TestAnIssuersWholeURLIsThePlace: its document says where the secrets go, and another path is another document.
func TestAnIssuersWholeURLIsThePlace(t *testing.T) {
	const realms = "name: x\ninputs: {realm: {}, client_id: {}, client_secret: {secret: true}}\nobtain: {oauth2: {issuer: \"https://here.example.com/{{realm}}\"}}\n"
	t.Run("an input is edited", func(t *testing.T) {
		p := newPlaces(t)
		p.redefine("x", realms)
		p.giveOne("x", map[string]string{"client_id": "id", "realm": "good"})
		_, err := p.UpdateCredential(t.Context(), here, engine.Change{Name: "c", Edit: func(d *engine.Draft) error {
			d.Inputs["realm"] = "evil"
			return nil
		}})
		if broker.KindOf(err) != broker.SecretsRequired {
			t.Errorf("got %v", err)
		}
	})
	t.Run("callers choose", func(t *testing.T) {
		free := strings.Replace(strings.Replace(realms, "realm: {}, ", "", 1), "obtain", "parameters: {realm: {default: good}}\nobtain", 1)
		if problems := yamldoc.Errors(provider.Check("x.yaml", []byte(free))); len(problems) != 1 {
			t.Errorf("got %v of an issuer that callers choose, want that it is refused", problems)
		}
	})
}

// TestAnOverrideThatIsGoneHandsNothingToTheBuiltIn: what was given for a file of a built-in's name was not given for the built-in.
func TestAnOverrideThatIsGoneHandsNothingToTheBuiltIn(t *testing.T) {
	const override = "name: " + standard + "\noverride: true\ninputs: {token_url: {format: url}, client_id: {}, client_secret: {secret: true}}\nscopes: {}\n" +
		"obtain: {oauth2: \"https://here.example.com/token\", query: {u: \"{{token_url}}\"}}\n"
	for name, lose := range map[string]func(*places, string){
		"removed": func(p *places, file string) {
			if err := os.Remove(file); err != nil {
				p.t.Fatal(err)
			}
			if err := p.catalog.Reload(); err != nil {
				p.t.Fatal(err)
			}
		},
		"wrong at the start": func(p *places, file string) {
			if err := os.WriteFile(file, []byte(override+"oops"), 0o600); err != nil {
				p.t.Fatal(err)
			}
			if err := p.Close(p.t.Context()); err != nil {
				p.t.Fatal(err)
			}
			p.start()
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlaces(t)
			p.redefine(standard, override)
			p.giveOne(standard, map[string]string{"token_url": toThere, "client_id": "id"})
			lose(p, filepath.Join(p.dir, "providers", standard+".yaml"))
			p.wantNothingThere(broker.CredentialHeld)
		})
	}
}

// TestASecretThatIsGivenAnewAcceptsNothing: files of credentials are applied by machines, with all secrets, whatever the definition has become.
func TestASecretThatIsGivenAnewAcceptsNothing(t *testing.T) {
	const def = "name: x\ninputs: {client_id: {}, client_secret: {secret: true}}\nobtain: {oauth2: \"https://here.example.com/token\"}\n"
	p := newPlaces(t)
	p.redefine("x", def)
	p.giveOne("x", map[string]string{"client_id": "id"})
	p.redefine("x", strings.Replace(def, hereHost, thereHost, 1))
	for _, secret := range []string{"given-first-", "given-later-"} {
		_, err := p.UpdateCredential(t.Context(), here, engine.Change{Name: "c", Edit: func(d *engine.Draft) error {
			d.Secrets = secretsFor("c", secret)
			return nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		p.wantNothingThere(broker.CredentialHeld)
	}
}

// TestAFormerPlaceCanBeForgotten: accepting adds, so that brokers that have the former file go on; until somebody says that it is over.
func TestAFormerPlaceCanBeForgotten(t *testing.T) {
	const def = "name: x\ninputs: {client_id: {}, client_secret: {secret: true}}\nobtain: {oauth2: \"https://here.example.com/token\"}\n"
	p := newPlaces(t)
	p.redefine("x", strings.Replace(def, hereHost, thereHost, 1))
	_, err := p.CreateCredential(t.Context(), here, engine.Change{Name: "c", Edit: func(d *engine.Draft) error {
		*d = engine.Draft{Provider: "x", Inputs: map[string]string{"client_id": "id"}, Secrets: secretsFor("c", "of-there-")}
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	p.redefine("x", def)
	p.accept("c")
	if _, err := p.AcceptCredential(t.Context(), here, engine.Acceptance{Name: "c", ForgetFormer: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.RotateSecret(t.Context(), here, engine.Rotation{Name: "c", Secrets: secretsFor("c", "given-first-")}); err != nil {
		t.Fatal(err)
	}
	p.secret("given-first-c")
	p.redefine("x", strings.Replace(def, hereHost, thereHost, 1))
	p.wantNothingThere(broker.CredentialHeld)
}

// TestAValueThatIsKeptGoesByNoOtherName: two names change places in the file, and what was kept as one of the other host's would go to this one.
// Somebody accepts the file, which goes to the same hosts; what was kept is not what it names now, so all is obtained anew.
func TestAValueThatIsKeptGoesByNoOtherName(t *testing.T) {
	const before = `
name: x
inputs: {client_id: {}, client_secret: {secret: true}}
obtain:
- oauth2: "https://here.example.com/token"
  take: {held: held}
- get: "https://there.example.com/me"
  headers: {X-Who: "{{client_id}}"}
  take: {other: endpoint}
refresh:
- oauth2: "https://here.example.com/token"
  params: {held: "{{held}}"}
  take: {held: held}
- get: "https://there.example.com/me"
  headers: {X-O: "{{other}}"}
  take: {other: endpoint}
`
	const after = `
name: x
inputs: {client_id: {}, client_secret: {secret: true}}
obtain:
- oauth2: "https://here.example.com/token"
  take: {other: held}
- get: "https://there.example.com/me"
  headers: {X-Who: "{{client_id}}"}
  take: {held: endpoint}
refresh:
- get: "https://there.example.com/me"
  headers: {X-O: "{{held}}"}
  take: {held: endpoint}
- oauth2: "https://here.example.com/token"
  params: {held: "{{other}}"}
  take: {other: held}
`
	p := newPlaces(t)
	p.redefine("x", before)
	p.giveOne("x", map[string]string{"client_id": "id"})
	p.redefine("x", after)
	p.accept("c")
	for _, file := range []string{after, before, after} {
		p.redefine("x", file)
		if err := p.use("c"); err != nil {
			t.Error(err)
		}
	}
	if found := p.astray(); len(found) > 0 {
		t.Errorf("%v went astray", found)
	}
}

// TestAValueThatIsKeptIsShownUnderNoOtherName: a file keeps something under the name that callers were shown something else by, and the former
// file comes back.
func TestAValueThatIsKeptIsShownUnderNoOtherName(t *testing.T) {
	const shows = `
name: x
inputs: {client_id: {}, client_secret: {secret: true}}
obtain:
- oauth2: "https://here.example.com/token"
- get: "https://here.example.com/me"
  headers: {Authorization: "Bearer {{token}}"}
  take: {who: id}
refresh: {oauth2: "https://here.example.com/token", take: {who: {path: id, optional: true}}}
attributes: [who]
`
	const keeps = `
name: x
inputs: {client_id: {}, client_secret: {secret: true}}
obtain: {oauth2: "https://here.example.com/token", take: {who: held}}
refresh: {oauth2: "https://here.example.com/token"}
`
	p := newPlaces(t)
	p.redefine("x", shows)
	p.giveOne("x", map[string]string{"client_id": "id"})
	who := func() string {
		t.Helper()
		if _, err := p.Invalidate(t.Context(), here, engine.Invalidation{Credential: "c", All: true}); err != nil {
			t.Fatal(err)
		}
		s, err := p.Token(t.Context(), here, engine.Request{Credential: "c"})
		if err != nil {
			t.Fatal(err)
		}
		return s.Token.Presentation.Attributes["who"]
	}
	if got := who(); got != "/me" {
		t.Errorf("after a refresh callers got %q, want what was kept", got)
	}
	p.redefine("x", keeps)
	p.accept("c")
	who()
	p.redefine("x", shows)
	if got := who(); strings.HasPrefix(got, "held-") {
		t.Errorf("callers got %q, which was kept as something else", got)
	}
}

// TestTwoBrokersOfTwoFiles: during a rollout one broker has the former file and another the new one, which keeps something else by the same name. Both
// serve, neither uses what the other has kept, and each new token costs an exchange or two.
func TestTwoBrokersOfTwoFiles(t *testing.T) {
	const file = `
name: x
inputs: {client_id: {}, client_secret: {secret: true}}
obtain:
- {oauth2: "https://here.example.com/token", take: {one: held}}
- {get: "https://there.example.com/me", headers: {X-Who: "{{client_id}}"}, take: {two: endpoint}}
refresh:
- {oauth2: "https://here.example.com/token", params: {p: "{{one}}"}}
- {get: "https://there.example.com/me", headers: {X-O: "{{two}}"}, take: {two: endpoint}}
`
	swapped := strings.NewReplacer("one", "two", "two", "one").Replace(file)
	p := newPlaces(t)
	p.redefine("x", file)
	p.giveOne("x", map[string]string{"client_id": "id"})
	former := p.Broker // goes on with the file that it has
	p.define("x", swapped)
	p.start()
	p.accept("c")
	before := p.issued.Load()
	const rounds = 6
	for range rounds {
		for _, b := range []*engine.Broker{former, p.Broker} {
			if _, err := b.Invalidate(t.Context(), here, engine.Invalidation{Credential: "c", All: true}); err != nil {
				t.Fatal(err)
			}
			for range 3 {
				if _, err := b.Token(t.Context(), here, engine.Request{Credential: "c"}); err != nil {
					t.Error(err)
				}
			}
		}
	}
	if n := p.issued.Load() - before; n > 2*rounds*4 {
		t.Errorf("got %d requests for %d tokens", n, 2*rounds)
	}
	if found := p.astray(); len(found) > 0 {
		t.Errorf("%v went astray", found)
	}
}

// TestARefreshIsNotSentWithoutWhatItNeeds: an edit takes a kept value otherwise. Without it the refresh would ask for something else, or bring what
// nobody can be shown, and spend the refresh token; all is obtained anew.
func TestARefreshIsNotSentWithoutWhatItNeeds(t *testing.T) {
	const (
		head = "name: x\ninputs: {client_id: {}, client_secret: {secret: true}}\nobtain: {oauth2: \"https://here.example.com/token\", take: {held: held}}\n"
		asks = head + "refresh: {oauth2: \"https://here.example.com/token\", params: {held: \"{{held}}\"}}\n"
	)
	v1 := func(file string) string { return strings.ReplaceAll(file, `/token"`, `/token?v=1"`) }
	shown := head + "refresh: {oauth2: \"https://here.example.com/token\"}\nattributes: [held]\n"
	based := head + "refresh: {oauth2: \"https://here.example.com/token\", take: {token: access_token}}\nbase_url: \"https://here.example.com/{{held}}\"\n"
	picks := head + "refresh: {oauth2: \"https://here.example.com/token\", take: {of: {each: all, where: {name: \"{{held}}\"}, path: id, optional: true}}}\nattributes: [of]\n"
	for name, c := range map[string]struct{ before, after string }{
		"it is sent, another URL":          {asks, v1(asks)},
		"it is sent, an alternative place": {asks, strings.Replace(asks, "held: held}", "held: [held, data.held]}", 1)},
		"callers see it":                   {shown, v1(shown)},
		"callers are told to go there":     {based, v1(based)},
		"something is picked by it":        {picks, v1(picks)},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlaces(t)
			p.redefine("x", c.before)
			p.giveOne("x", map[string]string{"client_id": "id"})
			p.redefine("x", c.after)
			p.mu.Lock()
			p.wire[hereHost].Reset()
			p.mu.Unlock()
			p.accept("c")
			if err := p.ask("c"); err != nil { // by another definition there is no token yet
				t.Fatal(err)
			}
			if sent := p.wire[hereHost].String(); strings.Contains(sent, "grant_type=refresh_token") || !strings.Contains(sent, "grant_type=client_credentials") {
				t.Errorf("got %s", sent)
			}
			if err := p.use("c"); err != nil {
				t.Errorf("and on: %v", err)
			}
		})
	}
}

// TestWhatWasNotPresentedIsNotRefused: a file takes a kept value otherwise, and cannot obtain. The former one goes on where it was.
func TestWhatWasNotPresentedIsNotRefused(t *testing.T) {
	const before = `
name: x
inputs: {client_id: {}, client_secret: {secret: true}}
obtain: {oauth2: "https://here.example.com/token", take: {held: held}}
refresh: {oauth2: "https://here.example.com/token", params: {held: "{{held}}"}}
`
	p := newPlaces(t)
	p.redefine("x", before)
	p.giveOne("x", map[string]string{"client_id": "id"})
	p.redefine("x", strings.Replace(before, `/token", take: {held: held}`, `/token", take: {held: endpoint}, expect: {no.such: there}`, 1))
	p.accept("c")
	if _, err := p.Invalidate(t.Context(), here, engine.Invalidation{Credential: "c", All: true}); err != nil {
		t.Fatal(err)
	}
	if err := p.ask("c"); err == nil {
		t.Fatal("the file obtains after all")
	}
	p.redefine("x", before)
	p.mu.Lock()
	p.wire[hereHost].Reset()
	p.mu.Unlock()
	if err := p.ask("c"); err != nil {
		t.Fatal(err)
	}
	if sent := p.wire[hereHost].String(); !strings.Contains(sent, "grant_type=refresh_token") || strings.Contains(sent, "grant_type=client_credentials") {
		t.Errorf("got %s, want that the refresh token is presented", sent)
	}
}

// TestAnotherSecretIsNoSeed: an edited file makes the client secret what a place was accepted for as refresh token, and all secrets are given again.
func TestAnotherSecretIsNoSeed(t *testing.T) {
	const before = `
name: x
inputs: {client_id: {}, first: {secret: true, seed: true}, client_secret: {secret: true}}
refresh:
- post: "https://there.example.com/token"
  form: {r: "{{refresh_token}}"}
  take: {token: data.at, refresh_token: refresh_token}
- get: "https://here.example.com/me"
  headers: {X-K: "{{client_secret}}"}
  take: {who: id}
`
	p := newPlaces(t)
	p.redefine("x", before)
	give := func(d *engine.Draft) error {
		d.Provider, d.Inputs = "x", map[string]string{"client_id": "id"}
		d.Secrets = map[string]broker.Secret{"client_secret": broker.NewSecret("given-first-c"), "first": broker.NewSecret("seed-of-there-1")}
		return nil
	}
	if _, err := p.CreateCredential(t.Context(), here, engine.Change{Name: "c", Edit: give}); err != nil {
		t.Fatal(err)
	}
	p.secret("given-first-c")
	_ = p.ask("c")
	p.given = true
	p.redefine("x", strings.NewReplacer("first: {secret: true, seed: true}, client_secret: {secret: true}", "first: {secret: true}, client_secret: {secret: true, seed: true}",
		"X-K: \"{{client_secret}}\"", "X-K: \"{{client_id}}\"").Replace(before))
	_, _ = p.UpdateCredential(t.Context(), here, engine.Change{Name: "c", Edit: give})
	if err := p.use("c"); broker.KindOf(err) != broker.CredentialHeld {
		t.Errorf("got %v, want it held", err)
	}
	if found := p.astray(); len(found) > 0 {
		t.Errorf("%v went astray", found)
	}
}

// TestTheOrderOfRequestsSaysWhatGoesWhere: a file that asks the same of the same places in another order has something else go to each.
func TestTheOrderOfRequestsSaysWhatGoesWhere(t *testing.T) {
	const (
		head  = "name: x\ninputs: {client_id: {}, client_secret: {secret: true}}\nobtain:\n"
		first = "- oauth2: \"https://here.example.com/token\"\n"
		// lesser exchanges the first token (RFC 8693).
		lesser = "- {oauth2: \"https://here.example.com/exchange\", grant: \"urn:ietf:params:oauth:grant-type:token-exchange\", auth: none, params: {subject_token: \"{{token}}\"}}\n"
		shown  = "- {get: \"https://there.example.com/me\", with_token: true, take: {unused: endpoint}}\n"
		there  = "- {oauth2: \"https://there.example.com/token\", auth: none, params: {client_id: \"{{client_id}}\"}}\n"
		spends = "refresh: {oauth2: \"https://there.example.com/token\", auth: none, params: {client_id: \"{{client_id}}\"}}\n"
	)
	for name, c := range map[string]struct{ before, after string }{
		"callers get another token":            {first + lesser, first + lesser + first},
		"callers get the first token":          {first + lesser, first},
		"another place gets the first token":   {first + lesser + shown, first + shown + lesser},
		"a place gets another's refresh token": {first + there + spends, there + first + spends},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlaces(t)
			p.redefine("x", head+c.before)
			p.giveOne("x", map[string]string{"client_id": "id"})
			p.redefine("x", head+c.after)
			if _, err := p.Token(t.Context(), here, engine.Request{Credential: "c"}); broker.KindOf(err) != broker.CredentialHeld {
				t.Errorf("got %v, want it held", err)
			}
			p.redefine("x", head+c.before)
			if err := p.ask("c"); err != nil {
				t.Errorf("the former file again: %v", err)
			}
		})
	}
}
