package provider

import (
	_ "embed"
	"slices"
)

//go:embed schema.json
var schema []byte

// Schema is the definition language as a JSON Schema (2020-12), for editors and for checks in other languages. It cannot say
// everything that Check does: names that nothing gives, secrets in places where they would be seen. The caller owns it.
func Schema() []byte { return slices.Clone(schema) }
