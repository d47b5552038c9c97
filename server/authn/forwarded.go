package authn

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/policy"
	"github.com/tokenbroker/tokenbroker/server"
)

// A Proxy is one that calls for others, and says for whom by x-forwarded-client-cert, or as an Envoy that asks for its clients' tokens.
type Proxy struct {
	// Name is of the settings.
	Name string
	// Callers are the SPIFFE IDs of the proxy's own certificates.
	Callers []string
	// Forwards are patterns of the SPIFFE IDs that are believed of it, such as corp.example/ns/web/**, as in a policy. The trust domain is no pattern.
	Forwards []string
	// Through are the SPIFFE IDs of proxies that may stand before this one, which adds its element to theirs. Whoever else calls it is the caller, whatever
	// they have sent. Empty: there is one element, and no more.
	Through []string
}

const (
	proxiesMost = 100
	// forwardedMost bounds the callers of proxies that are remembered. Beyond it all are forgotten.
	forwardedMost = 4096
	// elementsMost bounds what is read of a header: gRPC takes headers of 16 KiB in all.
	elementsMost = 64
)

// Proxies are those of a listener. Safe for concurrent use. It implements server.Forwarders.
type Proxies struct {
	listener string
	of       map[string]*proxy // by the proxy's own identity

	mu  sync.RWMutex
	all map[forwarding]*broker.Caller
}

var _ server.Forwarders = (*Proxies)(nil)

type proxy struct {
	Proxy
	forwards policy.Names
}

// A forwarding is who calls, by way of whom.
type forwarding struct {
	*proxy
	own, way string
}

// NewProxies checks what is said of a listener's proxies.
func NewProxies(listener string, proxies []Proxy) (*Proxies, error) {
	p := &Proxies{listener: listener, of: map[string]*proxy{}, all: map[forwarding]*broker.Caller{}}
	if len(proxies) > proxiesMost {
		return nil, fmt.Errorf("there are more than %d proxies", proxiesMost)
	}
	for _, of := range proxies {
		wrong := func(format string, args ...any) error { return fmt.Errorf("proxy "+of.Name+": "+format, args...) }
		forwards, err := policy.ParseNames(broker.SPIFFE, of.Forwards)
		switch {
		case err != nil:
			return nil, wrong("forwards: %w", err)
		case len(of.Callers) == 0:
			return nil, wrong("callers: nobody is this proxy")
		}
		for word, ids := range map[string][]string{"callers": of.Callers, "through": of.Through} {
			for _, c := range ids {
				if id, err := spiffeid.FromString(c); err != nil || id.String() != c || id.Path() == "" {
					return nil, wrong("%s: %q is no SPIFFE ID of a workload, such as spiffe://corp.example/ns/mesh/sa/gateway", word, c)
				}
			}
		}
		for _, c := range of.Callers {
			if other := p.of[c]; other != nil {
				return nil, wrong("callers: %s is %s already", c, other.Name)
			}
			p.of[c] = &proxy{of, forwards}
		}
	}
	return p, nil
}

// headerName is that of the header, for messages.
const headerName = "x-forwarded-client-cert"

var (
	errNoProxy   = forwardedFailure("it came from a caller who is no proxy of this listener: leave the header out, or have the settings name the proxy")
	errNoElement = forwardedFailure("it cannot be read, has more elements than one and the settings name no proxy before this one (through), or not exactly one By and one URI")
	errTwice     = forwardedFailure("one proxy has added more than one element, or a certificate's name is written so that it looks as if")
	errNotItsOwn = forwardedFailure("its By is not the proxy that sent it")
	errNotBelief = forwardedFailure("its URI is no SPIFFE ID that this proxy may forward")

	errNoPrincipals = &broker.Failure{Kind: broker.CallerUnauthenticated, Detail: "an Envoy asks for its clients, and is no proxy of this listener: have the settings name it, or Envoy's configuration say caller: envoy"}
	errNobody       = &broker.Failure{Kind: broker.CallerUnauthenticated, Detail: "an Envoy does not say for whom it asks, and its configuration does not say caller: envoy"}
	errNotPrincipal = &broker.Failure{Kind: broker.CallerUnauthenticated, Detail: "the principal for whom an Envoy asks is no SPIFFE ID that it may forward"}
)

func forwardedFailure(why string) *broker.Failure {
	return &broker.Failure{Kind: broker.CallerUnauthenticated, Detail: headerName + ": " + why}
}

// between keeps the SPIFFE IDs of a way apart, of which none has it.
const between = " "

// Forwarded implements server.Forwarders.
func (p *Proxies) Forwarded(by *broker.Caller, headers []string) (*broker.Caller, error) {
	var of *proxy
	if by != nil {
		of = p.of[by.Identity]
	}
	if of == nil {
		return nil, errNoProxy
	}
	if len(headers) != 1 {
		return nil, errNoElement
	}
	way, wrong := of.way(by.Identity, headers[0])
	if wrong != nil {
		return nil, wrong
	}
	return p.caller(of, by, way)
}

// ForwardedBy implements server.Forwarders.
func (p *Proxies) ForwardedBy(by *broker.Caller, principal string) (*broker.Caller, error) {
	if by == nil || p.of[by.Identity] == nil {
		return nil, errNoPrincipals
	}
	if principal == "" {
		return nil, errNobody
	}
	if strings.Contains(principal, between) {
		return nil, errNotPrincipal
	}
	c, err := p.caller(p.of[by.Identity], by, []string{principal})
	if err != nil {
		return nil, errNotPrincipal
	}
	return c, nil
}

// caller is the one who calls by way of a proxy, and of others before it.
func (p *Proxies) caller(of *proxy, by *broker.Caller, way []string) (*broker.Caller, error) {
	f := forwarding{of, by.Identity, strings.Join(way, between)}
	p.mu.RLock()
	c := p.all[f]
	p.mu.RUnlock()
	if c != nil {
		return c, nil
	}
	id := way[len(way)-1]
	if !of.forwards.Match(strings.TrimPrefix(id, "spiffe://")) {
		return nil, errNotBelief
	}
	c = by
	for _, id := range way {
		is, err := spiffeid.FromString(id)
		if err != nil || len(id) > spiffeMost || is.Path() == "" {
			return nil, errNotBelief
		}
		c = broker.NewForwarded(of.Name, c, is.TrustDomain().Name(), strings.TrimPrefix(is.Path(), "/"), p.listener)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if there := p.all[f]; there != nil { // one caller is one pointer: what it was allowed is remembered by that
		return there, nil
	}
	if len(p.all) >= forwardedMost {
		clear(p.all)
	}
	p.all[f] = c
	return c, nil
}

// way has the SPIFFE IDs of those who stand before the proxy, the nearest first and the one for whom it calls last, as it says it. Each element says who was
// called (By), which is who has added it, and by whom (URI). The last one is this proxy's; one before counts as long as whoever is named behind it is a proxy
// that may stand there. One proxy adds one element: Envoy writes names of certificates as they are, and with a comma in a name whoever connects to a proxy would
// write an element behind the proxy's own, which has the same By.
func (p *proxy) way(own, header string) (way []string, _ *broker.Failure) {
	all, err := parseForwarded(header)
	if err != nil || len(p.Through) == 0 && len(all) != 1 {
		return nil, errNoElement
	}
	for by := own; ; by = way[len(way)-1] {
		last := all[len(all)-1]
		all = all[:len(all)-1]
		switch {
		case len(last.by) != 1 || len(last.uri) != 1:
			return nil, errNoElement
		case last.by[0] != by:
			return nil, errNotItsOwn
		case slices.ContainsFunc(all, func(e element) bool { return slices.Contains(e.by, by) }):
			return nil, errTwice
		case strings.Contains(last.uri[0], between):
			return nil, errNotBelief
		}
		if way = append(way, last.uri[0]); len(all) == 0 || !slices.Contains(p.Through, last.uri[0]) {
			return way, nil
		}
	}
}

// An element is of one proxy. What else it has counts for nothing: its subject and its DNS names are not looked at.
type element struct{ by, uri []string }

var errForwarded = errors.New("it cannot be read")

// parseForwarded reads a header: elements between commas, of pairs between semicolons, whose values may be in quotation marks (Envoy, "HTTP header manipulation",
// x-forwarded-client-cert). What is not written so is nobody's.
func parseForwarded(header string) (all []element, err error) {
	for rest := header; ; {
		var e element
		for more := true; more; {
			key, value, after, ok := cutPair(rest)
			if !ok {
				return nil, errForwarded
			}
			switch strings.ToLower(key) {
			case "by":
				e.by = append(e.by, value)
			case "uri":
				e.uri = append(e.uri, value)
			}
			if more = strings.HasPrefix(after, ";"); more {
				after = after[1:]
			}
			rest = after
		}
		if all = append(all, e); len(all) > elementsMost {
			return nil, errForwarded
		}
		if rest == "" {
			return all, nil
		}
		rest = strings.TrimLeft(rest[1:], " ") // behind the comma
	}
}

// cutPair takes the first pair off: after is empty, or begins with what ends it.
func cutPair(s string) (key, value, after string, ok bool) {
	key, s, ok = strings.Cut(s, "=")
	if !ok || key == "" || strings.ContainsFunc(key, func(r rune) bool { return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') }) {
		return "", "", "", false
	}
	if !strings.HasPrefix(s, `"`) {
		end := strings.IndexAny(s, `;,`)
		if end < 0 {
			end = len(s)
		}
		return key, s[:end], s[end:], !strings.Contains(s[:end], `"`)
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '"':
			after = s[i+1:]
			return key, b.String(), after, after == "" || after[0] == ';' || after[0] == ','
		case s[i] == '\\' && i+1 < len(s):
			i++
			b.WriteByte(s[i])
		default:
			b.WriteByte(s[i])
		}
	}
	return "", "", "", false
}
