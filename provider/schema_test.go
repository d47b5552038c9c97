package provider

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// schemaAt is what the schema has at a place; nil: nothing.
func schemaAt(doc any, path ...string) any {
	for _, p := range path {
		switch x := doc.(type) {
		case map[string]any:
			doc = x[p]
		case []any:
			i, err := strconv.Atoi(p)
			if err != nil || i >= len(x) {
				return nil
			}
			doc = x[i]
		default:
			return nil
		}
	}
	return doc
}

func schemaDocument(t *testing.T) map[string]any {
	t.Helper()
	var doc map[string]any
	if err := json.Unmarshal(Schema(), &doc); err != nil {
		t.Fatal(err)
	}
	return doc
}

func TestTheSchemaHasTheLanguagesWordsAndNoOthers(t *testing.T) {
	doc := schemaDocument(t)
	places := map[string]bool{}
	for _, v := range vocabularies {
		places[strings.Join(v.schema, "/")] = true
		properties, ok := schemaAt(doc, v.schema...).(map[string]any)
		if !ok {
			t.Errorf("%s: the schema has no words at %v", v.place, v.schema)
			continue
		}
		var got []string
		for k := range properties {
			got = append(got, k)
		}
		slices.Sort(got)
		if want := slices.Sorted(slices.Values(v.names())); !slices.Equal(got, want) {
			t.Errorf("%s: the schema has %v, the parser %v", v.place, got, want)
		}
		for _, w := range v.words {
			if laterWords[w.name] {
				t.Errorf("%s is a word of a later version", w.name)
			}
			if got := schemaValues(doc, properties[w.name]); !slices.Equal(got, slices.Sorted(slices.Values(w.values))) {
				t.Errorf("%s.%s: the schema has the values %v, the parser %v", v.place, w.name, got, w.values)
			}
		}
	}
	var walk func(x any, path []string)
	walk = func(x any, path []string) {
		switch x := x.(type) {
		case map[string]any:
			for k, e := range x {
				here := append(slices.Clone(path), k)
				if _, is := e.(map[string]any); k == "properties" && is && !slices.Contains(path, "properties") && !places[strings.Join(here, "/")] {
					t.Errorf("the schema has words at %v, and no vocabulary is for them", here)
				}
				walk(e, here)
			}
		case []any:
			for i, e := range x {
				walk(e, append(slices.Clone(path), strconv.Itoa(i)))
			}
		}
	}
	walk(doc, nil)
}

// schemaValues are the words that a property may be.
func schemaValues(doc map[string]any, property any) []string {
	p, _ := property.(map[string]any)
	if ref, ok := p["$ref"].(string); ok {
		if p, _ = schemaAt(doc, strings.Split(strings.TrimPrefix(ref, "#/"), "/")...).(map[string]any); p["enum"] == nil && p["anyOf"] == nil {
			return nil
		}
	}
	var out []string
	of, _ := p["anyOf"].([]any)
	for _, x := range append(slices.Clone(of), p) {
		m, _ := x.(map[string]any)
		values, _ := m["enum"].([]any)
		for _, v := range append(slices.Clone(values), m["const"]) {
			if s, ok := v.(string); ok {
				out = append(out, s)
			}
		}
	}
	slices.Sort(out)
	return out
}
