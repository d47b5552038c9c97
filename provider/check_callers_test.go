package provider

import (
	"strings"
	"testing"
)

// TestCallersGetNoRefreshToken, under whichever name: what they always get of a token, and what a definition shows them besides.
func TestCallersGetNoRefreshToken(t *testing.T) {
	const is, holds = "callers would get the refresh token: take it as refresh_token alone", "callers would get what the refresh token is in"
	post := func(take string) string { return "name: x\nobtain: {post: \"https://e.com/\", take: {" + take + "}}\n" }
	oauth2 := func(take string) string {
		return "name: x\nobtain: {oauth2: \"https://e.com/\", auth: none, take: {" + take + "}}\n"
	}
	for text, want := range map[string]string{
		oauth2("token: refresh_token"):                                  "take.token: " + is,
		oauth2("scope: refresh_token"):                                  "take.scope: " + is,
		oauth2("scope: [nothing, refresh_token]"):                       "take.scope: " + is,
		oauth2("token_type: refresh_token"):                             "take.token_type: " + is,
		oauth2("token_type: data.refreshToken"):                         "take.token_type: " + is,
		oauth2("own: refresh_token") + "attributes: [own]":              "take.own: " + is,
		post("token: t, refresh_token: r, scope: r"):                    "take.scope: " + is,
		post("token: t, refresh_token: r, token_type: $.r"):             "take.token_type: " + is,
		post("token: t, refresh_token: d.r, scope: 'd.\"r\"'"):          "take.scope: " + is,
		post("token: {text: true}, refresh_token: r"):                   "take.token: " + holds,
		post("token: $, refresh_token: r"):                              "take.token: " + holds,
		post(`token: {path: d, pattern: "r=(.*)"}, refresh_token: d.r`): "take.token: " + holds,
		post("token: t, refresh_token: d.e.r, scope: d"):                "take.scope: " + holds,
		post("token: t, refresh_token: 'd[0].r', token_type: 'd[0]'"):   "take.token_type: " + holds,
		post("token: t, refresh_token: d.r, own: d") +
			"attributes: [own]": "take.own: " + holds,
		post("token: t, refresh_token: d.r, own: {text: true}") + "attributes: [own]":                                         "take.own: " + holds,
		post("token: t, refresh_token: {cookie: rt}, own: {header: set-cookie}") + "attributes: [own]":                        "take.own: " + holds,
		post("token: t, refresh_token: {header: Location, pattern: 'r=(.*)'}, own: {header: location}") + "attributes: [own]": "take.own: " + holds,
		post("token: t, jwt: j, refresh_token: {claim: rt, of: jwt}") + "attributes: [jwt]":                                   "take.jwt: " + holds,
		post("token: j, refresh_token: {claim: rt, of: token}"):                                                               "take.token: " + holds,
		post("token: t, refresh_token: 'l[0].v', own: 'l[-1].v'") + "attributes: [own]":                                       "take.own: " + is,
		post("token: t, refresh_token: 'l[0].v', own: 'l[-1]'") + "attributes: [own]":                                         "take.own: " + holds,
	} {
		if got := strings.Join(check(t, text), "\n"); !strings.Contains(got, want) {
			t.Errorf("%s\ngot  %s\nwant %s", text, got, want)
		}
	}
	for _, text := range []string{
		oauth2("scope: granted, token_type: kind"), post("token: d.t, refresh_token: d.r, scope: d.s"), post("token: {text: true}"),
		"name: x\nobtain: [{get: \"https://e.com/\", take: {csrf: {text: true, pattern: \"c=(.*)\"}}}, {post: \"https://e.com/\", form: {c: \"{{csrf}}\"}, take: {token: t, refresh_token: r}}]\nattributes: [csrf]",
	} {
		if got := check(t, text); len(got) > 0 {
			t.Errorf("%s\ngot %v", text, got)
		}
	}
}
