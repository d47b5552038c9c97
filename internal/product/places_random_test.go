package product

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
)

// A wayOf is a secret's name and the host that a file sends it to.
type wayOf struct{ name, host string }

// A fileOf is a definition of few secrets: what they were called before, and where they go. moving is where that is the host of an input.
type fileOf struct {
	was  map[string]string
	ways []wayOf
}

const moving = "{{host}}"

func drawFile(t *rapid.T) fileOf {
	f := fileOf{was: map[string]string{}}
	names := []string{"a", "b", "c"}
	for _, n := range names {
		if !rapid.Bool().Draw(t, "has "+n) {
			continue
		}
		f.was[n] = ""
		for _, h := range []string{hereHost, thereHost, moving} {
			if rapid.IntRange(0, 3).Draw(t, n+" to "+h) == 0 {
				f.ways = append(f.ways, wayOf{n, h})
			}
		}
	}
	for n := range maps.Clone(f.was) {
		was := rapid.SampledFrom(names).Draw(t, n+" was")
		if _, there := f.was[was]; !there && !slices.Contains(slices.Collect(maps.Values(f.was)), was) && rapid.Bool().Draw(t, "renames "+n) {
			f.was[n] = was
		}
	}
	return f
}

func (f fileOf) text() string {
	var b strings.Builder
	b.WriteString("name: x\ninputs:\n  host: {format: host}\n")
	for _, n := range slices.Sorted(maps.Keys(f.was)) {
		b.WriteString("  " + n + ": {secret: true, optional: true")
		if f.was[n] != "" {
			b.WriteString(", was: " + f.was[n])
		}
		b.WriteString("}\n")
	}
	b.WriteString("obtain:\n- {oauth2: \"https://here.example.com/token\", auth: none, params: {client_id: id}}\n- {get: \"https://" + moving + "/me\", take: {place: {path: id, optional: true}}}\n")
	for i, w := range f.ways {
		fmt.Fprintf(&b, "- {get: \"https://%s/me\", headers: {X-S: \"{{%s}}\"}, take: {seen%d: {path: id, optional: true}}}\n", w.host, w.name, i)
	}
	return b.String()
}

// A trust is what a model of people knows of one credential: who was told what.
type trust struct {
	host     string
	approved map[wayOf]bool    // by whoever created, moved or accepted
	renamed  map[wayOf]bool    // a former name, and the one that somebody approved for it: in host
	born     map[string]string // by value, the name that it was given as; gone after a move
}

// approve is what somebody says yes to by a file.
func (k *trust) approve(f fileOf) {
	for _, w := range f.ways {
		k.approved[k.at(w)] = true
		if was := f.was[w.name]; was != "" {
			k.renamed[wayOf{was, w.name}] = true
		}
	}
}

func (k *trust) at(w wayOf) wayOf {
	if w.host == moving {
		w.host = k.host
	}
	return w
}

// may reports whether somebody has approved that a value goes to a host.
func (k *trust) may(value, host string) bool {
	n, ok := k.born[value]
	if !ok {
		return false
	}
	names := []string{n}
	for i := 0; i < len(names); i++ {
		if k.approved[wayOf{names[i], host}] {
			return true
		}
		for w := range k.renamed {
			if w.name == names[i] && !slices.Contains(names, w.host) {
				names = append(names, w.host)
			}
		}
	}
	return false
}

// TestNoSecretGoesWhereNobodySentIt: files change, whoever may edits, gives, rotates, moves and accepts, in any order; brokers start again. A value arrives only
// where somebody with the right has seen that it goes, and after a move nothing of before does. Accepting always helps.
func TestNoSecretGoesWhereNobodySentIt(t *testing.T) {
	p := newPlaces(t)
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		name := broker.CredentialName(fmt.Sprintf("c%d", n))
		files := rapid.SliceOfN(rapid.Custom(drawFile), 2, 4).Draw(rt, "files")
		now := files[0]
		values := 0
		k := &trust{host: hereHost, approved: map[wayOf]bool{}, renamed: map[wayOf]bool{}, born: map[string]string{}}
		give := func(secrets map[string]broker.Secret, of string) string {
			values++
			v := fmt.Sprintf("value-%d-%d-of-%s", n, values, of)
			secrets[of] = broker.NewSecret(v)
			return v
		}
		some := func(all bool) (map[string]broker.Secret, map[string]string) {
			secrets, born := map[string]broker.Secret{}, map[string]string{}
			for _, in := range slices.Sorted(maps.Keys(now.was)) {
				if all || rapid.Bool().Draw(rt, "gives "+in) {
					born[give(secrets, in)] = in
				}
			}
			return secrets, born
		}
		arrived := func(did string) {
			p.mu.Lock()
			defer p.mu.Unlock()
			for host, b := range p.wire {
				for _, line := range strings.Split(b.String(), "\r\n") {
					if v, ok := strings.CutPrefix(line, "X-S: "); ok && !k.may(v, host) {
						rt.Errorf("%s: %s went to %s, which nobody has approved", did, v, host)
					}
				}
				b.Reset()
			}
		}
		update := func(edit func(*engine.Draft)) error {
			_, err := p.UpdateCredential(t.Context(), here, engine.Change{Name: name, Edit: func(d *engine.Draft) error { edit(d); return nil }})
			return err
		}
		p.redefine("x", now.text())
		secrets, born := some(false)
		_, err := p.CreateCredential(t.Context(), here, engine.Change{Name: name, Edit: func(d *engine.Draft) error {
			*d = engine.Draft{Provider: "x", Inputs: map[string]string{"host": k.host}, Secrets: secrets}
			return nil
		}})
		if err != nil {
			rt.Fatal(err)
		}
		k.born = born
		k.approve(now)
		defer func() { _ = p.DeleteCredential(context.WithoutCancel(t.Context()), here, name, broker.ID{}) }()
		acts := map[string]func(){
			"file": func() {
				now = rapid.SampledFrom(files).Draw(rt, "file")
				p.redefine("x", now.text())
			},
			"label": func() { _ = update(func(d *engine.Draft) { d.Labels = map[string]string{"n": fmt.Sprint(values)} }) },
			"give": func() {
				secrets, born := some(false)
				if update(func(d *engine.Draft) { d.Secrets = secrets }) == nil {
					maps.Copy(k.born, born)
				}
			},
			"rotate": func() {
				secrets, born := some(false)
				if _, err := p.RotateSecret(t.Context(), here, engine.Rotation{Name: name, Secrets: secrets}); err == nil {
					maps.Copy(k.born, born)
				}
			},
			"take away": func() {
				in := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "what")
				_ = update(func(d *engine.Draft) { d.Secrets = map[string]broker.Secret{in: {}} })
			},
			"move": func() {
				to := map[string]string{hereHost: thereHost, thereHost: hereHost}[k.host]
				secrets, born := some(true)
				if err := update(func(d *engine.Draft) { d.Inputs["host"], d.Secrets = to, secrets }); err != nil {
					rt.Errorf("with all secrets of the file: %v", err)
				}
				*k = trust{host: to, approved: map[wayOf]bool{}, renamed: map[wayOf]bool{}, born: born}
				k.approve(now)
			},
			"move without secrets": func() {
				to := map[string]string{hereHost: thereHost, thereHost: hereHost}[k.host]
				c, _ := p.Credential(t.Context(), here, name)
				if err := update(func(d *engine.Draft) { d.Inputs["host"] = to }); err != nil {
					return
				}
				if slices.ContainsFunc(c.SecretNames(), func(s string) bool { _, has := now.was[s]; return has }) {
					rt.Error("it moved, and its secrets with it")
				}
				*k = trust{host: to, approved: map[wayOf]bool{}, renamed: map[wayOf]bool{}, born: map[string]string{}}
				k.approve(now)
			},
			"accept": func() {
				c, err := p.Credential(t.Context(), here, name)
				if err != nil {
					rt.Fatal(err)
				}
				if to := c.Unaccepted(p.Destinations(c)); len(to) > 0 {
					if _, err := p.AcceptCredential(t.Context(), here, engine.Acceptance{Name: name, Destinations: to}); err != nil {
						rt.Fatal(err)
					}
				}
				k.approve(now)
				if err := p.ask(name); err != nil {
					rt.Errorf("after all was accepted: %v", err)
				}
			},
			"restart": func() { p.start() },
		}
		for range rapid.IntRange(3, 12).Draw(rt, "acts") {
			act := rapid.SampledFrom(slices.Sorted(maps.Keys(acts))).Draw(rt, "act")
			if act == "restart" && rapid.IntRange(0, 9).Draw(rt, "really") > 0 {
				continue
			}
			acts[act]()
			_ = p.use(name)
			arrived(act)
		}
	})
}
