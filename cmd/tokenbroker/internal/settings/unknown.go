package settings

import (
	"fmt"
	"slices"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/tokenbroker/tokenbroker/internal/suggest"
)

// prefix is what the environment variables begin with that are settings.
const prefix = "TOKENBROKER_"

// ofOthers are prefixes of variables that Kubernetes sets for a Service that is called tokenbroker, and of those that are for tests.
var ofOthers = []string{prefix + "SERVICE_", prefix + "PORT", prefix + "TEST_"}

// Unknown are sentences about the variables of an environment that look like settings and are none, and that no flag of the model reads.
func Unknown(model *kong.Application, environment []string) []string {
	known := variables()
	_ = kong.Visit(model, func(node kong.Visitable, next kong.Next) error { // nothing fails here
		if f, ok := node.(*kong.Flag); ok {
			known = append(known, f.Tag.Envs...)
		}
		return next(nil)
	})
	var out []string
	for _, v := range environment {
		name, value, _ := strings.Cut(v, "=")
		others := slices.ContainsFunc(ofOthers, func(p string) bool { return strings.HasPrefix(name, p) })
		if !strings.HasPrefix(name, prefix) || value == "" || others || slices.Contains(known, name) {
			continue
		}
		s := fmt.Sprintf("the environment variable %s is no setting, and is ignored", name)
		if near := suggest.Nearest(name, known); near != "" {
			s += fmt.Sprintf("; did you mean %s?", near)
		}
		out = append(out, s)
	}
	slices.Sort(out)
	return out
}
