package doctor

import (
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/policy"
	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/settings"
	"github.com/tokenbroker/tokenbroker/server/authn"
)

// TestWhoCanBeThere: whom a policy names somebody can be, or nobody, by what the listeners believe.
func TestWhoCanBeThere(t *testing.T) {
	s := settings.Settings{DataDir: "d", Socket: "auto", Listen: []string{"127.0.0.1:0"}, Listeners: settings.Listeners{
		Services:  &settings.Listener{Trust: []string{"corp", "web"}, Issuers: []string{"ci", "prod"}, Proxies: []string{"mesh"}},
		Operators: &settings.Listener{Trust: []string{"web"}},
		Trust: map[string]settings.Trust{
			"corp":  {Trust: authn.Trust{TrustDomain: "corp.example"}},
			"web":   {Trust: authn.Trust{Kind: broker.DNS, Names: []string{"*.web.example"}}},
			"other": {Trust: authn.Trust{TrustDomain: "other.example"}},
		},
		Issuers: map[string]settings.Issuer{
			"ci": {Issuer: authn.Issuer{Kind: broker.JWT}}, "prod": {Issuer: authn.Issuer{Kind: broker.Kubernetes}},
		},
	}}
	quiet := settings.Settings{DataDir: "d", Socket: "none"}
	for _, x := range []struct {
		at   *settings.Settings
		is   policy.Callers
		some bool
	}{
		{&s, policy.Callers{Kind: broker.Unix, Name: "*"}, true},
		{&quiet, policy.Callers{Kind: broker.Unix, Name: "*"}, false},
		{&s, policy.Callers{Kind: broker.Local, Name: "machine"}, true},
		{&quiet, policy.Callers{Kind: broker.Local, Name: "machine"}, false},
		{&s, policy.Callers{Kind: broker.SPIFFE, Authority: "corp.example", Name: "shop"}, true},
		{&s, policy.Callers{Kind: broker.SPIFFE, Authority: "corp.example", Name: "shop", Proof: broker.ProofX509}, true},
		{&s, policy.Callers{Kind: broker.SPIFFE, Authority: "corp.example", Name: "shop", Proof: broker.ProofJWT}, false},
		{&s, policy.Callers{Kind: broker.SPIFFE, Authority: "corp.example", Name: "shop", Listener: "operators"}, false},
		{&s, policy.Callers{Kind: broker.SPIFFE, Authority: "other.example", Name: "shop"}, false},
		{&s, policy.Callers{Kind: broker.SPIFFE, Authority: "other.example", Name: "shop", Via: "mesh"}, true},
		{&s, policy.Callers{Kind: broker.SPIFFE, Authority: "corp.example", Name: "shop", Via: "edge"}, false},
		{&s, policy.Callers{Kind: broker.DNS, Authority: "web", Name: "a.web.example", Listener: "operators"}, true},
		{&s, policy.Callers{Kind: broker.DNS, Authority: "web", Name: "a.other.example"}, false},
		{&s, policy.Callers{Kind: broker.DNS, Authority: "web", Name: "*.other.example"}, true}, // of a pattern nobody knows
		{&s, policy.Callers{Kind: broker.CommonName, Authority: "web", Name: "a"}, false},
		{&s, policy.Callers{Kind: broker.JWT, Authority: "ci", Name: "a"}, true},
		{&s, policy.Callers{Kind: broker.JWT, Authority: "ci", Name: "a", Listener: "operators"}, false},
		{&s, policy.Callers{Kind: broker.JWT, Authority: "prod", Name: "a"}, false},
		{&s, policy.Callers{Kind: broker.Kubernetes, Authority: "prod", Name: "shop/cart"}, true},
		{&quiet, policy.Callers{Kind: broker.Kubernetes, Authority: "prod", Name: "shop/cart"}, false},
	} {
		if why := unreachable(x.at, x.is); (why == "") != x.some {
			t.Errorf("%+v: got %q, want somebody %v", x.is, why, x.some)
		}
	}
}
