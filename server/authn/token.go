package authn

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tokenbroker/tokenbroker/broker"
)

const (
	// tokenMost bounds a token, in bytes.
	tokenMost = 8 << 10
	// depthMost bounds the nesting of its header and its claims.
	depthMost = 16
	// valuesMost bounds the members and items of each: what is read before anything is proven costs no more than a signature.
	valuesMost = 512
	// leeway is how far the issuer's clock may be before ours (nbf, iat). For exp there is none: what has ended by our clock has ended, and
	// Authenticated.Until says the same.
	leeway = time.Minute
	// latest is the end of the year 9999, in seconds: what is later is no time.
	latest = 253402300799
)

// refusal is what is wrong with a token. None of them quotes anything of it.
func refusal(detail string) *broker.Failure {
	return &broker.Failure{Kind: broker.CallerUnauthenticated, Detail: detail}
}

var (
	errLong      = refusal("the token is longer than 8 KiB, which none may be here")
	errNoJWT     = refusal("the token is no JWT: three parts in base64url are wanted, with dots between them and nothing else (RFC 7515 section 7.1)")
	errEncrypted = refusal("the token is encrypted (JWE): a signed one is wanted")
	errUnsigned  = refusal("the token is not signed")
	errHeader    = refusal("the token's header cannot be read: a JSON object is wanted, with each member once, and alg and kid as texts")
	errExtension = refusal("the token's header has a member that changes what the token means (crit, b64, enc, zip), or brings a key (jwk, x5c): neither counts here")
	errType      = refusal("the token's header says that it is no token for this (typ): JWT, at+jwt or none is wanted")
	errClaims    = refusal("the token's claims cannot be read: a JSON object is wanted, with each member once, not nested deeply, and not of hundreds of values")
	errIssuer    = refusal("nobody here trusts the token's issuer: compare its iss with the broker's settings, to the letter")
	errAlgorithm = refusal("the token is signed with an algorithm that does not count for its issuer here")
	errEnd       = refusal("the token does not say when it ends: exp has to be there, as a number of seconds")
	errTimes     = refusal("the token's nbf or iat is no time: a number of seconds is wanted")
	errOver      = refusal("the token has ended: get another")
	errEarly     = refusal("the token does not count yet (nbf, iat): wait, or compare the clocks of issuer and broker")
	errAudience  = refusal("the token says nothing of whom it is for, or not as it should: aud has to be a text, or a list of them")
	errForOthers = refusal("the token is for another audience: ask its issuer for one for tokenbroker")
	errSubject   = refusal("the token's sub is not there, or is no name that a caller may have here")
	errAccount   = refusal("the token is of no service account: sub has to be system:serviceaccount:NAMESPACE:NAME, and the kubernetes.io claim has to say the same")
	errSPIFFE    = refusal("the token's sub is no SPIFFE ID of a workload in the trust domain")
	errKey       = refusal("the token is signed by a key that its issuer does not have, or not any more: get another, and if that is refused too, look at whose it is")
	errNoKid     = refusal("the token does not say by which of its issuer's keys it is signed (kid), and there are too many to try")
	errSignature = refusal("the token's signature is wrong: it is not as its issuer made it, or not of this issuer")
	errFits      = refusal("the token's algorithm does not fit the key that its header names")
)

// A presented is a token that somebody brought, as it can be read. Nothing of it is proven.
type presented struct {
	alg, kid string
	typ      string
	claims   map[string]any
}

// parse reads a token, strictly, and looks at nothing that stands in its claims.
func parse(token string) (*presented, *broker.Failure) {
	if len(token) > tokenMost {
		return nil, errLong
	}
	head, rest, _ := strings.Cut(token, ".")
	body, signature, three := strings.Cut(rest, ".")
	switch {
	case !three || head == "" || body == "":
		return nil, errNoJWT
	case strings.Count(signature, ".") == 2:
		return nil, errEncrypted
	case signature == "":
		return nil, errUnsigned
	}
	h, ok := object(head)
	if !ok {
		return nil, errHeader
	}
	for _, bad := range []string{"crit", "b64", "enc", "zip", "jwk", "x5c"} { // what is at jku and x5u is left there: nobody looks
		if _, there := h[bad]; there {
			return nil, errExtension
		}
	}
	p := &presented{}
	if p.alg, ok = h["alg"].(string); !ok {
		return nil, errHeader
	}
	if p.kid, ok = optional(h, "kid"); !ok {
		return nil, errHeader
	}
	if p.typ, ok = optional(h, "typ"); !ok {
		return nil, errHeader
	}
	switch strings.TrimPrefix(strings.ToLower(p.typ), "application/") { // RFC 7515 section 4.1.9, RFC 9068 section 2.1; proofs and logout tokens have others
	case "", "jwt", "jose", "at+jwt":
	default:
		return nil, errType
	}
	if _, ok = decode(signature); !ok {
		return nil, errNoJWT
	}
	if p.claims, ok = object(body); !ok {
		return nil, errClaims
	}
	return p, nil
}

// optional is a member that is a text where it is there at all, and not empty then.
func optional(o map[string]any, name string) (string, bool) {
	v, there := o[name]
	if !there {
		return "", true
	}
	s, ok := v.(string)
	return s, ok && s != ""
}

var base64url = base64.RawURLEncoding.Strict()

// decode reads base64url that is written in the one way (RFC 7515 section 2): package base64 passes over line breaks.
func decode(part string) ([]byte, bool) {
	if strings.ContainsAny(part, "\r\n") {
		return nil, false
	}
	b, err := base64url.DecodeString(part)
	return b, err == nil
}

// object reads a part that is a JSON object. It is as strict as package jsondoc, and takes less than two thirds of its time, which is most of what a refused token costs.
func object(part string) (map[string]any, bool) {
	b, ok := decode(part)
	if !ok || len(b) == 0 || b[0] != '{' || !utf8.Valid(b) {
		return nil, false
	}
	members, ok := shallow(b)
	if !ok {
		return nil, false
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var o map[string]any
	if d.Decode(&o) != nil {
		return nil, false
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, false
	}
	return o, count(o) == members // a name that is there twice is in a map once
}

// shallow reports whether JSON nests no deeper, and has no more in it, than it may, and how many members its objects have: each has one colon. Of what is no JSON it says anything.
func shallow(b []byte) (members int, ok bool) {
	depth, values, quoted := 0, 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == ':':
			members++
		case c == ',':
			values++
		case c == '{' || c == '[':
			values++
			depth++
		case c == '}' || c == ']':
			depth--
		}
		if depth > depthMost || values > valuesMost {
			return 0, false
		}
	}
	return members, true
}

// count is how many members all objects of a document have.
func count(v any) (n int) {
	switch v := v.(type) {
	case map[string]any:
		n = len(v)
		for _, x := range v {
			n += count(x)
		}
	case []any:
		for _, x := range v {
			n += count(x)
		}
	}
	return n
}

// moment reads a NumericDate (RFC 7519 section 2), to the second.
func moment(v any) (time.Time, bool) {
	n, ok := v.(json.Number)
	if !ok {
		return time.Time{}, false
	}
	f, err := strconv.ParseFloat(n.String(), 64)
	if err != nil || f < 0 || f > latest {
		return time.Time{}, false
	}
	return time.Unix(int64(f), 0), true
}

// ends holds the times of a token against the time of day, and says when it ends.
func (p *presented) ends(now time.Time) (time.Time, *broker.Failure) {
	exp, ok := moment(p.claims["exp"])
	if !ok {
		return exp, errEnd
	}
	if !now.Before(exp) {
		return exp, errOver
	}
	for _, name := range []string{"nbf", "iat"} {
		v, there := p.claims[name]
		if !there {
			continue
		}
		from, ok := moment(v)
		if !ok {
			return exp, errTimes
		}
		if now.Add(leeway).Before(from) {
			return exp, errEarly
		}
	}
	return exp, nil
}

// isFor reports whether a token is for one of the audiences.
func (p *presented) isFor(audience []string) *broker.Failure {
	named, ok := textsOf(p.claims["aud"])
	if !ok || len(named) == 0 || slices.Contains(named, "") {
		return errAudience
	}
	if !slices.ContainsFunc(named, func(a string) bool { return slices.Contains(audience, a) }) {
		return errForOthers
	}
	return nil
}

// textsOf is a claim that is a text, or a list of texts.
func textsOf(v any) ([]string, bool) {
	switch v := v.(type) {
	case string:
		return []string{v}, true
	case []any:
		all := make([]string, 0, len(v))
		for _, x := range v {
			s, ok := x.(string)
			if !ok {
				return nil, false
			}
			all = append(all, s)
		}
		return all, true
	}
	return nil, false
}
