package policy

import (
	"slices"

	"github.com/tokenbroker/tokenbroker/broker"
)

// A Policy is what a file says. Immutable, and safe for concurrent use.
type Policy struct {
	groups  []group
	blocked []entry
	rules   []*rule
	tests   []test
	// attributes are the names of those that entries look at.
	attributes []string
	views      views
}

// Decide decides as broker.Authorizer says. Rules have no order and never add up: one of them covers the whole access, or none does. Where several
// do, the one of the highest rate counts, and of these the first of the file.
//
//   - Nobody, and who is blocked, is denied everything.
//   - broker.ReadProvider is decided by caller and operation alone, whatever the credential.
//   - An access to no credential is Denied, but for broker.ReadCredential, a list: it Depends, because each credential of the list is decided by
//     itself, where some rule grants the operation to the caller at all.
//   - Unread: labels may be anything. What the caller chose stays chosen, but its text may not: definitions cut affixes off and split scopes, and
//     defaults may be added. So it is Allowed only where a rule takes any selection and any labels, and Denied where no rule has caller, operation and name,
//     or each leaves out what is chosen.
//   - Missing: rules with labels do not count. Of the selection only what the caller chose is held against the others: who is allowed a name, whatever its
//     labels are, may know that there is none.
func (p *Policy) Decide(a broker.Access) broker.Decision {
	if a.Caller == nil {
		return broker.Decision{}
	}
	q := ask(a)
	best := broker.Decision{}
	var depends []broker.Rate
	for _, r := range p.viewOf(a.Caller).rules { // who is blocked has none
		effect, _ := r.decide(&q)
		if best = r.better(best, effect, a.Operation); best.Effect == broker.Allowed && best.Rate == (broker.Rate{}) {
			return best
		}
		if effect == broker.Depends && a.Operation == broker.GetToken {
			depends = append(depends, r.rate)
		}
	}
	best.More = best.Effect == broker.Allowed && slices.ContainsFunc(depends, func(r broker.Rate) bool { return r.Beyond(best.Rate) })
	return best
}

// better is the decision by the rule, if it is better than one by others.
func (r *rule) better(than broker.Decision, effect broker.Effect, op broker.Operation) broker.Decision {
	is := broker.Decision{Effect: effect}
	if effect == broker.Allowed {
		is.Rule = r.name
		if op == broker.GetToken {
			is.Rate = r.rate
		}
	}
	if effect > than.Effect || effect == broker.Allowed && is.Rate.Beyond(than.Rate) {
		return is
	}
	return than
}

// operations is a set of them, a bit each.
type operations uint16

var operationList = broker.Operations()

func operationSet(all ...broker.Operation) (s operations) {
	for _, o := range all {
		if i := slices.Index(operationList, o); i >= 0 {
			s |= 1 << i
		}
	}
	return s
}
