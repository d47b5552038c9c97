package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/yamldoc"
)

var (
	listeners = []string{"services", "operators", broker.Machine}
	kinds     = []string{
		string(broker.SPIFFE), string(broker.DNS), string(broker.URI), string(broker.CommonName), string(broker.JWT), string(broker.Kubernetes), string(broker.Unix), string(broker.Local),
	}
	proofs = []string{string(broker.ProofX509), string(broker.ProofJWT), string(broker.ProofForwarded), string(broker.ProofPeer), string(broker.ProofNone)}
)

// proofsOf are the proofs that there are of a kind, the usual one first; via: of those for whom a proxy calls.
func proofsOf(k broker.CallerKind, via string) []broker.Proof {
	if via != "" && k == broker.SPIFFE {
		return []broker.Proof{broker.ProofForwarded}
	}
	switch k {
	case broker.Unix:
		return []broker.Proof{broker.ProofPeer}
	case broker.Local:
		return []broker.Proof{broker.ProofNone}
	case broker.JWT, broker.Kubernetes:
		return []broker.Proof{broker.ProofJWT}
	case broker.SPIFFE:
		return []broker.Proof{broker.ProofX509, broker.ProofJWT}
	default:
		return []broker.Proof{broker.ProofX509}
	}
}

// anybody is a proxy, whichever it is.
const anybody = "*"

// checkProof says why a proof is none of a kind; empty: it is one.
func checkProof(k broker.CallerKind, via, proof string) string {
	all := proofsOf(k, via)
	if slices.Contains(all, broker.Proof(proof)) {
		return ""
	}
	texts := make([]string, len(all))
	for i, p := range all {
		texts[i] = string(p)
	}
	return fmt.Sprintf("of %s there is %s only", k, strings.Join(texts, " and "))
}

// hasAuthority reports whether callers of a kind are named by a certificate, so that an entry says by which trust.
func hasAuthority(k broker.CallerKind) bool {
	return k == broker.DNS || k == broker.URI || k == broker.CommonName
}

func (r *reader) groups(n *yaml.Node) {
	items := r.Items(n, "callers")
	if n.Kind == yaml.MappingNode && len(n.Content) == 0 {
		r.Wrong(at(n), "callers: there are none; write {NAME: [{spiffe: \"corp.example/ns/shop/sa/*\"}]}")
	}
	for _, it := range items {
		if !r.name(it.At, it.Key, "callers") {
			r.groupsUnknown = true
			continue
		}
		r.byName[it.Key] = len(r.p.groups)
		r.groupNamed = append(r.groupNamed, it.Key)
		r.p.groups = append(r.p.groups, group{name: it.Key, entries: r.entries(it.Value, "callers."+it.Key, false), at: it.At})
	}
}

// entries reads a list of callers.
func (r *reader) entries(n *yaml.Node, what string, mayBeEmpty bool) []entry {
	if mayBeEmpty && n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
		return nil
	}
	var out []entry
	for i, c := range r.list(n, what) {
		if e, ok := r.entry(c, what+"["+strconv.Itoa(i)+"]"); ok {
			out = append(out, e)
		}
	}
	return out
}

func (r *reader) entry(n *yaml.Node, what string) (entry, bool) {
	before := len(r.Problems)
	w := r.Words(n, what, append([]string{"proof", "listener", "certificate", "gid", "sub", "claims", "via"}, kinds...)...)
	if n.Kind != yaml.MappingNode {
		return entry{}, false
	}
	var e entry
	var of item
	for _, k := range kinds {
		it, ok := w[k]
		switch {
		case !ok:
		case e.kind != "":
			r.Wrong(it.At, "%s: a caller is of one kind, and this matches nobody; write an entry for %s and one for %s", what, e.kind, k)
		default:
			e.kind, of = broker.CallerKind(k), it
		}
	}
	if e.kind == "" {
		if len(r.Problems) == before {
			r.Wrong(at(n), "%s: who it is, is missing; write one of %s", what, strings.Join(kinds, ", "))
		}
		return entry{}, false
	}
	if e.kind == broker.JWT {
		r.subject(&e, of.Value, w, n, what)
	} else {
		r.entryName(&e, of.Value, what+"."+of.Key)
		for _, word := range []string{"sub", "claims"} {
			if it, ok := w[word]; ok {
				r.Wrong(it.At, "%s.%s: it goes with jwt; leave it out", what, word)
			}
		}
	}
	it, ok := w["certificate"]
	switch {
	case ok && !hasAuthority(e.kind):
		r.Wrong(it.At, "%s.certificate: it goes with dns, uri and cn; leave it out", what)
	case ok:
		if s, ok := r.Text(it.Value, what+".certificate"); ok && r.name(at(it.Value), s, what+".certificate") {
			e.authority = s
		}
	case hasAuthority(e.kind):
		r.Wrong(at(n), "%s: certificate is missing; write by which trust of the settings it is named, as {certificate: company, %s: …}", what, e.kind)
	}
	e.anyWay = blocks(what) // nobody who is blocked comes in by way of somebody else
	if it, ok := w["via"]; ok {
		if e.kind != broker.SPIFFE {
			r.Wrong(it.At, "%s.via: it goes with spiffe, which is what proxies forward; leave it out", what)
		} else if s, ok := r.Text(it.Value, what+".via"); ok && r.name(at(it.Value), s, what+".via") {
			e.via, e.anyWay = s, false
		}
	}
	if it, ok := w["gid"]; ok {
		if e.kind != broker.Unix {
			r.Wrong(it.At, "%s.gid: it goes with unix; leave it out", what)
		} else if s, ok := r.id(it.Value, what+".gid"); ok {
			e.gid = s
		}
	}
	if it, ok := w["proof"]; ok {
		if s, ok := r.choice(it.Value, what+".proof", proofs); ok {
			e.proof = broker.Proof(s)
			if why := checkProof(e.kind, e.via, s); why != "" && (!e.anyWay || checkProof(e.kind, anybody, s) != "") {
				r.Wrong(at(it.Value), "%s.proof: %s, and this matches nobody", what, why)
			}
		}
	}
	if it, ok := w["listener"]; ok {
		if s, ok := r.choice(it.Value, what+".listener", listeners); ok {
			if e.listener = s; e.kind == broker.Local && len(e.name.all) == 1 && e.name.all[0].text != s {
				r.Wrong(at(it.Value), "%s.listener: it is another one than local says, and this matches nobody; leave it out", what)
			}
		}
	}
	ok = len(r.Problems) == before
	if it := w["sub"]; ok && e.kind == broker.JWT && len(e.claims) == 0 && strings.HasPrefix(e.name.all[0].text, "*") {
		r.Warn(at(it.Value), "%s.sub: it may begin with anything, so that these are all whom the issuer knows: of a public issuer, everybody; begin with what is fixed, or demand claims", what)
	}
	return e, ok
}

// blocks reports whether an entry is one of those that may do nothing.
func blocks(what string) bool { return strings.HasPrefix(what, "blocked[") }

// subject reads who a token is about: its issuer, its sub, and what it claims.
func (r *reader) subject(e *entry, issuer *yaml.Node, w map[string]item, n *yaml.Node, what string) {
	if s, ok := r.Text(issuer, what+".jwt"); ok && r.name(at(issuer), s, what+".jwt") {
		e.authority = s
	}
	if it, ok := w["claims"]; ok && blocks(what) {
		r.Wrong(it.At, "%s.claims: nobody is blocked by what they claim: what is too large or not plain is left out, and a token may be made so; block them by sub", what)
	} else if ok {
		for _, x := range r.Items(it.Value, what+".claims") {
			e.claims = append(e.claims, claim{x.Key, r.values(x.Value, what+".claims."+yamldoc.Clip(x.Key), claimValues)})
			if !slices.Contains(r.p.attributes, x.Key) {
				r.p.attributes = append(r.p.attributes, x.Key)
			}
		}
		if len(e.claims) == 0 {
			r.Wrong(it.At, "%s.claims: there are none; leave the word out", what)
		}
	}
	it, ok := r.need(w, n, what, "sub", `write which subjects of the issuer, as "repo:acme/web:ref:**"`)
	if !ok {
		return
	}
	s, ok := r.Text(it.Value, what+".sub")
	if !ok {
		return
	}
	if p, ok := r.pattern(it.Value, s, what+".sub", subjects); ok {
		e.name.all = []pattern{p}
	}
}

// entryName reads the value of a kind's word.
func (r *reader) entryName(e *entry, n *yaml.Node, what string) {
	s, ok := "", false
	if e.kind == broker.Local {
		s, ok = r.choice(n, what, listeners)
	} else {
		s, ok = r.Text(n, what)
	}
	if !ok {
		return
	}
	d := commonNames
	switch e.kind {
	case broker.SPIFFE:
		d = spiffeIDs
	case broker.DNS:
		d = dnsNames
	case broker.URI:
		d = uriNames
	case broker.Kubernetes:
		d = serviceAccounts
	case broker.Unix:
		if s == "*" {
			e.name.any = true
			r.patterns++
			return
		}
		if s, ok = r.id(n, what); !ok {
			return
		}
	default:
	}
	p, ok := r.pattern(n, s, what, d)
	if !ok {
		return
	}
	if e.kind == broker.SPIFFE || e.kind == broker.Kubernetes { // the trust domain, or the issuer, is no pattern, and compared by itself
		var path string
		e.authority, path, _ = strings.Cut(s, "/")
		p, _ = parsePattern(path, slashes) // it is good with the domain before it
	}
	e.name.all = []pattern{p}
}

// id reads a user's or a group's number.
func (r *reader) id(n *yaml.Node, what string) (string, bool) {
	s, ok := r.Text(n, what)
	if !ok {
		return "", false
	}
	if !isID(s) {
		r.Wrong(at(n), "%s: a number of a user or a group is wanted, in digits, as 1001", what)
		return "", false
	}
	return s, true
}

// isID reports whether a text is the number of a user or a group, as the system writes it.
func isID(s string) bool {
	v, err := strconv.ParseUint(s, 10, 32)
	return err == nil && strconv.FormatUint(v, 10) == s
}
