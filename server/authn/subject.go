package authn

import (
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tokenbroker/tokenbroker/broker"
)

// What is kept of a token's claims. A claim beyond that is left out as a whole: who has fewer attributes may do less, and never more.
const (
	subjectMost    = 512  // bytes
	spiffeMost     = 2048 // SPIFFE-ID section 2.3
	claimsMost     = 64
	claimNameMost  = 64      // bytes
	claimTextMost  = 512     // bytes, of each text
	claimTextsMost = 64      // of a list
	attributesMost = 4 << 10 // bytes, of all of them
)

// name is what the subject of a token is called, as its issuer may call somebody.
func (i *issuer) name(p *presented) (string, *broker.Failure) {
	sub, ok := p.claims["sub"].(string)
	if !ok || sub == "" {
		return "", errSubject
	}
	switch i.Kind {
	case broker.SPIFFE:
		is, err := spiffeid.FromString(sub)
		if err != nil || len(sub) > spiffeMost || is.String() != sub || is.TrustDomain() != i.domain || is.Path() == "" {
			return "", errSPIFFE
		}
		if p.typ != "" && p.typ != "JWT" && p.typ != "JOSE" { // SPIFFE JWT-SVID section 2.3
			return "", errType
		}
		return strings.TrimPrefix(is.Path(), "/"), nil
	case broker.Kubernetes:
		return account(p.claims, sub)
	default:
		if len(sub) > subjectMost || !plain(broker.JWT, sub) {
			return "", errSubject
		}
		return sub, nil
	}
}

// account is the service account of a cluster's token: NAMESPACE/NAME.
func account(claims map[string]any, sub string) (string, *broker.Failure) {
	rest, ok := strings.CutPrefix(sub, "system:serviceaccount:")
	namespace, name, two := strings.Cut(rest, ":")
	if !ok || !two || !label(namespace) || len(name) > 253 || slices.ContainsFunc(strings.Split(name, "."), func(s string) bool { return !label(s) }) {
		return "", errAccount
	}
	v, there := claims["kubernetes.io"]
	if !there {
		return namespace + "/" + name, nil
	}
	more, ok := v.(map[string]any)
	if !ok {
		return "", errAccount
	}
	if ns, there := more["namespace"]; there && ns != any(namespace) {
		return "", errAccount
	}
	if sa, there := more["serviceaccount"]; there {
		if o, ok := sa.(map[string]any); !ok || o["name"] != any(name) {
			return "", errAccount
		}
	}
	return namespace + "/" + name, nil
}

// label reports whether a text is one of DNS, as namespaces and the parts of other names in a cluster are (RFC 1123).
func label(s string) bool {
	for _, r := range s {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' {
			return false
		}
	}
	return s != "" && len(s) <= 63 && s[0] != '-' && s[len(s)-1] != '-'
}

// attributes are what else a token proves of its subject. Nil: nothing.
func (i *issuer) attributes(p *presented, name string) map[string][]string {
	switch i.Kind {
	case broker.JWT:
		return claimsOf(p.claims)
	case broker.Kubernetes:
		return pod(p.claims, name)
	default: // whoever has an X.509-SVID of the same name is the same
		return nil
	}
}

// claimsOf are the claims that are texts, or lists of them.
func claimsOf(claims map[string]any) map[string][]string {
	out, size := map[string][]string{}, 0
	for _, name := range slices.Sorted(maps.Keys(claims)) { // where not all are kept, the same are each time
		all, ok := textsOf(claims[name])
		if !ok || len(all) == 0 || len(all) > claimTextsMost || !printable(name, claimNameMost) ||
			slices.ContainsFunc(all, func(s string) bool { return !printable(s, claimTextMost) }) {
			continue
		}
		cost := len(name)
		for _, s := range all {
			cost += len(s) + 16 // where it is, and how long: a list of letters takes more than its letters
		}
		if len(out) == claimsMost || size+cost > attributesMost {
			continue
		}
		size += cost
		out[name] = all
	}
	return out
}

// printable reports whether a text is what it looks like, and not too long.
func printable(s string, most int) bool {
	return s != "" && len(s) <= most && !strings.ContainsFunc(s, func(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) })
}

// pod are a service account's attributes: namespace, serviceaccount, and the pod and the node that the token is bound to, with their uids.
func pod(claims map[string]any, name string) map[string][]string {
	namespace, account, _ := strings.Cut(name, "/")
	out := map[string][]string{"namespace": {namespace}, "serviceaccount": {account}}
	more, _ := claims["kubernetes.io"].(map[string]any)
	for _, what := range []string{"serviceaccount", "pod", "node"} {
		o, _ := more[what].(map[string]any)
		for key, as := range map[string]string{"name": what, "uid": what + "_uid"} {
			if s, ok := o[key].(string); ok && printable(s, 253) {
				out[as] = []string{s}
			}
		}
	}
	return out
}
