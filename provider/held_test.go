package provider

import (
	"encoding/base64"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
)

func TestTheClaimOfATokenThatOAuth2TakesItself(t *testing.T) {
	jwt := "e30." + base64.RawURLEncoding.EncodeToString([]byte(`{"tid":"blue"}`)) + ".x"
	v := newVendor(t, jsonSays(`{"access_token": "`+jwt+`"}`))
	d := v.define("attributes: [tenant]\nobtain: {oauth2: https://example.com/t, auth: none, take: {tenant: {claim: tid, of: token}}}")
	a, err := v.obtain(d, credential(nil), broker.Selection{})
	if err != nil {
		t.Fatal(err)
	}
	if a.Values["tenant"].Reveal() != "blue" {
		t.Error("the claim is not there")
	}
}

func TestWhatIsPresentedOfAnAbsentOptionalInputIsLeftOut(t *testing.T) {
	v := newVendor(t, jsonSays(token200))
	d := v.define(`inputs: {tenant: {optional: true}}
obtain: {oauth2: https://example.com/t, auth: none}
present: {headers: {Authorization: "Bearer {{token}}", X-Tenant: "{{tenant}}"}}`)
	p, err := d.Present(credential(nil), broker.Selection{}, broker.Issued{Values: map[string]broker.Secret{"token": broker.NewSecret("t")}})
	if err != nil || len(p.Headers) != 1 {
		t.Errorf("got %v %v", p, err)
	}
	if _, err := d.Present(credential(nil), broker.Selection{}, broker.Issued{}); err == nil {
		t.Error("the token is absent, and nothing is said")
	}
}

func TestATokenThatCannotBePresentedIsNoToken(t *testing.T) {
	v := newVendor(t, jsonSays(`{"access_token": "a\nb"}`))
	d := v.define("obtain: {oauth2: https://example.com/t, auth: none}")
	_, err := v.obtain(d, credential(nil), broker.Selection{})
	if err == nil || upstreamError(t, err).Level != broker.LevelResponse {
		t.Errorf("got %v", err)
	}
}

func TestHeldValuesNeverTakeThePlaceOfInputs(t *testing.T) {
	v := newVendor(t, jsonSays(token200))
	d := v.define(`inputs: {client_id: {}, client_secret: {secret: true}}
obtain: {oauth2: https://example.com/t}
refresh: {oauth2: https://example.com/t}`)
	c := credential(map[string]string{"client_id": "id", "!client_secret": "s"})
	if _, err := v.refresh(d, c, "r", map[string]broker.Secret{"client_id": broker.NewSecret("other")}); err != nil {
		t.Fatal(err)
	}
	if got := form(t, v.requests()[0].body).Get("client_id"); got != "id" {
		t.Errorf("got %q", got)
	}
}

func TestARefreshWithoutATakeBringsOwnValuesToo(t *testing.T) {
	v := newVendor(t, jsonSays(`{"access_token": "t", "instance": "i"}`))
	d := v.define(`obtain: {oauth2: https://example.com/t, auth: none, take: {instance: instance}}
refresh: {oauth2: https://example.com/t, auth: none}
attributes: [instance]`)
	a, err := v.refresh(d, credential(nil), "r", nil)
	if err != nil {
		t.Fatal(err)
	}
	if a.Values["instance"].Reveal() != "i" {
		t.Error("the own value is not there after a refresh")
	}
}

func TestAnOwnValueThatTheRefreshDoesNotBringIsKept(t *testing.T) {
	v := newVendor(t, jsonSays(`{"access_token": "t"}`))
	d := v.define(`obtain: {oauth2: https://example.com/t, auth: none, take: {instance: instance}}
refresh: {oauth2: https://example.com/t, auth: none, take: {token: access_token}}
attributes: [instance]`)
	a, err := v.refresh(d, credential(nil), "r", map[string]broker.Secret{"instance": broker.NewSecret("i")})
	if err != nil {
		t.Fatal(err)
	}
	if a.Values["instance"].Reveal() != "i" {
		t.Error("the own value is gone after a refresh")
	}
}

func TestASeededDefinitionMayHandOutWhatItsRefreshTakes(t *testing.T) {
	if p := Check("", []byte(`name: x
inputs: {refresh_token: {secret: true, seed: true}}
refresh: {oauth2: https://example.com/t, auth: none, take: {instance: instance_url}}
attributes: [instance]`)); len(p) > 0 {
		t.Error(p)
	}
}

func TestPresentDependsOnNothingThatChanges(t *testing.T) {
	if p := Check("", []byte("name: x\nlet: {n: {uuid: 4}}\nobtain: {oauth2: https://example.com/t, auth: none}\npresent: {headers: {Authorization: \"Bearer {{token}}\", X-N: \"{{n}}\"}}")); len(p) == 0 {
		t.Error("each caller would see another value")
	}
}

func TestARefreshTokenInACookieOrInBasicAuthHasAConnectionOfItsOwn(t *testing.T) {
	for _, how := range []string{`cookies: "s={{refresh_token}}"`, `auth: {basic: [x, "{{refresh_token}}"]}`} {
		v := newVendor(t, jsonSays(`{"token": "t"}`))
		d := v.define("inputs: {refresh_token: {secret: true, seed: true}}\nrefresh: {post: https://example.com/t, " + how + ", take: {token: token}}")
		for range 2 {
			if _, err := v.refresh(d, credential(nil), "r", nil); err != nil {
				t.Fatal(err)
			}
		}
		if v.opened != 2 {
			t.Errorf("%s: got %d connections, want 2", how, v.opened)
		}
	}
}

func TestPresentReplacesAHeaderOfTheSameName(t *testing.T) {
	v := newVendor(t, jsonSays(token200))
	d := v.define(`headers: {User-Agent: a}
obtain: {oauth2: https://example.com/t, auth: none}
present: {headers: {Authorization: "Bearer {{token}}", user-agent: b}}`)
	a, err := v.obtain(d, credential(nil), broker.Selection{})
	if err != nil {
		t.Fatal(err)
	}
	p, err := d.Present(credential(nil), broker.Selection{}, broker.Issued{Values: a.Values, Headers: a.Headers})
	if err != nil || len(p.Headers) != 2 {
		t.Errorf("got %v %v", p.Headers, err)
	}
}

func TestAStaticTokenAsksNobody(t *testing.T) {
	v := newVendor(t, nil)
	d := v.define(`
inputs: {user: {}, key: {secret: true, handed_out: true}}
let: {pair: {base64: "{{user}}:{{key}}"}}
token: "{{pair}}"
lifetime: until_rejected`)
	a, err := v.obtain(d, credential(map[string]string{"user": "u", "!key": "k"}), broker.Selection{})
	if err != nil || a.Values["token"].Reveal() != "dTpr" || len(a.Attempts) != 0 || d.Host(credential(nil), broker.Selection{}) != "" {
		t.Errorf("got %+v %v", a, err)
	}
	if _, err := v.obtain(d, credential(map[string]string{"user": "u"}), broker.Selection{}); err == nil {
		t.Error("a token was made of an absent secret")
	}
}

func TestARefreshTakesWhatObtainTakesAndMayNameWhatIsHeld(t *testing.T) {
	v := newVendor(t, jsonSays(`{"data": {"at": "new", "rt": "next"}, "instance": "i2"}`))
	d := v.define(`
obtain: {post: "https://example.com/login", take: {token: data.at, refresh_token: data.rt, instance: instance}}
refresh: {post: "https://example.com/refresh/{{instance}}", headers: {Authorization: "Bearer {{refresh_token}}"}, text: ""}`)
	a, err := v.refresh(d, credential(nil), "r1", map[string]broker.Secret{"instance": broker.NewSecret("i1")})
	if err != nil || a.Values["token"].Reveal() != "new" || a.RefreshToken.Reveal() != "next" || a.Values["instance"].Reveal() != "i2" {
		t.Fatalf("got %+v %v", a, err)
	}
	r := v.requests()[0]
	if r.uri != "/refresh/i1" || r.header.Get("Authorization") != "Bearer r1" || r.body != "" || r.header.Get("Transfer-Encoding") != "" {
		t.Errorf("got %+v", r)
	}
}
