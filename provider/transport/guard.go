package transport

import (
	"errors"
	"net/netip"
	"net/url"
	"strings"
	"syscall"

	"code.dny.dev/ssrf"
)

var linkLocal = []netip.Prefix{netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("fe80::/10")}

// never are addresses that no setting opens: link-local ones, and where clouds answer their machines with credentials.
var never = append([]netip.Prefix{
	netip.MustParsePrefix("100.100.100.200/32"), // Alibaba
	netip.MustParsePrefix("168.63.129.16/32"),   // Azure
	netip.MustParsePrefix("192.0.0.192/32"),     // Oracle
	netip.MustParsePrefix("fd00:ec2::/32"),      // AWS
	netip.MustParsePrefix("fd20:ce::254/128"),   // Google
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("::/128"),
	netip.MustParsePrefix("224.0.0.0/4"), netip.MustParsePrefix("ff00::/8"),
}, linkLocal...)

// errNever is of an address that no setting allows.
var errNever = errors.New("an address that is never dialled")

// A guard refuses special addresses. Safe for concurrent use.
type guard struct{ ssrf *ssrf.Guardian }

func newGuard(allowed []netip.Prefix) (*guard, error) {
	var v4, v6 []netip.Prefix
	for _, p := range allowed {
		if p.Addr().Is4In6() {
			return nil, wrongSetting("upstream.allow_private", "%s is a range of IPv4 addresses in the form of IPv6, and would allow none: write it as 10.1.0.0/16", p)
		}
		for _, l := range linkLocal {
			if p.Overlaps(l) {
				return nil, wrongSetting("upstream.allow_private", "%s contains link-local addresses, where cloud metadata lives; name smaller ranges", p)
			}
		}
		if p.Addr().Is4() {
			v4 = append(v4, p)
		} else {
			v6 = append(v6, p)
		}
	}
	return &guard{ssrf.New(ssrf.WithAnyPort(), ssrf.WithAllowedV4Prefixes(v4...), ssrf.WithAllowedV6Prefixes(v6...))}, nil
}

// dialled checks an address when it is dialled: a name that is checked earlier could resolve to something else by then.
func (g *guard) dialled(_, address string, _ syscall.RawConn) error {
	a, err := netip.ParseAddrPort(address)
	if err != nil {
		return ssrf.ErrInvalidHostPort
	}
	return g.address(a.Addr())
}

// address fails for special addresses, also where they are written as IPv6 ones (RFC 4291 section 2.5.5, RFC 6052).
func (g *guard) address(a netip.Addr) error {
	a = a.Unmap().WithZone("")
	for _, p := range never {
		if p.Contains(a) {
			return errNever
		}
	}
	if err := g.ssrf.SafeAddr(a); err != nil {
		return err
	}
	if ssrf.IPv6NAT64Prefix.Contains(a) {
		b := a.As16()
		return g.address(netip.AddrFrom4([4]byte(b[12:])))
	}
	return nil
}

// name refuses a host that is special as it is written: behind a proxy nobody here dials it. Other names are the proxy's to
// resolve, and the operator's to restrict there.
func (g *guard) name(host string) error {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if a, err := netip.ParseAddr(host); err == nil {
		return g.address(a)
	}
	last := host[strings.LastIndexByte(host, '.')+1:]
	switch {
	case last == "localhost":
		return g.address(netip.AddrFrom4([4]byte{127, 0, 0, 1}))
	case host == "metadata.google.internal", host == "metadata", host == "metadata.goog":
		return ssrf.ErrProhibitedIP
	case last == "", strings.HasPrefix(last, "0x"), strings.Trim(last, "0123456789") == "":
		return ssrf.ErrProhibitedIP // an address in a spelling that resolvers understand: 127.1, 0x7f000001
	}
	return nil
}

// guardLiteral refuses a URL whose host is special as written, unless the operator sends it elsewhere.
func (t *Transport) guardLiteral(u *url.URL) error {
	if _, ok := t.settings.ConnectTo[HostPort(u)]; ok {
		return nil
	}
	return t.guard.name(u.Hostname())
}
