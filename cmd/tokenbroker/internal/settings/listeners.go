package settings

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/policy"
	"github.com/tokenbroker/tokenbroker/internal/yamldoc"
	"github.com/tokenbroker/tokenbroker/server/authn"
)

// Listeners are for callers who prove who they are, of this machine and of others. They stand in the settings file, and nowhere else.
type Listeners struct {
	// Services has GetToken, Invalidate, WatchToken and health; Operators everything. Nil: there is none.
	Services, Operators *Listener
	// Trust are authorities, Issuers whose JWTs are believed, and Proxies those who call for others, by the names by which listeners name them.
	Trust   map[string]Trust
	Issuers map[string]Issuer
	Proxies map[string]Proxy
}

// A Listener answers those whose certificates one of its trusts vouches for, or whose calls bring tokens of one of its issuers.
type Listener struct {
	Addresses         []string
	CertFile, KeyFile string
	WorkloadAPI       string
	// Trust, Issuers and Proxies are the names of those who are believed.
	Trust, Issuers, Proxies []string
	at                      Position
}

// A Trust is an authority.
type Trust struct {
	authn.Trust
	at Position
}

// An Issuer is who issues JWTs.
type Issuer struct {
	authn.Issuer
	at Position
}

// A Proxy calls for others.
type Proxy struct {
	authn.Proxy
	at Position
}

// The purposes of listeners, as settings, policies and callers have them.
const (
	Services  = "services"
	Operators = "operators"
)

// Named are the listeners that there are, by their purposes.
func (l Listeners) Named() map[string]*Listener {
	all := map[string]*Listener{}
	for name, of := range map[string]*Listener{Services: l.Services, Operators: l.Operators} {
		if of != nil {
			all[name] = of
		}
	}
	return all
}

// Authn are the settings of a listener, for package authn.
func (l Listeners) Authn(name string) authn.Settings {
	of := l.Named()[name]
	s := authn.Settings{Listener: name, CertFile: of.CertFile, KeyFile: of.KeyFile, WorkloadAPI: of.WorkloadAPI, Optional: len(of.Issuers) > 0}
	for _, t := range of.Trust {
		s.Trust = append(s.Trust, l.Trust[t].Trust)
	}
	return s
}

// Tokens are the settings of a listener's issuers, for package authn. Without any, callers bring no tokens.
func (l Listeners) Tokens(name string) authn.TokenSettings {
	s := authn.TokenSettings{Listener: name}
	for _, i := range l.Named()[name].Issuers {
		s.Issuers = append(s.Issuers, l.Issuers[i].Issuer)
	}
	return s
}

// Forwarders are a listener's proxies, for package authn.
func (l Listeners) Forwarders(name string) (*authn.Proxies, error) {
	var all []authn.Proxy
	for _, p := range l.Named()[name].Proxies {
		all = append(all, l.Proxies[p].Proxy)
	}
	return authn.NewProxies(name, all)
}

// names are the words of Trust that say which names are believed, by the kind.
var names = map[string]broker.CallerKind{"dns": broker.DNS, "uri": broker.URI, "cn": broker.CommonName}

// listener reads one.
func (r *settingsReader) listener(n *yaml.Node, what string) *Listener {
	l := &Listener{at: Position{r.File, yamldoc.At(n)}}
	words := r.Words(n, what, "listen", "cert_file", "key_file", "workload_api", "trust", "issuers", "proxies")
	text := func(word string, to *string) {
		if it, ok := words[word]; ok {
			*to = r.oneText(it, what+"."+word)
		}
	}
	text("cert_file", &l.CertFile)
	text("key_file", &l.KeyFile)
	text("workload_api", &l.WorkloadAPI)
	list := func(word string, to *[]string) {
		if it, ok := words[word]; ok {
			*to = r.texts(it.Value, what+"."+word)
		}
	}
	list("listen", &l.Addresses)
	list("trust", &l.Trust)
	list("issuers", &l.Issuers)
	list("proxies", &l.Proxies)
	return l
}

// issuerKinds are the words of Issuer that say whose tokens they are, by the kind of callers that those make.
var issuerKinds = map[string]broker.CallerKind{"issuer": broker.JWT, "kubernetes": broker.Kubernetes, "trust_domain": broker.SPIFFE}

// issuers reads all of them.
func (r *settingsReader) issuers(n *yaml.Node) map[string]Issuer {
	all := map[string]Issuer{}
	for _, it := range r.Items(n, "issuers") {
		what := "issuers." + yamldoc.Clip(it.Key)
		i := Issuer{Issuer: authn.Issuer{Name: it.Key}, at: Position{r.File, it.At}}
		words := r.Words(it.Value, what, "issuer", "kubernetes", "trust_domain", "audience", "algorithms", "jwks_uri", "jwks_file", "ca_file", "token_file")
		said := 0
		for word, kind := range issuerKinds {
			if w, ok := words[word]; ok {
				i.Kind = kind
				if said++; kind == broker.SPIFFE {
					i.TrustDomain = r.oneText(w, what+"."+word)
				} else {
					i.Issuer.Issuer = r.oneText(w, what+"."+word)
				}
			}
		}
		for word, to := range map[string]*string{"jwks_uri": &i.JWKSURI, "jwks_file": &i.JWKSFile, "ca_file": &i.CAFile, "token_file": &i.TokenFile} {
			if w, ok := words[word]; ok {
				*to = r.oneText(w, what+"."+word)
			}
		}
		for word, to := range map[string]*[]string{"audience": &i.Audience, "algorithms": &i.Algorithms} {
			if w, ok := words[word]; ok {
				*to = r.texts(w.Value, what+"."+word)
			}
		}
		r.named(it, what)
		if said != 1 {
			r.Wrong(it.At, "%s: say once whose tokens they are: issuer, kubernetes or trust_domain", what)
		}
		all[it.Key] = i
	}
	return all
}

// proxies reads all of them.
func (r *settingsReader) proxies(n *yaml.Node) map[string]Proxy {
	all := map[string]Proxy{}
	for _, it := range r.Items(n, "proxies") {
		what := "proxies." + yamldoc.Clip(it.Key)
		p := Proxy{Proxy: authn.Proxy{Name: it.Key}, at: Position{r.File, it.At}}
		words := r.Words(it.Value, what, "callers", "forwards", "through")
		for word, to := range map[string]*[]string{"callers": &p.Callers, "forwards": &p.Forwards} {
			if w, ok := words[word]; ok {
				*to = r.texts(w.Value, what+"."+word)
			} else {
				r.Wrong(it.At, "%s.%s: it is missing", what, word)
			}
		}
		if w, ok := words["through"]; ok {
			p.Through = r.texts(w.Value, what+".through")
		}
		r.named(it, what)
		all[it.Key] = p
	}
	return all
}

// named checks the name of an authority, an issuer or a proxy.
func (r *settingsReader) named(it yamldoc.Item, what string) {
	if !broker.IsCredentialName(it.Key) || strings.Contains(it.Key, "/") {
		r.Wrong(it.At, "%s: a name %s", what, broker.NameForm)
	}
}

// trusts reads all of them.
func (r *settingsReader) trusts(n *yaml.Node) map[string]Trust {
	all := map[string]Trust{}
	for _, it := range r.Items(n, "trust") {
		what := "trust." + yamldoc.Clip(it.Key)
		t := Trust{Trust: authn.Trust{Name: it.Key}, at: Position{r.File, it.At}}
		words := r.Words(it.Value, what, "ca_file", "crl_file", "trust_domain", "dns", "uri", "cn")
		if w, ok := words["ca_file"]; ok {
			t.CAFile = r.oneText(w, what+".ca_file")
		}
		if w, ok := words["crl_file"]; ok {
			t.CRLFile = r.oneText(w, what+".crl_file")
		}
		said := 0
		if w, ok := words["trust_domain"]; ok {
			t.TrustDomain = r.oneText(w, what+".trust_domain")
			said++
		}
		for _, word := range slices.Sorted(maps.Keys(names)) {
			if w, ok := words[word]; ok {
				t.Kind, t.Names = names[word], r.texts(w.Value, what+"."+word)
				said++
			}
		}
		r.named(it, what)
		switch {
		case said != 1:
			r.Wrong(it.At, "%s: say once which names are believed of it: trust_domain, dns, uri or cn", what)
		case t.CAFile == "" && t.TrustDomain == "":
			r.Wrong(it.At, "%s.ca_file: it is missing", what)
		}
		all[it.Key] = t
	}
	return all
}

// texts is a list of texts, of which there is one at least, and none is blank.
func (r *settingsReader) texts(n *yaml.Node, what string) []string {
	all := r.Texts(n, what)
	if n.Kind == yaml.SequenceNode && len(n.Content) == 0 || slices.ContainsFunc(all, isBlank) {
		r.Wrong(yamldoc.At(n), "%s: %s", what, errEmpty)
	}
	return all
}

// oneText is a text that is no number, no switch and not empty.
func (r *settingsReader) oneText(it yamldoc.Item, what string) string {
	s, ok := r.Text(it.Value, what)
	switch {
	case !ok:
	case isBlank(s) || it.Value.Tag != "!!str":
		r.Wrong(yamldoc.At(it.Value), "%s: a text is wanted", what)
	case (strings.HasSuffix(what, "_file") || strings.HasSuffix(what, ".workload_api")) && !isPath(s):
		r.Wrong(yamldoc.At(it.Value), "%s: %s", what, errPath)
	}
	return s
}

// listenerProblems are what is wrong with the listeners and with the policy, which belong together. Files are read.
func (s *Settings) listenerProblems(wrong *[]yamldoc.Problem) {
	bad := func(at Position, word, format string, args ...any) {
		p := at.Problem("setting %s: %s", word, fmt.Sprintf(format, args...))
		p.Word = word
		*wrong = append(*wrong, p)
	}
	used := map[string]bool{} // by word and name
	all := s.Named()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		l := all[name]
		before := len(*wrong)
		if len(l.Addresses) == 0 {
			bad(l.at, name+".listen", "there is nothing to listen on")
		}
		for _, a := range l.Addresses {
			checkAddress(name+".listen", a, func(setting, format string, args ...any) { bad(l.at, setting, format, args...) })
		}
		switch files := l.CertFile != "" || l.KeyFile != ""; {
		case files && l.WorkloadAPI != "":
			bad(l.at, name+".workload_api", "there are cert_file and key_file as well: leave out one or the other")
		case files && (l.CertFile == "" || l.KeyFile == ""):
			bad(l.at, name+"."+cmp.Or(map[bool]string{l.CertFile == "": "cert_file"}[true], "key_file"), "it is missing: a certificate and its key belong together")
		case !files && l.WorkloadAPI == "":
			bad(l.at, name, "callers have to know whom they reach: give cert_file and key_file, or workload_api")
		}
		if len(l.Trust)+len(l.Issuers) == 0 {
			bad(l.at, name+".trust", "nobody is trusted: name one of the authorities under trust, or of the issuers under issuers")
		}
		for _, of := range []struct {
			word  string
			names []string
			there func(string) bool
		}{
			{"issuers", l.Issuers, func(t string) bool { _, ok := s.Issuers[t]; return ok }},
			{"proxies", l.Proxies, func(t string) bool { _, ok := s.Proxies[t]; return ok }},
			{"trust", l.Trust, func(t string) bool { _, ok := s.Trust[t]; return ok }},
		} {
			for i, t := range of.names {
				if used[of.word+"."+t] = true; slices.Contains(of.names[:i], t) {
					bad(l.at, name+"."+of.word, "one is there twice")
				}
				if !of.there(t) {
					bad(l.at, name+"."+of.word, "there is none of this name under %s", of.word)
				}
			}
		}
		domains := map[string]string{} // the trust of each
		for _, t := range l.Trust {
			of := s.Trust[t]
			if of.TrustDomain == "" {
				continue
			}
			if of.CAFile == "" && l.WorkloadAPI == "" {
				bad(of.at, "trust."+t+".ca_file", "it is missing, and %s has no workload_api", name)
			}
			if other, ok := domains[of.TrustDomain]; ok && other != t {
				bad(of.at, "trust."+t+".trust_domain", "%s has %s for the same one: whoever both vouch for is let in by neither; have one of them, whose ca_file may have several authorities", name, other)
			}
			domains[of.TrustDomain] = t
		}
		if len(*wrong) > before {
			continue
		}
		if len(l.Issuers) > 0 {
			if _, err := authn.NewTokens(s.Tokens(name)); err != nil {
				bad(l.at, name+".issuers", "%s", err)
				continue
			}
		}
		if _, err := s.Forwarders(name); err != nil {
			bad(l.at, name+".proxies", "%s", err)
			continue
		}
		if l.WorkloadAPI != "" { // an agent is asked when the broker starts
			continue
		}
		a, err := authn.New(context.Background(), s.Authn(name))
		if err != nil {
			bad(l.at, name, "%s", err)
			continue
		}
		a.Close()
	}
	there := map[string]Position{}
	for name, t := range s.Trust {
		there["trust."+name] = t.at
	}
	for name, i := range s.Issuers {
		there["issuers."+name] = i.at
	}
	for name, p := range s.Proxies {
		there["proxies."+name] = p.at
	}
	for _, word := range slices.Sorted(maps.Keys(there)) {
		if !used[word] {
			bad(there[word], yamldoc.Clip(word), "no listener names it")
		}
	}
	switch {
	case s.PolicyFile != "":
		if _, err := policy.New(s.PolicyFile, nil); err != nil {
			p := s.At["policy-file"].Problem("setting policy_file: %s", err)
			p.Word = "policy_file"
			*wrong = append(*wrong, p)
		}
	case len(all) > 0:
		first := all[slices.Sorted(maps.Keys(all))[0]]
		bad(first.at, "policy_file", "it is missing: without a policy callers of these listeners are allowed nothing")
	}
}

// checkAddress checks host:port of any machine's.
func checkAddress(setting, a string, bad func(setting, format string, args ...any)) {
	switch host, port, err := net.SplitHostPort(a); {
	case err != nil:
		bad(setting, "it is not host:port")
	case host != "" && host != "localhost" && net.ParseIP(host) == nil:
		bad(setting, "a name may stand for any address: write the address, or none before the colon for all of this machine's")
	case !isPort(port):
		bad(setting, "a port is a number up to 65535; 0 is one that is free")
	}
}
