package doctor

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/policy"
	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/settings"
)

// policy looks at who may do what.
func (r *Report) policy(b Broker) {
	s := &b.Settings
	for _, name := range slices.Sorted(maps.Keys(s.Proxies)) {
		for _, p := range s.Proxies[name].Forwards {
			if _, path, _ := strings.Cut(p, "/"); path == "**" {
				r.found(ProxyWide, "the proxy %s may call for everybody of %s (proxies.%s.forwards)", name, p, name)
			}
		}
	}
	if b.Policy == nil {
		if len(b.TCP) > 0 {
			r.found(PolicyNone, "there is no policy, and the broker answers on %s", strings.Join(b.TCP, ", "))
		}
		r.looked("policy: there is none")
		return
	}
	if b.Policy.Status.Problem != nil {
		r.found(PolicyStale, "the policy's file %s is not the one that is in force (%s)", s.PolicyFile, b.Policy.Status.Digest)
	}
	for _, g := range b.Policy.Grants {
		r.grant(s, g)
	}
	r.looked("policy %s, with %d rules", b.Policy.Status.Digest, len(b.Policy.Grants))
}

func (r *Report) grant(s *settings.Settings, g policy.Grant) {
	wide := g.AnyCredential && (g.Changes || g.AnyScope)
	nobody, why := true, ""
	for _, c := range g.Callers {
		if w := unreachable(s, c); w != "" {
			why = cmp.Or(why, w)
			continue
		}
		nobody = false
		if !c.Everybody || c.Kind == broker.Unix { // the socket lets in the broker's user and root alone
			continue
		}
		switch {
		case wide:
			r.found(PolicyWide, "rule %s of the policy lets %s use all credentials%s", g.Rule, whose(c), with(g))
		case c.Kind != broker.Local:
			r.found(PolicyEverybody, "rule %s of the policy is for %s", g.Rule, whose(c))
		}
	}
	if nobody {
		r.found(PolicyNobody, "rule %s of the policy can match nobody: %s", g.Rule, why)
	}
}

func with(g policy.Grant) string {
	switch {
	case g.Changes && g.AnyScope:
		return " with any scopes, and change them"
	case g.Changes:
		return ", and change them"
	default:
		return " with any scopes"
	}
}

// whose are the callers of an entry that leaves out nobody.
func whose(c policy.Callers) string {
	group := " (callers." + c.Group + ")"
	switch c.Kind {
	case broker.Local:
		return "whoever is on this machine" + group
	case broker.JWT, broker.Kubernetes:
		return "everybody whom the issuer " + c.Authority + " knows" + group
	case broker.SPIFFE:
		return "everybody of the trust domain " + c.Authority + group
	default:
		return "everybody for whom the trust " + c.Authority + " vouches" + group
	}
}

// unreachable says why nobody can be such a caller at this broker; empty: somebody may be.
func unreachable(s *settings.Settings, c policy.Callers) string {
	doors := s.Named()
	at := func(l *settings.Listener) bool {
		switch {
		case c.Via != "" && !slices.Contains(l.Proxies, c.Via):
			return false
		case c.Kind == broker.SPIFFE:
			return c.Proof != broker.ProofJWT && slices.ContainsFunc(l.Trust, func(t string) bool { return s.Trust[t].TrustDomain == c.Authority }) ||
				c.Proof != broker.ProofX509 && slices.ContainsFunc(l.Issuers, func(i string) bool { return s.Issuers[i].TrustDomain == c.Authority }) ||
				c.Via != "" // whom it forwards is its own
		case c.Kind == broker.JWT, c.Kind == broker.Kubernetes:
			return slices.Contains(l.Issuers, c.Authority) && s.Issuers[c.Authority].Kind == c.Kind
		default:
			return slices.Contains(l.Trust, c.Authority) && s.Trust[c.Authority].Kind == c.Kind && mayBe(s.Trust[c.Authority], c.Name)
		}
	}
	switch c.Kind {
	case broker.Unix:
		if s.SocketPath() == "" {
			return "there is no socket"
		}
		return ""
	case broker.Local:
		if len(s.Listen) == 0 {
			return "the broker does not listen on this machine"
		}
		return ""
	default:
	}
	for name, l := range doors {
		if (c.Listener == "" || c.Listener == name) && at(l) {
			return ""
		}
	}
	return "no listener of the settings lets in the callers of " + c.Group + " (" + string(c.Kind) + " " + strings.Trim(c.Authority+"/"+c.Name, "/") + ")"
}

// mayBe reports whether an authority may vouch for a name. Of a pattern nobody knows.
func mayBe(t settings.Trust, name string) bool {
	if strings.ContainsAny(name, "*") {
		return true
	}
	names, err := policy.ParseNames(t.Kind, t.Names)
	return err != nil || names.Match(name)
}
