package authn

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tokenbroker/tokenbroker/broker"
)

// An Issuer is whose JWTs are believed, and which.
type Issuer struct {
	// Name is of the settings. It vouches for the names in its tokens.
	Name string
	// Kind is JWT, Kubernetes, or SPIFFE for JWT-SVIDs.
	Kind broker.CallerKind
	// Issuer is the iss that its tokens have, exactly. Empty for SPIFFE, whose specification gives it no meaning, and for no other.
	Issuer string
	// TrustDomain is whose SPIFFE IDs are believed of it; for SPIFFE, and no other.
	TrustDomain string
	// Audience: a token is for one of them. At least one.
	Audience []string
	// Algorithms are those of JWS (RFC 7518 section 3.1, RFC 8037) that count. Nil: all asymmetric ones, for SPIFFE those of its specification. Which of them a
	// key is for, its type decides, and its own alg: a narrower list guards against nothing but a key of a kind that the issuer is not known to have.
	Algorithms []string
	// JWKSURI or JWKSFile is where its keys are. Both empty: OpenID Connect Discovery, from Issuer.
	JWKSURI, JWKSFile string
	// CAFile has the roots for the issuer's TLS, in PEM. Empty: the system's.
	CAFile string
	// TokenFile has a bearer token to fetch keys with, read anew for each fetch: a pod's own, where the cluster's keys are for those who are known. It is sent to
	// the hosts of Issuer and of JWKSURI, and to no other that discovery names. Empty: none.
	TokenFile string
}

// An issuer is an Issuer that can be right.
type issuer struct {
	Issuer
	domain     spiffeid.TrustDomain
	algorithms map[string]jose.SignatureAlgorithm
	keys       *keys
}

// asymmetric are the algorithms that count where nobody has said which, and all that may. What a secret signs, whoever verifies can sign too.
var asymmetric = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
}

// newIssuer checks what is said of one.
func newIssuer(s Issuer) (*issuer, error) {
	i := &issuer{Issuer: s, algorithms: map[string]jose.SignatureAlgorithm{}}
	wrong := func(format string, args ...any) (*issuer, error) {
		return nil, fmt.Errorf("issuer %s: "+format, append([]any{s.Name}, args...)...)
	}
	if !plain(broker.JWT, s.Name) || strings.ContainsAny(s.Name, "/:") { // it is the first segment of its callers' names
		return nil, fmt.Errorf("issuer %q: its name is not one: letters, digits and hyphens are", s.Name)
	}
	may := asymmetric
	switch s.Kind {
	case broker.JWT, broker.Kubernetes:
		switch {
		case s.Issuer == "":
			return wrong("it has no issuer: name the iss that its tokens have")
		case s.TrustDomain != "":
			return wrong("it has a trust_domain, which SPIFFE has and no other")
		}
	case broker.SPIFFE:
		var err error
		if i.domain, err = spiffeid.TrustDomainFromString(s.TrustDomain); err != nil || i.domain.Name() != s.TrustDomain {
			return wrong("its trust_domain is not one, such as corp.example")
		}
		switch {
		case s.Issuer != "":
			return wrong("it has an issuer, which says nothing in a JWT-SVID: leave it out")
		case s.JWKSURI == "" && s.JWKSFile == "":
			return wrong("nothing says where its keys are: name a jwks_uri or a jwks_file")
		}
		may = slices.DeleteFunc(slices.Clone(asymmetric), func(a jose.SignatureAlgorithm) bool { return a == jose.EdDSA }) // SPIFFE JWT-SVID section 2.1
	default:
		return wrong("there is no such kind: jwt, k8s and spiffe are")
	}
	if len(s.Audience) == 0 || slices.Contains(s.Audience, "") {
		return wrong("it has no audience, or an empty one: name the aud of tokens that are for this broker")
	}
	for _, a := range may {
		if s.Algorithms == nil || slices.Contains(s.Algorithms, string(a)) {
			i.algorithms[string(a)] = a
		}
	}
	for _, a := range s.Algorithms {
		if i.algorithms[a] == "" {
			return wrong("its algorithm %q is none that counts: %s are", a, texts(may))
		}
	}
	if len(i.algorithms) == 0 {
		return wrong("it has no algorithm: name some, or leave them out")
	}
	return i, s.source()
}

// source checks where the keys are said to be.
func (s Issuer) source() error {
	var err error
	switch {
	case s.JWKSURI != "" && s.JWKSFile != "":
		return fmt.Errorf("issuer %s: it has both a jwks_uri and a jwks_file: which counts, nobody has said", s.Name)
	case s.JWKSFile != "" && (s.CAFile != "" || s.TokenFile != ""):
		return fmt.Errorf("issuer %s: it has a jwks_file, and a ca_file or a token_file, which are for fetching", s.Name)
	case s.JWKSFile != "":
	case s.JWKSURI != "":
		if _, err = secure(s.JWKSURI, true); err != nil {
			return fmt.Errorf("issuer %s: its jwks_uri: %w", s.Name, err)
		}
	default:
		var u *url.URL
		if u, err = secure(s.Issuer, true); err == nil && (u.RawQuery != "" || u.ForceQuery) {
			err = errors.New("it has a query")
		}
		if err != nil {
			return fmt.Errorf("issuer %s: its keys cannot be discovered from its issuer: %w; or name a jwks_uri or a jwks_file", s.Name, err)
		}
	}
	return nil
}

// secure reads an address that may be asked for keys: https, and http to this machine where loopback allows it.
func secure(address string, loopback bool) (*url.URL, error) {
	u, err := url.Parse(address)
	if err != nil || u.Hostname() == "" || u.Opaque != "" || strings.ContainsFunc(address, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return nil, errors.New("it is no URL of a host")
	}
	ip, err := netip.ParseAddr(u.Hostname())
	switch {
	case u.User != nil:
		return nil, errors.New("it has a user's name in it")
	case strings.Contains(address, "#"):
		return nil, errors.New("it has a fragment")
	case u.Scheme == "https", u.Scheme == "http" && loopback && err == nil && ip.IsLoopback():
		return u, nil
	}
	return nil, errors.New("it is not https: what comes otherwise may be anybody's")
}

// texts are words of ours, for people.
func texts[T ~string](all []T) string {
	var b strings.Builder
	for i, s := range all {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(string(s))
	}
	return b.String()
}
