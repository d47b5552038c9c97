package authn

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/jsondoc"
)

const (
	// keysMost bounds the keys of a set.
	keysMost = 100
	// RSA keys have so many bits: shorter ones can be broken, and a longer one makes each bad token dear.
	rsaLeast, rsaMost = 2048, 8192
)

// A fingerprint is of a key and of what it is for.
type fingerprint = [sha256.Size]byte

// A key of an issuer. Immutable.
type key struct {
	id     fingerprint
	kid    string // empty: it has none
	alg    string // what it is for; empty: whatever fits its type
	public any    // *rsa.PublicKey, *ecdsa.PublicKey or ed25519.PublicKey
}

// A keySet is what an issuer signs with. Immutable.
type keySet struct {
	keys   []*key
	has    map[fingerprint]bool
	digest fingerprint // of all of it, whatever the order
}

// parseKeys reads a JWK Set (RFC 7517 section 5), or the bundle of a trust domain (SPIFFE Trust Domain and Bundle, section 4). Keys that are not usable are
// passed over, as the RFC wants it; skipped says which, and why. A set with no key that is usable is one all the same: an issuer whose key has leaked takes
// it out, whether or not it has another one.
func parseKeys(data []byte, kind broker.CallerKind) (set *keySet, skipped []string, err error) {
	doc, err := jsondoc.Read(data)
	if err != nil {
		return nil, nil, fmt.Errorf("the key set cannot be read: %w", err)
	}
	o, _ := doc.(map[string]any)
	all, ok := o["keys"].([]any)
	if !ok {
		return nil, nil, errors.New("the key set has no list of keys")
	}
	if len(all) > keysMost {
		return nil, nil, fmt.Errorf("the key set has %d keys, and may have %d", len(all), keysMost)
	}
	set = &keySet{has: map[fingerprint]bool{}}
	for n, v := range all {
		o, ok := v.(map[string]any)
		if !ok {
			return nil, nil, errors.New("the key set has something in it that is no key")
		}
		k, why := parseKey(o, kind)
		switch {
		case why != "":
			kid, _ := o["kid"].(string)
			skipped = append(skipped, fmt.Sprintf("key %d %.64q: %s", n+1, kid, why))
		case k != nil && !set.has[k.id]:
			set.has[k.id] = true
			set.keys = append(set.keys, k)
		}
	}
	ids := make([]string, 0, len(set.keys))
	for _, k := range set.keys {
		ids = append(ids, string(k.id[:]))
	}
	slices.Sort(ids)
	set.digest = sha256.Sum256([]byte(strings.Join(ids, "")))
	return set, skipped, nil
}

// parseKey reads one key. Neither a key nor a reason: it is for something else, which is nobody's fault.
func parseKey(o map[string]any, kind broker.CallerKind) (*key, string) {
	for _, secret := range []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k"} {
		if _, there := o[secret]; there {
			return nil, "it is secret, and was shown: whoever has read it can sign with it"
		}
	}
	use, ok := optional(o, "use")
	switch {
	case !ok:
		return nil, "its use is no text"
	case use == "", use == "sig", use == "jwt-svid" && kind == broker.SPIFFE:
	case use == "enc", use == "x509-svid":
		return nil, ""
	default:
		return nil, "its use is not known"
	}
	if v, there := o["key_ops"]; there {
		ops, ok := textsOf(v)
		if _, list := v.([]any); !ok || !list {
			return nil, "its key_ops are no list of texts"
		}
		if !slices.Contains(ops, "verify") {
			return nil, ""
		}
	}
	for _, name := range []string{"kid", "alg"} {
		if _, ok := optional(o, name); !ok {
			return nil, "its " + name + " is no text"
		}
	}
	k := &key{}
	k.kid, _ = optional(o, "kid")
	k.alg, _ = optional(o, "alg")
	only := map[string]any{} // what else it says, such as x5c, is not looked at
	for _, name := range []string{"kty", "crv", "n", "e", "x", "y"} {
		if v, there := o[name]; there {
			only[name] = v
		}
	}
	text, err := json.Marshal(only)
	if err != nil {
		return nil, "it cannot be read"
	}
	var jwk jose.JSONWebKey
	if err := jwk.UnmarshalJSON(text); err != nil {
		return nil, "it is of no type that is known here, or damaged"
	}
	switch p := jwk.Key.(type) {
	case *rsa.PublicKey:
		if bits := p.N.BitLen(); bits < rsaLeast || bits > rsaMost || p.N.Bit(0) == 0 || p.E < 3 || p.E&1 == 0 || p.E > 1<<31-1 {
			return nil, fmt.Sprintf("it is an RSA key of %d bits, or has an exponent that none has: %d to %d bits are wanted", bits, rsaLeast, rsaMost)
		}
	case *ecdsa.PublicKey, ed25519.PublicKey:
	default:
		return nil, "it is of no type that signs"
	}
	k.public = jwk.Key
	if k.alg == "Ed25519" { // RFC 9864 section 2.2: the same by a newer name
		k.alg = string(jose.EdDSA)
	}
	if !slices.ContainsFunc(asymmetric, k.fits) {
		return nil, "its alg does not fit its type"
	}
	der, err := x509.MarshalPKIXPublicKey(k.public)
	if err != nil {
		return nil, "it cannot be read"
	}
	k.id = sha256.Sum256(fmt.Appendf(nil, "%q %q %s", k.kid, k.alg, der))
	return k, ""
}

// fits reports whether an algorithm is one of the key's.
func (k *key) fits(alg jose.SignatureAlgorithm) bool {
	if k.alg != "" && k.alg != string(alg) {
		return false
	}
	switch p := k.public.(type) {
	case *rsa.PublicKey:
		return strings.HasPrefix(string(alg), "RS") || strings.HasPrefix(string(alg), "PS")
	case *ecdsa.PublicKey:
		return alg == jose.ES256 && p.Curve == elliptic.P256() || alg == jose.ES384 && p.Curve == elliptic.P384() || alg == jose.ES512 && p.Curve == elliptic.P521()
	case ed25519.PublicKey:
		return alg == jose.EdDSA
	}
	return false
}

// triesMost bounds the keys that a token is held against: each costs as much as a good token does. A token has to name its key where there are several
// (OpenID Connect Core 1.0 section 10.1); a former one and its successor are tried where it does not.
const triesMost = 2

// find says which key of the set has signed a token. A nil set has none. unknown: another set might have the key.
func (s *keySet) find(token string, p *presented, alg jose.SignatureAlgorithm) (by *key, unknown bool, why *broker.Failure) {
	if s == nil {
		return nil, true, errKey
	}
	var fit []*key
	named := false
	for _, k := range s.keys {
		if p.kid != "" && k.kid != p.kid {
			continue
		}
		named = true
		if k.fits(alg) {
			fit = append(fit, k)
		}
	}
	switch {
	case p.kid != "" && !named:
		return nil, true, errKey
	case p.kid != "" && len(fit) == 0:
		return nil, false, errFits
	case len(fit) == 0:
		return nil, true, errKey
	case len(fit) > triesMost:
		return nil, false, errNoKid
	}
	signed, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{alg})
	if err != nil {
		return nil, false, errHeader
	}
	for _, k := range fit {
		if _, err := signed.Verify(k.public); err == nil {
			return k, false, nil
		}
	}
	return nil, p.kid == "", errSignature
}
