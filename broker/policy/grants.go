package policy

import (
	"slices"

	"github.com/tokenbroker/tokenbroker/broker"
)

// A Grant is a rule as somebody sees it who looks for rules that are too wide, or idle.
type Grant struct {
	Rule    string
	Callers []Callers
	// Changes: some of its operations change what is stored. AnyCredential: it is for all credentials, whatever their labels; AnyScope: for all scopes.
	Changes, AnyCredential, AnyScope bool
}

// Callers is an entry of those whom a rule names.
type Callers struct {
	// Group is the name of them in the policy.
	Group string
	Kind  broker.CallerKind
	// Authority is the trust domain, the trust or the issuer; empty for Unix and Local. Name is the pattern.
	Authority, Name string
	// Via is the proxy that calls for them, Listener where they have to come in, Proof how they are proven; empty: whichever.
	Via, Listener string
	Proof         broker.Proof
	// Everybody: they are all whom the authority knows, or for Unix and Local all who reach the listener.
	Everybody bool
}

// changing are the operations that change what is stored.
var changing = operationSet(broker.WriteCredential, broker.DeleteCredential, broker.TestCredential, broker.InvalidateAll)

// Grants are the rules of the policy that is loaded, in their order.
func (f *File) Grants() []Grant { return f.policy.Load().Grants() }

// Grants are the rules, in their order.
func (p *Policy) Grants() []Grant {
	out := make([]Grant, 0, len(p.rules))
	for _, r := range p.rules {
		g := Grant{Rule: r.name, Changes: r.operations&changing != 0, AnyCredential: r.names.any && r.labels == nil, AnyScope: r.scopes.any}
		for _, i := range r.callers {
			for _, e := range p.groups[i].entries {
				c := Callers{Group: p.groups[i].name, Kind: e.kind, Authority: e.authority, Name: e.name.String(), Via: e.via, Listener: e.listener, Proof: e.proof}
				c.Everybody = e.everybody()
				if e.kind == broker.Local && len(e.name.all) == 1 {
					c.Listener = e.name.all[0].text
				}
				g.Callers = append(g.Callers, c)
			}
		}
		out = append(out, g)
	}
	return out
}

// everybody reports whether an entry leaves out nobody of its authority.
func (e *entry) everybody() bool {
	if e.gid != "" || len(e.claims) > 0 {
		return false
	}
	return e.kind == broker.Local || e.name.any || slices.ContainsFunc(e.name.all, func(p pattern) bool {
		switch p.text {
		case "**":
			return true
		case "*": // of a sub there may be one segment only
			return p.form == whole || e.kind == broker.JWT
		case "*/*":
			return e.kind == broker.Kubernetes
		}
		return false
	})
}
