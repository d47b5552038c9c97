package main

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/xeipuuv/gojsonschema"
)

// valid holds a document against CycloneDX's own schema, which the library has beside its code.
func valid(t *testing.T, doc []byte) []string {
	t.Helper()
	dir, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/CycloneDX/cyclonedx-go").Output()
	if err != nil {
		t.Fatal(err)
	}
	load := func(name string) gojsonschema.JSONLoader {
		return gojsonschema.NewReferenceLoader("file://" + filepath.ToSlash(filepath.Join(strings.TrimSpace(string(dir)), "schema", name)))
	}
	schemas := gojsonschema.NewSchemaLoader() // with what it refers to, which it would get over the network
	for url, name := range map[string]string{"jsf-0.82.schema.json": "jsf-0.82.schemax.json", "spdx.schema.json": "spdx.schema.json"} {
		if err := schemas.AddSchema("http://cyclonedx.org/schema/"+url, load(name)); err != nil {
			t.Fatal(err)
		}
	}
	schema, err := schemas.Compile(load("bom-1.6.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	result, err := schema.Validate(gojsonschema.NewBytesLoader(doc))
	if err != nil {
		t.Fatal(err)
	}
	var wrong []string
	for _, e := range result.Errors() {
		wrong = append(wrong, e.String())
	}
	return wrong
}

func TestTheDocumentIsCycloneDX(t *testing.T) {
	_, b := tokenbroker(t)
	doc, err := document(b, "v1.2.3", "")
	if err != nil {
		t.Fatal(err)
	}
	if wrong := valid(t, doc); len(wrong) > 0 {
		t.Errorf("%s", strings.Join(wrong, "\n"))
	}
	// The schema does look.
	if wrong := valid(t, bytes.Replace(doc, []byte(`"id": "MIT"`), []byte(`"id": "MIT-ish"`), 1)); len(wrong) == 0 {
		t.Error("a licence that SPDX does not have is valid")
	}

	var bom struct {
		Metadata     struct{ Component struct{ Purl string } }
		Components   []struct{ Name, Version, Purl string }
		Dependencies []struct {
			Ref       string
			DependsOn []string
		}
	}
	if err := json.Unmarshal(doc, &bom); err != nil {
		t.Fatal(err)
	}
	if got, want := bom.Metadata.Component.Purl, "pkg:golang/github.com/tokenbroker/tokenbroker@v1.2.3"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	refs := map[string]bool{bom.Metadata.Component.Purl: true}
	for i, c := range bom.Components {
		refs[c.Purl] = true
		if p := b.parts[i]; c.Name != p.path || c.Version != p.version || c.Purl != strings.ToLower("pkg:golang/"+p.path)+"@"+p.version {
			t.Errorf("got %+v, want %s %s", c, p.path, p.version)
		}
	}
	if len(bom.Components) != len(b.parts) || len(bom.Dependencies) != len(refs) {
		t.Errorf("got %d components and %d in the graph, want %d and this command", len(bom.Components), len(bom.Dependencies), len(b.parts))
	}
	reached := map[string]bool{bom.Dependencies[0].Ref: true}
	for range bom.Dependencies {
		for _, d := range bom.Dependencies {
			for _, on := range d.DependsOn {
				if !refs[on] {
					t.Fatalf("%s depends on %q, which is not there", d.Ref, on)
				}
				reached[on] = reached[on] || reached[d.Ref]
			}
		}
	}
	for ref := range refs {
		if !reached[ref] {
			t.Errorf("nothing leads to %s", ref)
		}
	}
}

func TestTheSameBinaryGivesTheSameDocument(t *testing.T) {
	file, b := tokenbroker(t)
	first, err := document(b, "", "")
	if err != nil {
		t.Fatal(err)
	}
	again, err := read(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	second, err := document(again, "", "")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first, second) {
		t.Error("two documents of one binary differ")
	}
	for _, word := range []string{"timestamp", "serialNumber"} {
		if bytes.Contains(first, []byte(word)) {
			t.Errorf("got a %s, want none", word)
		}
	}
	dated, err := document(b, "", "1700000000")
	if err != nil || !bytes.Contains(dated, []byte(`"timestamp": "2023-11-14T22:13:20Z"`)) || len(valid(t, dated)) > 0 {
		t.Errorf("got %v, want the time of the epoch", err)
	}
	if _, err := document(b, "", "yesterday"); err == nil {
		t.Error("an epoch that is no number is taken")
	}
}
