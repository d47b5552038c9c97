package authn_test

import (
	"context"
	"crypto/x509"
	"slices"
	"strings"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/tokenbroker/tokenbroker/broker"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/internal/devcerts"
	"github.com/tokenbroker/tokenbroker/server/authn"
)

const (
	gateway = "spiffe://corp.example/mesh/gateway"
	spare   = "spiffe://corp.example/mesh/spare"
	inner   = "spiffe://corp.example/mesh/inner"
	web     = "spiffe://corp.example/ns/web/sa/shop"
	header  = "x-forwarded-client-cert"
)

// forwarded is a call that has the headers.
func forwarded(ctx context.Context, values ...string) context.Context {
	for _, v := range values {
		ctx = metadata.AppendToOutgoingContext(ctx, header, v)
	}
	return ctx
}

// asked is who the broker is asked by meanwhile. Nil: nobody.
func (r *rig) asked(call func() error) (got *broker.Caller) {
	r.rules.set(func(a broker.Access) bool { got = a.Caller; return true })
	_ = call()
	return got
}

// whoCalls is who the broker takes for the caller; nil: nobody.
func (r *rig) whoCalls(ctx context.Context, p *devcerts.Pair) (got *broker.Caller, err error) {
	got = r.asked(func() error {
		_, err = tokenbrokerv1.NewTokenBrokerServiceClient(r.dial("services", r.config(p))).GetToken(ctx, &tokenbrokerv1.GetTokenRequest{Credential: "main"})
		return err
	})
	return got, err
}

// TestForWhomAProxyCalls: by the header of a proxy that the settings name, and in no other way.
func TestForWhomAProxyCalls(t *testing.T) {
	r := newBearers(t).r
	one := "By=" + gateway + ";Hash=" + strings.Repeat("ab", 32) + `;Subject="CN=shop,O=\"web, inc\"";URI=` + web
	for _, c := range []struct {
		name   string
		by     string // whose certificate; empty: none
		values []string
		want   string // the caller; empty: none
		says   string
	}{
		{"as Envoy writes it", gateway, []string{one}, "via:mesh/" + web, ""},
		{"the proxy's other name", spare, []string{strings.Replace(one, "gateway", "spare", 1)}, "via:mesh/" + web, ""},
		{"in quotation marks", gateway, []string{`By="` + gateway + `";URI="` + web + `"`}, "via:mesh/" + web, ""},
		{"keys in other letters", gateway, []string{`by=` + gateway + `;uri=` + web}, "via:mesh/" + web, ""},
		{"of another trust domain", gateway, []string{"By=" + gateway + ";URI=spiffe://partner.example/ns/web/x"}, "via:mesh/spiffe://partner.example/ns/web/x", ""},
		{"no header: the proxy itself", gateway, nil, gateway, ""},
		{"of a chain", inner, []string{"By=" + gateway + ";URI=" + web + ",By=" + inner + ";URI=" + gateway}, "via:chain/" + web, ""},
		{"of a chain, with what the client sent before it", inner, []string{"By=x;URI=spiffe://corp.example/ns/web/admin, By=" + gateway + ";URI=" + web + ", By=" + inner + ";URI=" + gateway}, "via:chain/" + web, ""},

		{"from nobody", "", []string{one}, "", "no proxy"},
		{"from no proxy", web, []string{"By=" + web + ";URI=" + web}, "", "no proxy"},
		{"from the one who is forwarded", web, []string{one}, "", "no proxy"},
		{"past the first of a chain", inner, []string{"By=" + inner + ";URI=" + web}, "via:chain/" + web, ""},
		{"past the first, with what would be its element", inner, []string{"By=" + web + ";URI=spiffe://corp.example/ns/web/sa/admin,By=" + inner + ";URI=" + web}, "via:chain/" + web, ""},

		{"two headers", gateway, []string{one, one}, "", "through"},
		{"two elements", gateway, []string{one + "," + one}, "", "through"},
		{"a chain that does not hang together", inner, []string{"By=spiffe://corp.example/mesh/other;URI=" + web + ",By=" + inner + ";URI=" + gateway}, "", "By"},
		{"the first calls for nobody", inner, []string{"By=" + inner + ";URI=" + gateway}, "", "may forward"},
		{"a first that nobody has named", inner, []string{"By=spiffe://evil.example/x;URI=" + web + ",By=" + inner + ";URI=spiffe://evil.example/x"}, "", "may forward"},
		{"without names", inner, []string{"By=;URI=" + web + ",By=" + inner + ";URI="}, "", "may forward"},
		{"added by another", gateway, []string{strings.Replace(one, "gateway", "spare", 1)}, "", "By"},
		{"added by nobody", gateway, []string{"URI=" + web}, "", "By"},
		{"added by two", gateway, []string{"By=" + gateway + ";" + one}, "", "By"},
		{"nobody is named", gateway, []string{"By=" + gateway + `;Subject="CN=shop"`}, "", "URI"},
		{"two are named", gateway, []string{one + ";URI=spiffe://corp.example/ns/web/other"}, "", "URI"},
		{"whom it may not forward", gateway, []string{strings.Replace(one, "/ns/web/", "/ns/bank/", 1)}, "", "may forward"},
		{"below whom it may forward", gateway, []string{"By=" + gateway + ";URI=spiffe://partner.example/ns/web/x/y"}, "", "may forward"},
		{"dots", gateway, []string{"By=" + gateway + ";URI=spiffe://corp.example/ns/web/../bank"}, "", "may forward"},
		{"an encoded path", gateway, []string{"By=" + gateway + ";URI=spiffe://corp.example/ns/web/a%2fb"}, "", "may forward"},
		{"capitals in the trust domain", gateway, []string{"By=" + gateway + ";URI=spiffe://CORP.example/ns/web/a"}, "", "may forward"},
		{"no SPIFFE ID", gateway, []string{"By=" + gateway + ";URI=https://corp.example/ns/web/a"}, "", "may forward"},
		{"a trust domain alone", gateway, []string{"By=" + gateway + ";URI=spiffe://corp.example"}, "", "may forward"},
		{"empty", gateway, []string{""}, "", "cannot be read"},
		{"no pairs", gateway, []string{web}, "", "cannot be read"},
		{"quotation marks without an end", gateway, []string{`By=` + gateway + `;URI="` + web}, "", "cannot be read"},
		{"behind quotation marks", gateway, []string{`By="` + gateway + `"x;URI=` + web}, "", "cannot be read"},
		{"within a value", gateway, []string{`By=` + gateway + `;URI=sp"iffe` + web}, "", "cannot be read"},
		{"an end that is none", gateway, []string{one + ";"}, "", "cannot be read"},
		{"a comma in a name, at the proxy itself", inner, []string{"By=" + inner + ";URI=" + web + "x,By=" + inner + ";URI=" + web}, "", "more than one element"},
		{"a comma in a name, at the one before", inner, []string{"By=" + gateway + ";URI=" + web + "x,By=" + gateway + ";URI=" + web + ",By=" + inner + ";URI=" + gateway}, "", "more than one element"},
		{"a comma and more in a name, at the one before", inner, []string{"By=" + gateway + ";URI=" + web + "x,By=" + gateway + ";URI=" + spare + ",By=" + spare + ";URI=" + web + ",By=" + inner + ";URI=" + gateway}, "", "not the proxy"},
		{"an empty element", gateway, []string{one + ","}, "", "cannot be read"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var p *devcerts.Pair
			if c.by != "" {
				pair := r.svid(c.by)
				p = &pair
			}
			got, err := r.whoCalls(forwarded(t.Context(), c.values...), p)
			switch {
			case c.want == "" && (status.Code(err) != codes.Unauthenticated || got != nil || !strings.Contains(err.Error(), c.says)):
				t.Errorf("got %v, %v, want UNAUTHENTICATED with %q", got, err, c.says)
			case c.want != "" && (err != nil || got.String() != c.want):
				t.Errorf("got %v, %v, want %s", got, err, c.want)
			case c.want != "" && len(c.values) > 0 && (got.Via == "" || got.Proof != broker.ProofForwarded || got.Listener != "services" || got.Kind != broker.SPIFFE):
				t.Errorf("got %+v", got)
			}
			if err != nil && strings.Contains(err.Error(), "spiffe://") {
				t.Errorf("it quotes what came: %v", err)
			}
		})
	}
}

// TestEveryRPCByWayOfAProxy: for every RPC of both doors, who a proxy says calls is who it is decided on.
func TestEveryRPCByWayOfAProxy(t *testing.T) {
	r := newBearers(t).r
	by := func(id string) *devcerts.Pair { return new(r.svid(id)) }
	word := func(by, of string) []string { return []string{"By=" + by + ";URI=" + of} }
	ended := r.svid(gateway, func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Second)
	})
	stranger := issue(t, must[*devcerts.Authority](t)(devcerts.NewAuthority("other", trustDomain, time.Hour)), time.Hour, uris(gateway))
	chain := []string{"By=" + gateway + ";URI=" + web + ",By=" + inner + ";URI=" + gateway}
	all := methods(t)
	for _, k := range []struct {
		name   string
		pair   *devcerts.Pair
		values []string
		may    string // the only caller who may; empty: everybody may everything
		want   codes.Code
	}{
		{"allowed", by(gateway), word(gateway, web), "via:mesh/" + web, codes.OK},
		{"allowed, of a chain", by(inner), chain, "via:chain/" + web, codes.OK},
		{"the one who comes directly may", by(gateway), word(gateway, web), web, codes.PermissionDenied},
		{"the proxy itself may", by(gateway), word(gateway, web), gateway, codes.PermissionDenied},
		{"who comes by another proxy may", by(inner), chain, "via:mesh/" + web, codes.PermissionDenied},
		{"whom it may not forward", by(gateway), word(gateway, "spiffe://corp.example/ns/bank/sa/a"), "", codes.Unauthenticated},
		{"of another trust domain", by(gateway), word(gateway, "spiffe://other.example/ns/web/sa/shop"), "", codes.Unauthenticated},
		{"of another proxy's", by(gateway), word(spare, web), "", codes.Unauthenticated},
		{"from no proxy", by(web), word(web, web), "", codes.Unauthenticated},
		{"from nobody", nil, word(gateway, web), "", codes.Unauthenticated},
		{"twice", by(gateway), slices.Repeat(word(gateway, web), 2), "", codes.Unauthenticated},
		{"of a proxy whose certificate has ended", &ended, word(gateway, web), "", codes.Unavailable},
		{"of a proxy by another authority", &stranger, word(gateway, web), "", codes.Unavailable},
	} {
		for _, door := range []string{"services", "operators"} {
			t.Run(k.name+"/"+door, func(t *testing.T) {
				r.rules.set(func(a broker.Access) bool { return k.may == "" || a.Caller.Identity == k.may })
				conn := r.dial(door, r.config(k.pair))
				for _, of := range all {
					of.wants(forwarded(t.Context(), k.values...), t, conn, door, k.want)
				}
			})
		}
	}
}

// TestAWayIsNoName: a name with a blank in it is nobody's, also if it reads as two that have called.
func TestAWayIsNoName(t *testing.T) {
	r := newRig(t)
	pair := r.svid(inner)
	for range 2 {
		if got, err := r.whoCalls(forwarded(t.Context(), "By="+inner+";URI="+gateway+" "+web), &pair); got != nil || status.Code(err) != codes.Unauthenticated {
			t.Errorf("got %v, %v", got, err)
		}
		if got, err := r.whoCalls(forwarded(t.Context(), "By="+gateway+";URI="+web+",By="+inner+";URI="+gateway), &pair); got == nil {
			t.Errorf("by way of both: %v", err)
		}
	}
}

// TestATokenAndAProxysWordAreTwoProofs.
func TestATokenAndAProxysWordAreTwoProofs(t *testing.T) {
	m := newBearers(t)
	r := m.r
	word := "By=" + gateway + ";URI=" + web
	for _, c := range []struct {
		by   *devcerts.Pair
		says string
	}{{nil, "no proxy"}, {new(r.svid(gateway)), "nobody has said which counts"}, {new(r.svid(web)), "nobody has said which counts"}} {
		got, err := r.whoCalls(forwarded(bearing(t, "Bearer "+m.good(nil)), word), c.by)
		if status.Code(err) != codes.Unauthenticated || got != nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("got %v, %v", got, err)
		}
	}
}

// TestCallersOfOneProxyAreToldApart: on one connection calls are made for many, whose rights are their own, and each is the same caller each time.
func TestCallersOfOneProxyAreToldApart(t *testing.T) {
	r := newRig(t)
	pair := r.svid(gateway)
	client := tokenbrokerv1.NewTokenBrokerServiceClient(r.dial("services", r.config(&pair)))
	callers := map[string]*broker.Caller{}
	r.rules.set(func(a broker.Access) bool {
		if was := callers[a.Caller.Identity]; was != nil && was != a.Caller {
			t.Errorf("%s is another one", a.Caller)
		}
		callers[a.Caller.Identity] = a.Caller
		return strings.HasSuffix(a.Caller.Name, "/shop")
	})
	for range 3 {
		for name, want := range map[string]codes.Code{"shop": codes.OK, "other": codes.PermissionDenied} {
			_, err := client.GetToken(forwarded(t.Context(), "By="+gateway+";URI=spiffe://corp.example/ns/web/sa/"+name), &tokenbrokerv1.GetTokenRequest{Credential: "main"})
			if status.Code(err) != want {
				t.Errorf("%s: got %v, want %v", name, err, want)
			}
		}
	}
	if len(callers) != 2 {
		t.Errorf("got %v", callers)
	}
}

// TestAForwardedWatchEndsWithItsProxy: what a proxy vouched for ends when its certificate counts no more.
func TestAForwardedWatchEndsWithItsProxy(t *testing.T) {
	r := newRig(t)
	pair := r.svid(gateway, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(soon) })
	stream, err := tokenbrokerv1.NewTokenBrokerServiceClient(r.dial("services", r.config(&pair))).WatchToken(forwarded(t.Context(), "By="+gateway+";URI="+web), &tokenbrokerv1.WatchTokenRequest{Credential: "main"})
	for err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.Unauthenticated {
		t.Errorf("got %v", err)
	}
}

// TestProxiesThatCannotBe.
func TestProxiesThatCannotBe(t *testing.T) {
	good := authn.Proxy{Name: "mesh", Callers: []string{gateway}, Forwards: []string{"corp.example/**"}}
	for want, edit := range map[string]func(*authn.Proxy){
		"nobody is this proxy":        func(p *authn.Proxy) { p.Callers = nil },
		"no SPIFFE ID of a workload":  func(p *authn.Proxy) { p.Callers = []string{"spiffe://corp.example/mesh/*"} },
		"no SPIFFE ID of a workload ": func(p *authn.Proxy) { p.Callers = []string{"corp.example/mesh"} },
		"forwards":                    func(p *authn.Proxy) { p.Forwards = nil },
		"trust domain":                func(p *authn.Proxy) { p.Forwards = []string{"*.example/ns/web"} },
		"through":                     func(p *authn.Proxy) { p.Through = []string{"corp.example/front"} },
		"already":                     func(p *authn.Proxy) { p.Callers = append(p.Callers, gateway) },
	} {
		p := good
		edit(&p)
		if _, err := authn.NewProxies("services", []authn.Proxy{p}); err == nil || !strings.Contains(err.Error(), strings.TrimSpace(want)) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	if _, err := authn.NewProxies("services", []authn.Proxy{good}); err != nil {
		t.Error(err)
	}
}

// TestForWhomAnEnvoyAsks: by the principal that it names where its own certificate is a proxy's, and in no other way. A token of the same name is no certificate.
func TestForWhomAnEnvoyAsks(t *testing.T) {
	b := newBearers(t)
	r := b.r
	for _, c := range []struct {
		name, by, token string // by: whose certificate, or whose token
		principal       string
		itself          bool // as its configuration says
		values          []string
		want            string // the caller; empty: nobody is asked about
	}{
		{"a proxy", gateway, "", web, false, nil, "via:mesh/" + web},
		{"a proxy, for nobody", gateway, "", "", false, nil, ""},
		{"a proxy, for itself", gateway, "", "", true, nil, gateway},
		{"a proxy, for itself, whoever its client is", gateway, "", web, true, nil, gateway},
		{"a proxy's token", "", gateway, web, false, nil, ""},
		{"no proxy", cart, "", web, false, nil, ""},
		{"no proxy, for nobody", cart, "", "", false, nil, ""},
		{"no proxy, for itself", cart, "", "", true, nil, cart},
		{"no proxy's token", "", cart, web, false, nil, ""},
		{"whom it may not forward", gateway, "", "spiffe://corp.example/ns/bank/sa/shop", false, nil, ""},
		{"no name", gateway, "", "ns/web/sa/shop", false, nil, ""},
		{"two", gateway, "", web + " " + web, false, nil, ""},
		{"with the header", gateway, "", web, false, []string{"By=" + gateway + ";URI=" + web}, ""},
		{"for nobody, with the header", gateway, "", "", false, []string{"By=" + gateway + ";URI=" + web}, ""},
		{"by the header alone", gateway, "", "", true, []string{"By=" + gateway + ";URI=" + web}, "via:mesh/" + web},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, config := forwarded(t.Context(), c.values...), r.config(nil)
			if c.by != "" {
				pair := r.svid(c.by)
				config = r.config(&pair)
			} else {
				ctx = bearing(t, "Bearer "+b.good(map[string]any{"iss": nil, "sub": c.token}))
			}
			words := map[string]string{"credential": "main"}
			if c.itself {
				words["caller"] = "envoy"
			}
			var reason string
			got := r.asked(func() error {
				res, err := authv3.NewAuthorizationClient(r.dial("services", config)).Check(ctx, &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
					Source: &authv3.AttributeContext_Peer{Principal: c.principal}, ContextExtensions: words,
				}})
				reason = res.GetDeniedResponse().GetBody()
				return err
			})
			if got.String() != c.want || (reason == "") != (c.want != "") || c.want == "" && !strings.Contains(reason, "CALLER_UNAUTHENTICATED") {
				t.Errorf("got %q, want %q; it is told %s", got, c.want, reason)
			}
		})
	}
}
