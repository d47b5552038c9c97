package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/suggest"
)

// A Description is a caller as tests and people write it.
type Description struct {
	// Identity is the canonical one, as in broker.Caller.
	Identity string
	// Proof and Listener: empty is the proof that there is of such callers, and services. A Local caller's listener is in its identity.
	Proof, Listener string
	// GID is of a Unix caller; empty: not known.
	GID string
	// Claims are of a JWT caller, each with one value.
	Claims map[string]string
}

// Caller is the caller that is described. It fails for what no caller can be.
func (d Description) Caller() (*broker.Caller, error) {
	identity, via := d.Identity, ""
	if rest, ok := strings.CutPrefix(d.Identity, "via:"); ok {
		if via, identity, _ = strings.Cut(rest, "/"); !broker.IsCredentialName(via) || !strings.HasPrefix(identity, "spiffe:") {
			return nil, errors.New("caller: behind via: is a proxy of the settings and the SPIFFE ID that it forwards, as via:mesh/spiffe://DOMAIN/PATH")
		}
	}
	kind, authority, name, err := parseIdentity(identity)
	if err != nil {
		return nil, err
	}
	proof, listener := proofsOf(kind, via)[0], "services"
	if d.Proof != "" {
		if why := checkProof(kind, via, d.Proof); why != "" {
			return nil, errors.New("proof: " + why)
		}
		proof = broker.Proof(d.Proof)
	}
	switch {
	case kind == broker.Local:
		if listener = name; d.Listener != "" && d.Listener != name {
			return nil, errors.New("listener: it is another one than the caller's; leave it out")
		}
	case d.Listener != "":
		listener = d.Listener
	}
	if !slices.Contains(listeners, listener) {
		return nil, fmt.Errorf("listener: it is none of %s", strings.Join(listeners, ", "))
	}
	c := broker.NewCaller(kind, authority, name, proof, listener)
	if via != "" {
		c = broker.NewForwarded(via, nil, authority, name, listener)
	}
	switch {
	case len(d.Claims) > 0 && kind != broker.JWT:
		return nil, errors.New("claims: they go with jwt; leave them out")
	case kind == broker.JWT:
		c.Attributes = map[string][]string{}
		for name, v := range d.Claims {
			c.Attributes[name] = []string{v}
		}
	}
	switch {
	case kind == broker.Unix:
		c.Attributes = map[string][]string{"uid": {name}}
		if d.GID != "" {
			if !isID(d.GID) {
				return nil, errors.New("gid: a number is wanted, in digits, as 1001")
			}
			c.Attributes["gid"] = []string{d.GID}
		}
	case d.GID != "":
		return nil, errors.New("gid: it goes with unix; leave it out")
	}
	return c, nil
}

// parseIdentity takes an identity apart. It fails for what is none.
func parseIdentity(s string) (kind broker.CallerKind, authority, name string, err error) {
	const forms = "write spiffe://DOMAIN/PATH, dns:CERTIFICATE/NAME, uri:CERTIFICATE/NAME, cn:CERTIFICATE/NAME, jwt:ISSUER/SUB, k8s:ISSUER/NAMESPACE/NAME, unix:UID, local:LISTENER or via:PROXY/spiffe://DOMAIN/PATH"
	word, rest, ok := strings.Cut(s, ":")
	kind = broker.CallerKind(word)
	if !ok || !slices.Contains(kinds, word) {
		why := "caller: it is of no kind that is known; " + forms
		if near := suggest.Nearest(word, kinds); near != "" && near != word {
			why += fmt.Sprintf("; did you mean %q?", near)
		}
		return "", "", "", errors.New(why)
	}
	if kind == broker.SPIFFE {
		if rest, ok = strings.CutPrefix(rest, "//"); !ok {
			return "", "", "", errors.New("caller: a SPIFFE ID begins with spiffe://")
		}
	}
	if hasWildcard(rest) && kind != broker.CommonName {
		return "", "", "", errors.New("caller: one caller is wanted, and no pattern")
	}
	wrong := func(why string) (broker.CallerKind, string, string, error) {
		return "", "", "", errors.New("caller: " + why)
	}
	switch kind {
	case broker.SPIFFE:
		if why := checkSPIFFE(rest); why != "" {
			return wrong(why)
		}
		authority, name, _ = strings.Cut(rest, "/")
		return kind, authority, name, nil
	case broker.Unix:
		if !isID(rest) {
			return wrong("a number of a user is wanted, in digits, as unix:1001")
		}
		return kind, "", rest, nil
	case broker.Local:
		if !slices.Contains(listeners, rest) {
			return wrong("behind local: is one of " + strings.Join(listeners, ", "))
		}
		return kind, "", rest, nil
	case broker.Kubernetes:
		if why := checkServiceAccount(rest); why != "" {
			return wrong(why)
		}
		authority, name, _ = strings.Cut(rest, "/")
		return kind, authority, name, nil
	default:
		authority, name, _ = strings.Cut(rest, "/")
		if name == "" || !broker.IsCredentialName(authority) {
			return wrong(fmt.Sprintf("behind %s: is a trust or an issuer of the settings and a name, as %s:company/NAME", kind, kind))
		}
		if kind == broker.DNS {
			if name = lower(name); checkDNS(name) != "" {
				return wrong(checkDNS(name))
			}
		}
		return kind, authority, name, nil
	}
}
