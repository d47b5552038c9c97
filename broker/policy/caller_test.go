package policy

import (
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

func TestACallerIsDescribedAsLogsNameIt(t *testing.T) {
	for _, x := range []struct {
		d    Description
		want *broker.Caller
	}{
		{Description{Identity: "spiffe://td/ns/a"}, &broker.Caller{Kind: broker.SPIFFE, Authority: "td", Name: "ns/a", Proof: broker.ProofX509, Listener: "services"}},
		{Description{Identity: "dns:company/a.corp", Listener: "operators"}, &broker.Caller{Kind: broker.DNS, Authority: "company", Name: "a.corp", Proof: broker.ProofX509, Listener: "operators"}},
		{Description{Identity: "uri:company/urn:a/b"}, &broker.Caller{Kind: broker.URI, Authority: "company", Name: "urn:a/b", Proof: broker.ProofX509, Listener: "services"}},
		{Description{Identity: "cn:company/A *", Proof: "x509"}, &broker.Caller{Kind: broker.CommonName, Authority: "company", Name: "A *", Proof: broker.ProofX509, Listener: "services"}},
		{Description{Identity: "unix:1001", GID: "7"}, &broker.Caller{Kind: broker.Unix, Name: "1001", Proof: broker.ProofPeer, Listener: "services"}},
		{Description{Identity: "local:operators", Proof: "none"}, &broker.Caller{Kind: broker.Local, Name: "operators", Proof: broker.ProofNone, Listener: "operators"}},
	} {
		c, err := x.d.Caller()
		if err != nil {
			t.Errorf("%+v: %v", x.d, err)
			continue
		}
		if c.Identity != x.d.Identity || c.Kind != x.want.Kind || c.Authority != x.want.Authority || c.Name != x.want.Name || c.Proof != x.want.Proof || c.Listener != x.want.Listener {
			t.Errorf("got %s %s %s %s %s %s, want %s", c.Identity, c.Kind, c.Authority, c.Name, c.Proof, c.Listener, x.d.Identity)
		}
		if got := c.Attributes["gid"]; x.d.GID != "" && (len(got) != 1 || got[0] != x.d.GID) {
			t.Errorf("%s: got gid %q", c, got)
		}
	}
}

func TestWhatNoCallerCanBe(t *testing.T) {
	for _, x := range []struct {
		d    Description
		want string
	}{
		{Description{}, "caller: it is of no kind"},
		{Description{Identity: "cart"}, "caller: it is of no kind"},
		{Description{Identity: "spife://td/a"}, `did you mean "spiffe"?`},
		{Description{Identity: "via:mesh/dns:td/a"}, "behind via: is a proxy of the settings"},
		{Description{Identity: "via:spiffe://td/a"}, "behind via: is a proxy of the settings"},
		{Description{Identity: "via:mesh/spiffe://td"}, "caller: "},
		{Description{Identity: "via:mesh/spiffe://td/a", Proof: "x509"}, "proof: of spiffe there is forwarded only"},
		{Description{Identity: "jwt:ci/"}, "behind jwt: is a trust or an issuer"},
		{Description{Identity: "jwt:ci/a", Proof: "x509"}, "proof: of jwt there is jwt only"},
		{Description{Identity: "spiffe://td/a", Proof: "peer"}, "proof: of spiffe there is x509 and jwt only"},
		{Description{Identity: "spiffe://td/a", Claims: map[string]string{"a": "b"}}, "claims: they go with jwt"},
		{Description{Identity: "k8s:prod/batch"}, "a namespace and a service account are wanted"},
		{Description{Identity: "k8s:prod/batch/"}, "a namespace and a service account are wanted"},
		{Description{Identity: "k8s:prod/Batch/importer"}, "no service account"},
		{Description{Identity: "k8s:prod/batch/importer/x"}, "no service account"},
		{Description{Identity: "k8s:prod/batch/*"}, "and no pattern"},
		{Description{Identity: "spiffe:td/a"}, "begins with spiffe://"},
		{Description{Identity: "spiffe://td"}, "a path is missing"},
		{Description{Identity: "spiffe://td/"}, "a path is missing"},
		{Description{Identity: "spiffe://td/a/../b"}, "no path of a SPIFFE ID has . or .. in it"},
		{Description{Identity: "spiffe://td/a//b"}, "no path of a SPIFFE ID"},
		{Description{Identity: "spiffe://td/*"}, "and no pattern"},
		{Description{Identity: "dns:a.corp"}, "behind dns: is a trust"},
		{Description{Identity: "dns:Company/a.corp"}, "behind dns: is a trust"},
		{Description{Identity: "dns:company/a..corp"}, "no DNS name"},
		{Description{Identity: "cn:company/"}, "behind cn: is a trust"},
		{Description{Identity: "unix:root"}, "a number of a user"},
		{Description{Identity: "unix:01"}, "a number of a user"},
		{Description{Identity: "local:here"}, "behind local: is one of services, operators"},
		{Description{Identity: "unix:1", Proof: "x509"}, "proof: of unix there is peer only"},
		{Description{Identity: "unix:1", Listener: "here"}, "listener: it is none of"},
		{Description{Identity: "local:services", Listener: "operators"}, "listener: it is another one"},
		{Description{Identity: "unix:1", GID: "staff"}, "gid: a number"},
		{Description{Identity: "cn:company/a", GID: "1"}, "gid: it goes with unix"},
	} {
		if c, err := x.d.Caller(); c != nil || err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%+v: got %v, %v, want %s", x.d, c, err, x.want)
		}
	}
}

// TestWhoComesByWayOfAProxyIsAnother: of the rules; whoever is blocked is, either way.
func TestWhoComesByWayOfAProxyIsAnother(t *testing.T) {
	const of = `
version: 1
callers:
  direct: [{spiffe: "td/a"}]
  via: [{via: mesh, spiffe: "td/a"}]
  blocked: [{spiffe: "td/**"}, {via: mesh, spiffe: "td/**"}, {via: other, spiffe: "td/**"}]
blocked: [{spiffe: "td/bad"}, {via: mesh, spiffe: "td/worse"}]
rules:
  - {name: direct, callers: [direct], credentials: {names: [a]}, operations: [get_token]}
  - {name: via, callers: [via], credentials: {names: [b]}, operations: [get_token]}
  - {name: all, callers: [blocked], credentials: {names: [c]}, operations: [get_token]}
`
	p, problems := Parse("policy.yaml", []byte(of))
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	for _, x := range []struct{ caller, may string }{
		{"spiffe://td/a", "ac"}, {"via:mesh/spiffe://td/a", "bc"}, {"via:other/spiffe://td/a", "c"},
		{"spiffe://td/bad", ""}, {"via:mesh/spiffe://td/bad", ""}, {"spiffe://td/worse", "c"}, {"via:mesh/spiffe://td/worse", ""}, {"via:other/spiffe://td/worse", "c"},
	} {
		c, err := Description{Identity: x.caller}.Caller()
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, name := range []string{"a", "b", "c"} {
			if p.Decide(broker.Access{Caller: c, Operation: broker.GetToken, Known: broker.Stored, Credential: broker.CredentialName(name)}).Effect == broker.Allowed {
				got += name
			}
		}
		if got != x.may || c.Identity != x.caller {
			t.Errorf("%s: may %q, want %q", c, got, x.may)
		}
	}
}

// TestABlockedProxyCallsForNobody, whether it is the last one or stands before that; whoever is remembered by one is not by another.
func TestABlockedProxyCallsForNobody(t *testing.T) {
	const of = `
version: 1
callers: {web: [{via: mesh, spiffe: "td/web/*"}]}
blocked: [{spiffe: "td/bad"}, {spiffe: "td/worse", proof: forwarded}]
rules:
  - {name: web, callers: [web], credentials: {names: ["*"]}, operations: [get_token]}
`
	p, problems := Parse("policy.yaml", []byte(of))
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	direct := func(name string) *broker.Caller {
		return broker.NewCaller(broker.SPIFFE, "td", name, broker.ProofX509, "services")
	}
	by := func(proxy *broker.Caller, name string) *broker.Caller {
		return broker.NewForwarded("mesh", proxy, "td", name, "services")
	}
	for _, x := range []struct {
		caller *broker.Caller
		want   broker.Effect
	}{
		{by(direct("good"), "web/a"), broker.Allowed}, {by(direct("bad"), "web/a"), broker.Denied}, {by(direct("worse"), "web/a"), broker.Allowed},
		{by(by(direct("good"), "front"), "web/a"), broker.Allowed}, {by(by(direct("good"), "bad"), "web/a"), broker.Denied},
		{by(by(direct("good"), "worse"), "web/a"), broker.Denied}, {by(by(direct("bad"), "front"), "web/a"), broker.Denied},
	} {
		if got := p.Decide(broker.Access{Caller: x.caller, Operation: broker.GetToken, Known: broker.Stored, Credential: "m"}).Effect; got != x.want {
			t.Errorf("%s by %s: got %v, want %v", x.caller, x.caller.Proxy, got, x.want)
		}
	}
}

// TestTheHighestRateCounts, where several rules allow a request, whatever their order.
func TestTheHighestRateCounts(t *testing.T) {
	const of = `
version: 1
callers: {all: [{spiffe: "td/**"}], a: [{spiffe: "td/a"}], b: [{spiffe: "td/b"}]}
rules:
  - {name: slow, callers: [all], credentials: {names: ["*"]}, operations: [get_token, watch], rate: 600/h}
  - {name: fast, callers: [a], credentials: {names: ["*"]}, operations: [get_token, watch], rate: 50/s}
  - {name: slower, callers: [a], credentials: {names: ["*"]}, operations: [get_token], rate: 1/m}
  - {name: free, callers: [b], credentials: {names: ["*"]}, operations: [get_token]}
`
	p, problems := Parse("policy.yaml", []byte(of))
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	for _, x := range []struct {
		caller    string
		operation broker.Operation
		rule      string
		rate      broker.Rate
	}{
		{"a", broker.GetToken, "fast", broker.Rate{Times: 50, Per: time.Second}},
		{"b", broker.GetToken, "free", broker.Rate{}},
		{"c", broker.GetToken, "slow", broker.Rate{Times: 600, Per: time.Hour}},
		{"a", broker.Watch, "slow", broker.Rate{}},
	} {
		a := broker.Access{Caller: broker.NewCaller(broker.SPIFFE, "td", x.caller, broker.ProofX509, "services"), Operation: x.operation, Known: broker.Stored, Credential: "m"}
		want := broker.Decision{Effect: broker.Allowed, Rule: x.rule, Rate: x.rate}
		if got := p.Decide(a); got != want {
			t.Errorf("%s %s: got %+v, want %+v", x.caller, x.operation, got, want)
		}
		if got := p.Explain(a).Decision; got != want {
			t.Errorf("%s %s is explained as %+v, and is %+v", x.caller, x.operation, got, want)
		}
	}
}
