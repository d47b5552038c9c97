package engine

import (
	"log/slog"
	"maps"
	"slices"
	"strings"

	"github.com/tokenbroker/tokenbroker/broker"
)

// ChangeMessage is the message of the line that says that somebody has changed a credential: one for each change, at the level info. It has names
// of what was changed and no values.
const ChangeMessage = "credential changed"

// logChange says who has changed what of a credential. fields are what differs from before; none: all is new, or gone.
func (b *Broker) logChange(by *broker.Caller, how broker.AuditEvent, c broker.Credential, fields []string) {
	attrs := []slog.Attr{slog.String("change", changes[how]), slog.String("credential", string(c.Name))}
	if c.Provider != "" {
		attrs = append(attrs, slog.String("provider", c.Provider))
	}
	attrs = append(attrs, slog.String("caller", by.String()))
	if len(fields) > 0 {
		attrs = append(attrs, slog.String("fields", strings.Join(fields, ", ")))
	}
	b.log.LogAttrs(b.stopping, slog.LevelInfo, ChangeMessage, attrs...)
}

// changes are the words of that log.
var changes = map[broker.AuditEvent]string{
	broker.AuditCreated: "created", broker.AuditUpdated: "updated", broker.AuditDeleted: "deleted", broker.AuditRotated: "secret rotated",
	broker.AuditRetired: "former secret forgotten", broker.AuditAccepted: "destinations accepted",
}

// differing names what differs between a credential as it was and as it is.
func differing(was, is broker.Credential) []string {
	var out []string
	add := func(differs bool, name string) {
		if differs {
			out = append(out, name)
		}
	}
	add(was.Provider != is.Provider, "provider")
	out = append(out, keysOf("inputs", was.Inputs, is.Inputs, func(a, b string) bool { return a == b })...)
	out = append(out, keysOf("secrets", was.Secrets, is.Secrets, func(a, b broker.SecretInput) bool {
		return a.Value.Equal(b.Value) && a.Former.Equal(b.Former) && a.FormerUntil.Equal(b.FormerUntil)
	})...)
	out = append(out, keysOf("secrets", was.Seeds, is.Seeds, func(a, b broker.Seed) bool { return a == b })...)
	add(was.DefaultScopes != is.DefaultScopes, "default_scopes")
	add(was.DefaultAudience != is.DefaultAudience, "default_audience")
	out = append(out, keysOf("labels", was.Labels, is.Labels, func(a, b string) bool { return a == b })...)
	add(was.Disabled != is.Disabled, "disabled")
	add(!slices.Equal(was.Destinations, is.Destinations), "destinations")
	return out
}

// keysOf names what one of the maps has otherwise than the other.
func keysOf[V any](what string, was, is map[string]V, same func(a, b V) bool) []string {
	all := maps.Clone(was)
	if all == nil {
		all = map[string]V{}
	}
	maps.Copy(all, is)
	var out []string
	for _, k := range slices.Sorted(maps.Keys(all)) {
		a, before := was[k]
		b, after := is[k]
		if before != after || !same(a, b) {
			out = append(out, what+"."+k)
		}
	}
	return out
}

// writtenOut are destinations as people read them.
func writtenOut(all []broker.Destination) string {
	var out []string
	for _, d := range all {
		out = append(out, string(d.Use)+" "+d.Place)
	}
	return strings.Join(out, "; ")
}
