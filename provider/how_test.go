package provider

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/yamldoc"
)

// mayChange reports whether a member may be changed, left out or added without anybody's being asked: at a path of keys, "" for an element of a list.
func mayChange(path []string) bool {
	switch all := strings.Join(path, "."); {
	case slices.Contains([]string{"title", "docs", "margin", "rate", "override", "language", "when_store_is_away", "refresh_token_lifetime", "lifetime"}, path[0]):
		return true
	case strings.HasPrefix(all, "scopes.known"), strings.HasPrefix(all, "resources.known"), slices.Contains([]string{"audience.title", "audience.hint"}, all):
		return true
	case path[0] == "inputs" || path[0] == "parameters":
		return len(path) == 3 && (path[2] == "title" || path[2] == "hint")
	}
	return false
}

// An edit changes one node of a tree, and takes that back. unasked: nobody need be asked about it.
type edit struct {
	what     string
	do, undo func()
	unasked  bool
}

// editsOf are all edits of one node that there may be: another text, a member or element less, two neighbours that change places, a member more of each
// that the language has; of these a sample.
func editsOf(root *yaml.Node, sample *rand.Rand) (all []edit) {
	var words [][]*yaml.Node
	seen := map[string]bool{"": true}
	for _, v := range vocabularies {
		for _, w := range v.words {
			var doc yaml.Node
			if err := yaml.Unmarshal([]byte("{"+w.example+"}"), &doc); err != nil || seen[w.example] {
				continue
			}
			seen[w.example] = true
			for m := doc.Content[0]; len(m.Content) > 0; m.Content = m.Content[2:] {
				words = append(words, m.Content[:2])
			}
		}
	}
	text := func(n *yaml.Node, to, what string, path []string) {
		was := n.Value
		all = append(all, edit{what: what, unasked: mayChange(path), do: func() { n.Value = to }, undo: func() { n.Value = was }})
	}
	content := func(n *yaml.Node, to []*yaml.Node, what string, unasked bool) {
		was := n.Content
		all = append(all, edit{what: what, unasked: unasked, do: func() { n.Content = to }, undo: func() { n.Content = was }})
	}
	var walk func(n *yaml.Node, path []string)
	walk = func(n *yaml.Node, path []string) {
		below := func(key string) []string { return append(slices.Clip(path), key) }
		at := strings.Join(path, ".")
		switch n.Kind {
		case yaml.MappingNode:
			for i := 0; i < len(n.Content); i += 2 {
				k := n.Content[i]
				mine := mayChange(below(k.Value))
				content(n, slices.Delete(slices.Clone(n.Content), i, i+2), "without "+at+"."+k.Value, mine)
				text(k, k.Value+"_x", at+"."+k.Value+", renamed", below(k.Value))
				if i > 0 {
					swapped := slices.Clone(n.Content)
					swapped[i-2], swapped[i-1], swapped[i], swapped[i+1] = swapped[i], swapped[i+1], swapped[i-2], swapped[i-1]
					content(n, swapped, at+"."+k.Value+" first", mine || mayChange(below(n.Content[i-2].Value)))
				}
				walk(n.Content[i+1], below(k.Value))
			}
			for _, w := range words {
				if key := w[0].Value; sample.IntN(3) == 0 && !slices.ContainsFunc(n.Content, func(x *yaml.Node) bool { return x.Value == key }) {
					content(n, append(slices.Clone(n.Content), w...), "with "+at+"."+key, mayChange(below(key)))
				}
			}
			more := []*yaml.Node{{Kind: yaml.ScalarNode, Tag: "!!str", Value: "more"}, {Kind: yaml.ScalarNode, Tag: "!!str", Value: "more"}}
			content(n, append(slices.Clone(n.Content), more...), "with "+at+".more", mayChange(below("more")))
		case yaml.SequenceNode:
			for i, x := range n.Content {
				unasked := len(path) > 0 && mayChange(path)
				content(n, slices.Delete(slices.Clone(n.Content), i, i+1), fmt.Sprintf("without %s[%d]", at, i), unasked)
				content(n, slices.Insert(slices.Clone(n.Content), i, x), fmt.Sprintf("%s[%d] twice", at, i), unasked)
				if i > 0 {
					swapped := slices.Clone(n.Content)
					swapped[i-1], swapped[i] = swapped[i], swapped[i-1]
					content(n, swapped, fmt.Sprintf("%s[%d] first", at, i), unasked || reflect.DeepEqual(swapped[i].Value, swapped[i-1].Value) && len(x.Content)+len(swapped[i].Content) == 0)
				}
				walk(x, below(""))
			}
		default:
			for _, to := range []string{n.Value + "x", n.Value + "/x", "1" + n.Value, strings.ToUpper(n.Value), "{{client_id}}" + n.Value, n.Value + "{{client_secret}}"} {
				if to != n.Value {
					text(n, to, at+": "+to, path)
				}
			}
		}
	}
	walk(root, nil)
	return all
}

// stripped is a definition without what may change unasked.
func stripped(d *definition) definition {
	b := *d
	b.title, b.docs, b.digest, b.whenAway = "", "", "", ""
	b.override, b.untilRejected = false, false
	b.margin, b.ratePeriod, b.idle, b.absolute, b.lifetime, b.rateRequests = 0, 0, 0, 0, 0, 0
	for _, s := range []**set{&b.scopes, &b.resources} {
		if *s != nil {
			of := **s
			of.known = nil
			*s = &of
		}
	}
	return b
}

// TestEveryEditIsAskedAboutOrChangesNothing: of all definitions that there are, each edit of one node that still is a definition holds the credential, or is of
// a word that says nothing of what is sent, taken and shown; and then the definition that is run is the same.
func TestEveryEditIsAskedAboutOrChangesNothing(t *testing.T) {
	texts := map[string]string{}
	files, err := builtins.ReadDir("catalog")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		text, err := builtins.ReadFile("catalog/" + f.Name())
		if err != nil {
			t.Fatal(err)
		}
		texts[f.Name()] = string(text)
	}
	for _, r := range cookbook(t) {
		texts[r.title] = r.definition
	}
	texts["all words"] = `
name: all
scopes: {required: true, known: {a: one, b: two}, default: [a]}
resources: {known: {r: one}}
audience: {title: For whom, hint: any, optional: true}
inputs: {client_id: {title: The id, hint: on the page}, client_secret: {secret: true}}
parameters: {p: {title: A choice, optional: true}}
lifetime: 1h
margin: 5m
rate: 60/1m
refresh_token_lifetime: {idle: 1h, absolute: 2h}
when_store_is_away: fail
obtain: {oauth2: "https://a.example.com/t", params: {title: T, p: "{{p}}", lifetime: "1", known: {hint: a}}, take: {title: title}, send: json}
refresh: {oauth2: "https://a.example.com/t", params: {p: "{{p}}"}, send: json}
attributes: [title]
`
	load := func(root *yaml.Node) *definition {
		r := newReader("")
		d := r.definition(root)
		if d == nil || len(yamldoc.Errors(r.Problems)) > 0 {
			return nil
		}
		d.how = how(root)
		if r.check(d); len(yamldoc.Errors(r.Problems)) > 0 {
			return nil
		}
		return d
	}
	sample := rand.New(rand.NewPCG(1, 2))
	tried, asked, unasked := 0, 0, 0
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		root := newReader("").Document([]byte(texts[name]))
		before := load(root)
		if before == nil {
			t.Fatalf("%s is no definition", name)
		}
		record := broker.Credential{Destinations: before.Destinations(credential(nil))}
		for _, e := range editsOf(root, sample) {
			tried++
			e.do()
			after := load(root)
			e.undo()
			if after == nil {
				continue
			}
			held := len(record.Against(after.Destinations(credential(nil)))) > 0
			switch {
			case held == e.unasked:
				t.Errorf("%s: %s: held is %v", name, e.what, held)
			case held:
				asked++
			default:
				unasked++
				if b, a := stripped(before), stripped(after); !reflect.DeepEqual(b, a) {
					t.Errorf("%s: %s: nobody is asked, and it is another definition", name, e.what)
				}
			}
		}
	}
	t.Logf("%d definitions, %d edits: %d are asked about, %d are not", len(texts), tried, asked, unasked)
	if asked < 3000 || unasked < 100 {
		t.Errorf("got %d and %d edits, want more", asked, unasked)
	}
}

// TestNoTwoTreesAreHashedTheSame where one could be read as another.
func TestNoTwoTreesAreHashedTheSame(t *testing.T) {
	seen := map[string]string{}
	for _, text := range []string{
		`{a: {"}": "{"}}`, `{a: {}, "!!str": {}}`, `{a: [[], b]}`, `{a: [[b]]}`, `{a: "1"}`, `{a: 1}`, `{a: "b\"\"c"}`, `{a: b, "": c}`, `{a: [b, c]}`, `{a: [{b: c}]}`, `{a: {b: c}}`,
		`{b: 1, a: 1}`, `{a: 1, b: 1}`, `{a: ""}`, `{a: null}`, `{a: {}}`, `{a: []}`, `{form: {title: x}}`, `{form: {}}`, `{form: {lifetime: x}}`, `{inputs: {title: {}}}`, `{inputs: {}}`,
	} {
		var doc yaml.Node
		if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
			t.Fatal(err)
		}
		h := how(doc.Content[0])
		if was := seen[h]; was != "" {
			t.Errorf("%s and %s are the same", was, text)
		}
		seen[h] = text
	}
}

// TestWhatMayChangeFreely, and what is near it and may not.
func TestWhatMayChangeFreely(t *testing.T) {
	const before = `name: x
inputs: {client_id: {title: The id}, client_secret: {secret: true}}
scopes: {known: {read: all}}
obtain:
  oauth2: "https://a.example.com/t"
  params: {title: T}
`
	asked := func(after string) bool {
		return newVendor(t, nil).define(strings.TrimPrefix(before, "name: x\n")).how != newVendor(t, nil).define(strings.TrimPrefix(after, "name: x\n")).how
	}
	for edit, want := range map[[2]string]bool{
		{"obtain:", "# why\n\nobtain: # how"}:                             false,
		{`"https://a.example.com/t"`, "https://a.example.com/t"}:          false,
		{"params: {title: T}", "params:\n    title: >-\n      T"}:         false,
		{"The id", "Its id"}:                                              false,
		{"title: The id", "hint: as on the page"}:                         false,
		{"read: all", "write: more"}:                                      false,
		{"scopes:", "docs: https://a.example.com\nlifetime: 1h\nscopes:"}: false,
		{"{title: T}", "{title: U}"}:                                      true,
		{"{title: T}", "{title: T, hint: H}"}:                             true,
		{"{known: {read: all}}", "{}"}:                                    false,
		{"scopes: {", "scopes: {required: true, "}:                        true,
		{"client_id: {", "client_id: {pattern: '[a-z]+', "}:               true,
		{"obtain:", "error: {rules: [{code: x, means: grant}]}\nobtain:"}: true,
		{"obtain:", "headers: {Accept: text/html}\nobtain:"}:              true,
		{"obtain:", "base_url: https://a.example.com\nobtain:"}:           true,
		{"obtain:", "attributes: [scope]\nobtain:"}:                       true,
	} {
		after := strings.Replace(before, edit[0], edit[1], 1)
		if after == before {
			t.Fatalf("%q is not there", edit[0])
		}
		if got := asked(after); got != want {
			t.Errorf("%q instead of %q: asked about: %v, want %v", edit[1], edit[0], got, want)
		}
	}
}
