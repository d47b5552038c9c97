package product

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
)

// create stores the credential c of the definition x.
func (p *places) create(inputs, secrets map[string]string) {
	p.t.Helper()
	_, err := p.CreateCredential(p.t.Context(), here, engine.Change{Name: "c", Edit: func(d *engine.Draft) error {
		*d = engine.Draft{Provider: "x", Inputs: inputs, Secrets: revealed(secrets)}
		return nil
	}})
	if err != nil {
		p.t.Fatal(err)
	}
}

// edit changes inputs and secrets of the credential c; an empty secret is taken away.
func (p *places) edit(inputs, secrets map[string]string) error {
	_, err := p.UpdateCredential(p.t.Context(), here, engine.Change{Name: "c", Edit: func(d *engine.Draft) error {
		maps.Copy(d.Inputs, inputs)
		d.Secrets = revealed(secrets)
		return nil
	}})
	return err
}

func revealed(secrets map[string]string) map[string]broker.Secret {
	all := map[string]broker.Secret{}
	for name, v := range secrets {
		all[name] = broker.NewSecret(v)
	}
	return all
}

// stored are the secrets of the credential c, by the names that they are stored under.
func (p *places) stored() map[string]string {
	p.t.Helper()
	c, err := p.Credential(p.t.Context(), here, "c")
	if err != nil {
		p.t.Fatal(err)
	}
	all := map[string]string{}
	for name, s := range c.Secrets {
		all[name] = s.Value.Reveal()
	}
	return all
}

func (p *places) wantStored(when string, want map[string]string) {
	p.t.Helper()
	if got := p.stored(); !maps.Equal(got, want) {
		p.t.Errorf("%s: got %v stored, want %v", when, got, want)
	}
}

const (
	onlyClient = `
name: x
inputs: {host: {format: host}, client_id: {}, client_secret: {secret: true}}
obtain: {oauth2: "https://{{host}}/token"}
`
	andExtra = `
name: x
inputs: {host: {format: host}, client_id: {}, client_secret: {secret: true}, extra: {secret: true, optional: true}}
obtain: {oauth2: "https://{{host}}/token", params: {e: "{{extra}}"}}
`
	renamed = `
name: x
inputs: {host: {format: host}, client_id: {}, pass: {secret: true, was: client_secret}}
obtain: {oauth2: "https://{{host}}/token", auth: {client_secret_post: {id: "{{client_id}}", secret: "{{pass}}"}}}
`
)

// TestASecretThatAFileLeavesOut stays at its place, because the next file may have it, until somebody takes it away; another place gets none of it.
func TestASecretThatAFileLeavesOut(t *testing.T) {
	p := newPlaces(t)
	p.redefine("x", andExtra)
	p.create(map[string]string{"host": hereHost, "client_id": "id"}, map[string]string{"client_secret": "s1", "extra": "e1"})
	p.redefine("x", onlyClient)
	if err := p.edit(map[string]string{"client_id": "another"}, nil); err != nil {
		t.Fatal(err)
	}
	p.wantStored("after another edit", map[string]string{"client_secret": "s1", "extra": "e1"})
	if err := p.edit(nil, map[string]string{"extra": "e2"}); broker.KindOf(err) != broker.RequestInvalid {
		t.Errorf("given anew: got %v, want that there is no such secret", err)
	}
	if err := p.edit(nil, map[string]string{"extra": ""}); err != nil {
		t.Error(err)
	}
	p.wantStored("after it was taken away", map[string]string{"client_secret": "s1"})

	p.redefine("x", andExtra)
	if err := p.edit(nil, map[string]string{"extra": "e3"}); err != nil {
		t.Fatal(err)
	}
	p.redefine("x", onlyClient)
	if err := p.edit(map[string]string{"host": thereHost}, map[string]string{"client_secret": "s2"}); err != nil {
		t.Errorf("to another place, with every secret that goes there: %v", err)
	}
	p.wantStored("at another place", map[string]string{"client_secret": "s2"})
}

// TestASecretIsRenamedWhenItsNewNameIsAccepted: not by a file that nobody has accepted, nor by one that sends it nowhere; then, with all that is
// kept of it.
func TestASecretIsRenamedWhenItsNewNameIsAccepted(t *testing.T) {
	p := newPlaces(t)
	p.redefine("x", onlyClient)
	p.create(map[string]string{"host": hereHost, "client_id": "id"}, map[string]string{"client_secret": "s1"})
	p.redefine("x", renamed)
	p.accept("c")
	if _, err := p.RotateSecret(t.Context(), here, engine.Rotation{Name: "c", Secrets: revealed(map[string]string{"pass": "s2"})}); err != nil {
		t.Fatal(err)
	}
	p.wantStored("after a rotation", map[string]string{"pass": "s2"})
	if c, _ := p.Credential(t.Context(), here, "c"); c.Secrets["pass"].Former.Reveal() != "s1" {
		t.Error("the former secret is not kept as one of the new name")
	}

	p = newPlaces(t)
	p.redefine("x", onlyClient)
	p.create(map[string]string{"host": hereHost, "client_id": "id"}, map[string]string{"client_secret": "s1"})
	p.redefine("x", renamed)
	if err := p.edit(nil, map[string]string{"pass": "s2"}); err != nil {
		t.Fatal(err)
	}
	p.wantStored("while it is held", map[string]string{"client_secret": "s1", "pass": "s2"})
	p.accept("c")
	if err := p.edit(map[string]string{"host": thereHost}, map[string]string{"pass": "s3"}); err != nil {
		t.Errorf("to another place: %v", err)
	}
	p.wantStored("at another place", map[string]string{"pass": "s3"})
}

// TestAFileThatHasASecretAsAnInputForgetsNothing: it sends less, and somebody accepts it; the former file comes back.
func TestAFileThatHasASecretAsAnInputForgetsNothing(t *testing.T) {
	p := newPlaces(t)
	p.redefine("x", andExtra)
	p.create(map[string]string{"host": hereHost, "client_id": "id"}, map[string]string{"client_secret": "s1", "extra": "e1"})
	p.redefine("x", strings.Replace(andExtra, "extra: {secret: true, optional: true}", "extra: {optional: true}", 1))
	p.accept("c")
	if err := p.use("c"); err != nil {
		t.Fatal(err)
	}
	if err := p.edit(map[string]string{"client_id": "another"}, nil); err != nil {
		t.Fatal(err)
	}
	p.wantStored("after another edit", map[string]string{"client_secret": "s1", "extra": "e1"})

	const seeded = `
name: x
inputs: {host: {format: host}, client_id: {}, first: {secret: true, seed: true}}
refresh: {oauth2: "https://{{host}}/token", auth: none, params: {client_id: "{{client_id}}"}}
`
	p = newPlaces(t)
	p.redefine("x", seeded)
	p.create(map[string]string{"host": hereHost, "client_id": "id"}, map[string]string{"first": "r1"})
	p.redefine("x", `
name: x
inputs: {host: {format: host}, client_id: {}, first: {optional: true}}
obtain: {oauth2: "https://{{host}}/token", auth: none, params: {client_id: "{{client_id}}", r: "{{first}}"}}
`)
	p.accept("c")
	_ = p.use("c")
	_ = p.edit(map[string]string{"client_id": "another"}, nil)
	p.redefine("x", seeded)
	if err := p.use("c"); err != nil {
		t.Errorf("the former file again: %v", err)
	}
	if c, _ := p.Credential(t.Context(), here, "c"); len(c.Seeds) != 1 {
		t.Errorf("got the seeds %v", c.Seeds)
	}
}

// TestAFileInTheStandOfABuiltInRenamesNothing until somebody accepts it: that a release may rename says nothing of files.
func TestAFileInTheStandOfABuiltInRenamesNothing(t *testing.T) {
	p := newPlaces(t)
	_, err := p.CreateCredential(t.Context(), here, engine.Change{Name: "c", Edit: func(d *engine.Draft) error {
		*d = engine.Draft{Provider: standard, Inputs: map[string]string{"token_url": "https://" + hereHost + "/token", "client_id": "id"}, Secrets: revealed(map[string]string{"client_secret": "s1"})}
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	p.redefine(standard, `
name: `+standard+`
override: true
inputs: {token_url: {format: url}, client_id: {}, other: {secret: true, was: client_secret}}
obtain: {oauth2: "{{token_url}}", auth: {client_secret_post: {id: "{{client_id}}", secret: "{{other}}"}}}
`)
	if err := p.edit(map[string]string{"client_id": "another"}, nil); err != nil {
		t.Fatal(err)
	}
	p.wantStored("after another edit", map[string]string{"client_secret": "s1"})
}

// TestAFileThatSendsASecretNowhereRenamesItNot, also when it is accepted; the former file comes back.
func TestAFileThatSendsASecretNowhereRenamesItNot(t *testing.T) {
	const both = `
name: x
inputs: {client_id: {}, client_secret: {secret: true, optional: true}, other: {secret: true, optional: true}}
obtain:
- {oauth2: "https://here.example.com/token"}
- {get: "https://there.example.com/me", headers: {X-K: "{{other}}"}, take: {unused: endpoint}}
`
	const between = `
name: x
inputs: {client_id: {}, other: {secret: true, was: client_secret}}
obtain: {oauth2: "https://here.example.com/token", auth: none, params: {client_id: "{{client_id}}"}}
`
	p := newPlaces(t)
	p.redefine("x", both)
	p.create(map[string]string{"client_id": "id"}, map[string]string{"client_secret": "given-first-c"})
	p.secret("given-first-c")
	_ = p.ask("c")
	p.given = true
	p.redefine("x", between)
	p.accept("c")
	if err := p.edit(map[string]string{"client_id": "another"}, nil); err != nil {
		t.Fatal(err)
	}
	p.redefine("x", both)
	_ = p.use("c")
	if found := p.astray(); len(found) > 0 {
		t.Errorf("%v went astray", found)
	}
	p.wantStored("after all", map[string]string{"client_secret": "given-first-c"})
}

// TestAnEditByAFileThatNobodyAcceptedRenamesNoSecret: a label is changed while the credential is held, or while the file lacks an input.
func TestAnEditByAFileThatNobodyAcceptedRenamesNoSecret(t *testing.T) {
	const head, toThere = "name: x\ninputs: {client_id: {}, ", `
- {get: "https://there.example.com/me", headers: {X-K: "{{other}}"}, take: {unused: endpoint}}
`
	const both = head + `client_secret: {secret: true}, other: {secret: true}}
obtain:
- {oauth2: "https://here.example.com/token"}` + toThere
	p := newPlaces(t)
	p.redefine("x", both)
	_, err := p.CreateCredential(t.Context(), here, engine.Change{Name: "c", Edit: func(d *engine.Draft) error {
		*d = engine.Draft{Provider: "x", Inputs: map[string]string{"client_id": "id"}, Secrets: map[string]broker.Secret{
			"client_secret": broker.NewSecret("given-first-c"), "other": broker.NewSecret("of-there"),
		}}
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	p.secret("given-first-c")
	_ = p.ask("c")
	p.given = true
	for _, file := range []string{
		head + "client_secret: {secret: true}}\nobtain: {oauth2: \"https://here.example.com/token\"}",
		head + `other: {secret: true, was: client_secret}}
obtain: {oauth2: "https://here.example.com/token", auth: {client_secret_post: {id: "{{client_id}}", secret: "{{other}}"}}}`,
		head + "other: {secret: true}}\nobtain:\n- {oauth2: \"https://here.example.com/token\", auth: none}" + toThere,
	} {
		p.redefine("x", file)
		_ = p.use("c")
		_, _ = p.UpdateCredential(t.Context(), here, engine.Change{Name: "c", Edit: func(d *engine.Draft) error {
			d.Labels = map[string]string{"file": fmt.Sprint(len(file))}
			return nil
		}})
	}
	_ = p.use("c")
	if found := p.astray(); len(found) > 0 {
		t.Errorf("%v went astray", found)
	}
	p.redefine("x", both)
	if c, err := p.Credential(t.Context(), here, "c"); err != nil || c.Secrets["client_secret"].Value.Reveal() != "given-first-c" || c.Secrets["other"].Value.Reveal() != "of-there" {
		t.Errorf("got %v, %v, want both secrets as they were", c.SecretNames(), err)
	}
}

// TestASecretThatCannotBeSentLeavesTheFormerOne: it has a line break, and stands in a header.
func TestASecretThatCannotBeSentLeavesTheFormerOne(t *testing.T) {
	p := newPlaces(t)
	p.redefine("x", "name: x\ninputs: {key: {secret: true}}\nobtain: {post: \"https://here.example.com/token\", headers: {X-Key: \"{{key}}\"}, take: {token: access_token}}\n")
	p.create(nil, map[string]string{"key": "good"})
	_, err := p.RotateSecret(t.Context(), here, engine.Rotation{Name: "c", Secrets: revealed(map[string]string{"key": "bad\r\nX-Other: 1"}), KeepFormer: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.ask("c"); err != nil {
		t.Errorf("the former secret works: %v", err)
	}
}
