package provider

import (
	"encoding/json"
	"slices"
	"testing"
)

// schemaWords are the property names at a place of the schema.
func schemaWords(t *testing.T, doc map[string]any, path ...string) []string {
	t.Helper()
	var at any = doc
	for _, p := range path {
		m, ok := at.(map[string]any)
		if !ok {
			t.Fatalf("the schema has nothing at %v", path)
		}
		at = m[p]
	}
	m, ok := at.(map[string]any)
	if !ok {
		t.Fatalf("the schema has no words at %v", path)
	}
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

func TestTheSchemaHasTheLanguagesWordsAndNoOthers(t *testing.T) {
	var doc map[string]any
	if err := json.Unmarshal(Schema(), &doc); err != nil {
		t.Fatal(err)
	}
	alternative := func(def string, n int) map[string]any {
		defs := doc["$defs"].(map[string]any)
		return defs[def].(map[string]any)["anyOf"].([]any)[n].(map[string]any)
	}
	for name, c := range map[string]struct{ got, want []string }{
		"definition": {schemaWords(t, doc, "properties"), definitionWords},
		"set":        {schemaWords(t, doc, "$defs", "set", "properties"), setWords},
		"request":    {schemaWords(t, doc, "$defs", "request", "properties"), requestWords},
		"where":      {schemaWords(t, alternative("where", 2), "properties"), whereWords},
		"compute":    {schemaWords(t, alternative("compute", 1), "properties"), computeWords},
	} {
		want := slices.Sorted(slices.Values(c.want))
		if !slices.Equal(c.got, want) {
			t.Errorf("%s: the schema has %v, the parser %v", name, c.got, want)
		}
	}
	for _, words := range [][]string{definitionWords, requestWords, whereWords, computeWords} {
		for _, w := range words {
			if laterWords[w] {
				t.Errorf("%s is a word of a later version", w)
			}
		}
	}
}
