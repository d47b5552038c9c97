package operator

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

// difference is what changes, a line each; before nil: everything that a new credential has. A secret is "set" or "changed", never shown.
func difference(before, after *tokenbrokerv1.Credential) []string {
	if before == nil {
		before = &tokenbrokerv1.Credential{Provider: after.GetProvider()}
	}
	var lines []string
	one := func(field, a, b string) {
		a, b = console.Visible(a), console.Visible(b)
		switch {
		case a == b:
		case a == "":
			lines = append(lines, fmt.Sprintf("+ %s: %s", field, b))
		case b == "":
			lines = append(lines, fmt.Sprintf("- %s: %s", field, a))
		default:
			lines = append(lines, fmt.Sprintf("~ %s: %s → %s", field, a, b))
		}
	}
	one("provider", before.GetProvider(), after.GetProvider())
	for _, k := range keysOf(before.GetInputs(), after.GetInputs()) {
		one("inputs."+k, before.GetInputs()[k], after.GetInputs()[k])
	}
	set := map[string]string{}
	for _, s := range before.GetSecrets() {
		set[s.GetName()] = s.GetSetTime().AsTime().String()
	}
	for _, s := range after.GetSecrets() {
		switch was, ok := set[s.GetName()]; {
		case !ok:
			lines = append(lines, fmt.Sprintf("+ secrets.%s: set", s.GetName()))
		case was != s.GetSetTime().AsTime().String():
			lines = append(lines, fmt.Sprintf("~ secrets.%s: changed", s.GetName()))
		}
		delete(set, s.GetName())
	}
	for _, name := range slices.Sorted(maps.Keys(set)) {
		lines = append(lines, fmt.Sprintf("- secrets.%s: removed", name))
	}
	one("default_scopes", strings.Join(before.GetDefaultScopes(), " "), strings.Join(after.GetDefaultScopes(), " "))
	one("default_audience", before.GetDefaultAudience(), after.GetDefaultAudience())
	for _, k := range keysOf(before.GetLabels(), after.GetLabels()) {
		one("labels."+k, before.GetLabels()[k], after.GetLabels()[k])
	}
	one("disabled", fmt.Sprint(before.GetDisabled()), fmt.Sprint(after.GetDisabled()))
	return lines
}

func keysOf(a, b map[string]string) []string {
	all := maps.Clone(a)
	if all == nil {
		all = map[string]string{}
	}
	maps.Copy(all, b)
	return slices.Sorted(maps.Keys(all))
}
