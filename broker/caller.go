package broker

// A CallerKind says what sort of name a caller has. The values are those of policy files and of Caller.Identity.
type CallerKind string

// The kinds of callers.
const (
	// SPIFFE is a workload with a SPIFFE ID: Authority is the trust domain, Name the path without its first slash.
	SPIFFE CallerKind = "spiffe"
	// DNS, URI and CommonName are of certificates: Authority is the name of the trust in the settings, Name what the certificate says.
	DNS        CallerKind = "dns"
	URI        CallerKind = "uri"
	CommonName CallerKind = "cn"
	// JWT is the subject of a token: Authority is the name of the issuer in the settings, Name what the token's subject is. Its attributes are the token's
	// claims that are texts, or lists of them.
	JWT CallerKind = "jwt"
	// Kubernetes is a service account: Authority is the name of the issuer in the settings, Name is NAMESPACE/SERVICEACCOUNT. Its attributes are namespace,
	// serviceaccount, pod and node, as far as the token names them.
	Kubernetes CallerKind = "k8s"
	// Unix is a process of this machine behind a Unix socket: Name is its user id. Its attributes are uid and gid.
	Unix CallerKind = "unix"
	// Local is whoever reached the broker over loopback: nobody has proven anything.
	Local CallerKind = "local"
)

// A Proof is how a caller's name was proven.
type Proof string

// The proofs.
const (
	// ProofX509 is a certificate, shown in a TLS handshake, with possession of its key.
	ProofX509 Proof = "x509"
	// ProofJWT is a signed token that a call brings (RFC 7519, RFC 6750 section 2.1). Whoever has it can show it.
	ProofJWT Proof = "jwt"
	// ProofForwarded is the word of a proxy, which was shown a certificate (Envoy's x-forwarded-client-cert). It is as good as the proxy is.
	ProofForwarded Proof = "forwarded"
	// ProofPeer is what the operating system says of the other side of a Unix socket.
	ProofPeer Proof = "peer"
	// ProofNone is where somebody was, and nothing else.
	ProofNone Proof = "none"
)

// Machine is the listener for callers on this machine, who have to prove nothing: loopback addresses and the Unix socket.
const Machine = "machine"

// A Caller is the workload that asks, as the transport authenticated it; nil is nobody, and is allowed nothing. Immutable, but for what is remembered
// of it: callers are handed on by their pointer.
type Caller struct {
	// Identity is the caller's one name, which no other has: "spiffe://corp.example/ns/shop/sa/cart", "dns:company/cart.corp.example", "unix:1001",
	// "local:machine", "via:mesh/spiffe://corp.example/ns/shop/sa/cart". Rates are counted by it, and logs name it.
	Identity string
	Kind     CallerKind
	// Authority is who vouches for the name; empty for Unix and Local.
	Authority string
	Name      string
	Proof     Proof
	// Via is the proxy that calls for it, by its name in the settings; empty: it calls itself, which is another caller.
	Via string
	// Proxy is that proxy as a caller, by way of another one or not; nil: there is none, or it is not known.
	Proxy *Caller
	// Listener is by which it came: Machine, or by the purpose of the settings, services or operators.
	Listener string
	// Attributes are what else was proven of it, by name. Nil: nothing.
	Attributes map[string][]string

	// Memo is the engine's: what the caller was allowed lately.
	Memo Memo
}

// NewCaller names a caller by its parts.
func NewCaller(kind CallerKind, authority, name string, proof Proof, listener string) *Caller {
	c := &Caller{Kind: kind, Authority: authority, Name: name, Proof: proof, Listener: listener}
	switch {
	case kind == SPIFFE:
		c.Identity = "spiffe://" + authority + "/" + name
	case kind == Local:
		c.Identity = "local:" + listener
	case authority == "":
		c.Identity = string(kind) + ":" + name
	default:
		c.Identity = string(kind) + ":" + authority + "/" + name
	}
	return c
}

// NewForwarded names a workload for which a proxy calls, which the settings call so; nil: which one, is not known.
func NewForwarded(via string, proxy *Caller, domain, path, listener string) *Caller {
	c := NewCaller(SPIFFE, domain, path, ProofForwarded, listener)
	c.Via, c.Proxy, c.Identity = via, proxy, "via:"+via+"/"+c.Identity
	return c
}

// String is the identity; of nobody, it is empty.
func (c *Caller) String() string {
	if c == nil {
		return ""
	}
	return c.Identity
}

// OnThisMachine reports whether the caller reached the broker over loopback or its Unix socket.
func (c *Caller) OnThisMachine() bool { return c != nil && (c.Kind == Unix || c.Kind == Local) }
