package provider

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// TestTryShowsHowATokenIsPresentedAndHowItsEndWasDecided, with names for secrets.
func TestTryShowsHowATokenIsPresentedAndHowItsEndWasDecided(t *testing.T) {
	exp := time.Now().Add(time.Minute).Truncate(time.Second)
	jwt := "e30." + base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"exp": %d}`, exp.Unix())) + ".x"
	v := newVendor(t, jsonSays(`{"access_token": "`+jwt+`", "expires_in": 3600, "id": "tenant-4711"}`))
	d := v.define(`
inputs: {client_id: {}, client_secret: {secret: true}, key: {secret: true, handed_out: true}}
let: {pair: {base64: "{{key}}:{{token}}"}}
obtain: {oauth2: "https://example.com/t", take: {tenant: id}}
present: {headers: {Authorization: "Bearer {{token}}", X-Pair: "{{pair}}"}, query: {k: "{{key}}"}, cookies: {sid: "{{token}}"}}
base_url: https://example.com/api/{{tenant}}
attributes: [tenant]`)
	c := &Catalog{loaded: map[string]*definition{"test": d}}
	rep, _, err := c.Try(v.context(), credential(map[string]string{"client_id": "id", "!client_secret": "s3cret-value", "!key": "k1"}), broker.Selection{}, broker.Secret{})
	if err != nil || rep.Failure != nil {
		t.Fatalf("got %+v %v", rep, err)
	}
	if rep.Source != broker.ExpiryToken || !rep.ExpiresAt.Equal(exp) {
		t.Errorf("got %v %v, want the token's own end, which is earlier", rep.ExpiresAt, rep.Source)
	}
	want := "header Authorization: Bearer <token>\nheader X-Pair: <pair>\ncookie sid=<token>\nquery k=<key>\nbase_url https://example.com/api/<tenant>\nattribute tenant"
	if got := strings.Join(rep.Presented, "\n"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	want = "401, 403, 400 without a code that is known, invalid_client, invalid_grant: CREDENTIAL_MISCONFIGURED\n200 without a token: UPSTREAM_RESPONSE_INVALID"
	if got := strings.Join(rep.Refusals, "\n"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestTrySaysWhatServeWouldNotTake(t *testing.T) {
	for body, c := range map[string]struct{ unread, failure string }{
		`{"access_token": "x", "token_type": "mac"}`:  {"", "as in present:"},
		`{"access_token": "x", "expires_in": "soon"}`: {"expires_in", ""},
		`{"access_token": "x", "expires_in": 0}`:      {"", "expired already"},
		`{"access_token": "x", "expires_in": 60}`:     {"", ""},
	} {
		v := newVendor(t, jsonSays(body))
		cat := &Catalog{loaded: map[string]*definition{"test": v.define(oauth)}}
		rep, _, err := cat.Try(v.context(), credential(client), broker.Selection{}, broker.Secret{})
		if err != nil || rep.Unread != c.unread || (rep.Failure != nil) != (c.failure != "") || rep.Failure != nil && !strings.Contains(rep.Failure.Error(), c.failure) {
			t.Errorf("%s: got %+v %v", body, rep, err)
		}
		if strings.Contains(body, "mac") && rep.Requests[0].TokenType != "mac" {
			t.Errorf("got %q", rep.Requests[0].TokenType)
		}
	}
}
