package provider

import (
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/yamldoc"
	"github.com/tokenbroker/tokenbroker/provider/transport"
)

// TestAHostThatIsNoneIsRefusedBeforeAnythingIsStored: by check where the file alone makes it, and else when the credential is given. What is stored all the same
// goes to places that can be shown, as any other.
func TestAHostThatIsNoneIsRefusedBeforeAnythingIsStored(t *testing.T) {
	const after = "\nobtain: {oauth2: 'https://{{h}}.example.com/t', auth: none}"
	v := newVendor(t, nil)
	for name, c := range map[string]struct {
		text   string
		inputs map[string]string
		want   []string
	}{
		"what a query has": {"inputs: {u: {}}\nlet: {h: {query: {of: '{{u}}', name: h}}}" + after, map[string]string{"u": "https://e.com/?h=%ff"},
			[]string{"credential.inputs.u makes no host: {{h}} cannot be part of a host's name"}},
		"what a query lacks": {"inputs: {u: {}}\nlet: {h: {query: {of: '{{u}}', name: h}}}" + after, map[string]string{"u": "https://e.com/"},
			[]string{"credential.inputs.u makes no host: compute h: query: the URL has no h"}},
		"two that make it": {"inputs: {a: {}, b: {}}\nlet: {h: {from_hex: '{{a}}{{b}}'}}" + after, map[string]string{"a": "f", "b": "f"},
			[]string{"credential.inputs.a makes no host: {{h}} cannot be part of a host's name", "credential.inputs.b makes no host: {{h}} cannot be part of a host's name"}},
		"of base_url": {"inputs: {u: {}}\nlet: {h: {from_hex: '{{u}}'}}\nbase_url: 'https://{{h}}/'\nobtain: {oauth2: 'https://example.com/t', auth: none}", map[string]string{"u": "ff"},
			[]string{"credential.inputs.u makes no host: {{h}} cannot be part of a host's name"}},
		"a whole URL": {"inputs: {u: {}}\nlet: {h: {from_hex: '{{u}}'}}\nobtain: {oauth2: '{{h}}/t', auth: none}", map[string]string{"u": "ff"},
			[]string{"credential.inputs.u makes no host: {{h}} is not a URL that may be asked: it must be absolute, with https (or be of a host in upstream.allow_http), and without user, fragment, . and .."}},
		"a good one":             {"inputs: {u: {}}\nlet: {h: {query: {of: '{{u}}', name: h}}}" + after, map[string]string{"u": "https://e.com/?h=eu"}, nil},
		"what only callers know": {"inputs: {u: {}}\nparameters: {p: {one_of: [eu, us]}}\nobtain: {oauth2: 'https://{{p}}.example.com/{{u}}', auth: none}", map[string]string{"u": "x"}, nil},
		"what an answer tells":   {"inputs: {u: {}}\nobtain: [{get: 'https://example.com/{{u}}', take: {h: h}}, {oauth2: 'https://{{h}}/t', auth: none}]", map[string]string{"u": "x"}, nil},
		"nothing was given":      {"inputs: {u: {optional: true}}\nlet: {h: {first: ['{{u}}', eu]}}" + after, nil, nil},
	} {
		d := v.define(c.text)
		cred := credential(c.inputs)
		var got []string
		for _, w := range d.wrong(cred) {
			got = append(got, w.Field+" "+w.Description)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
		for _, x := range d.Destinations(cred) {
			if !utf8.ValidString(x.Place) {
				t.Errorf("%s: got the place %q", name, x.Place)
			}
		}
	}
}

// TestAHostOfTheFileThatIsNoneIsAProblemOfTheFile
func TestAHostOfTheFileThatIsNoneIsAProblemOfTheFile(t *testing.T) {
	for text, wrong := range map[string]bool{
		"let: {h: {from_hex: 'ff'}}\nobtain: {oauth2: 'https://{{h}}.example.com/t', auth: none}":                                true,
		"let: {h: {from_hex: '6575'}}\nobtain: {oauth2: 'https://{{h}}.example.com/t', auth: none}":                              false,
		"let: {h: {from_hex: 'ff'}}\nobtain: {oauth2: 'https://example.com/t', auth: none}\nbase_url: 'https://{{h}}/'":          true,
		"let: {h: {from_hex: 'ff'}}\nobtain: {oauth2: '{{h}}/t', auth: none}":                                                    true,
		"let: {h: 'http://localhost:8080'}\nobtain: {oauth2: '{{h}}/t', auth: none}":                                             false,
		"inputs: {i: {default: ff}}\nlet: {h: {from_hex: '{{i}}'}}\nobtain: {oauth2: 'https://{{h}}.example.com/t', auth: none}": true,
		"inputs: {i: {}}\nlet: {h: {from_hex: '{{i}}'}}\nobtain: {oauth2: 'https://{{h}}.example.com/t', auth: none}":            false,
		"inputs: {i: {optional: true}}\nlet: {h: {first: ['{{i}}', 'a b']}}\nobtain: {oauth2: 'https://{{h}}/t', auth: none}":    false,
	} {
		found := yamldoc.Errors(Check("", []byte("name: x\n"+text)))
		if (len(found) > 0) != wrong {
			t.Errorf("%s: got %v", text, found)
		}
		for _, p := range found {
			if !strings.Contains(p.Message, "a URL that nobody can ask") || p.Line == 0 {
				t.Errorf("%s: got %v", text, p)
			}
		}
	}
}

// TestWhatIsNoTextIsShownToNobody: callers are told texts. Whose failure it is tells what it is made of.
func TestWhatIsNoTextIsShownToNobody(t *testing.T) {
	v := newVendor(t, jsonSays(`{"t": "token"}`))
	raw := "inputs: {id: {}}\nlet: {raw: {from_hex: 'ff'}}\n"
	for text, want := range map[string]broker.Kind{
		"obtain: {get: 'https://example.com/{{id}}', take: {token: t}}\npresent: {query: {a: '{{token}}', b: '{{raw}}'}}": broker.UpstreamResponseInvalid,
		"obtain: {get: 'https://example.com/{{id}}', take: {token: t}}\nheaders: {X: '{{raw}}'}":                          broker.UpstreamResponseInvalid,
		"token: '{{id}}{{raw}}'":                                     broker.CredentialMisconfigured,
		"token: '{{id}}{{raw}}'\npresent: {query: {a: '{{token}}'}}": broker.CredentialMisconfigured,
		"parameters: {p: {}}\ntoken: '{{id}}{{p}}{{raw}}'":           broker.RequestInvalid,
	} {
		_, err := v.obtain(v.define(raw+text), credential(map[string]string{"id": "a"}), broker.Selection{Parameters: broker.NewPairs(map[string]string{"p": "b"})})
		if e := upstreamError(t, err); e.Kind() != want || !strings.Contains(e.Detail, "the token cannot be shown: ") {
			t.Errorf("%s: got %v", text, err)
		}
	}
}

// TestAnAPIThatNobodyMayBeSentToIsFoundFirst: before anything is asked, and whoever runs the broker is told what to set.
func TestAnAPIThatNobodyMayBeSentToIsFoundFirst(t *testing.T) {
	for text, tt := range map[string]struct {
		at    string
		wants string // empty: it is given
	}{
		"base_url: 'http://127.0.0.1:9000/'":                        {wants: "base_url: only https is allowed; the operator may allow a host with upstream.allow_http"},
		"base_url: 'http://api.example.com:9000/'":                  {},
		"base_url: '{{at}}/v1'":                                     {at: "http://127.0.0.1:9000", wants: "base_url: {{at}} is not a URL that may be asked"},
		"let: {to: 'http://127.0.0.1:9000'}\nbase_url: '{{to}}/v1'": {wants: "base_url: {{to}} is not a URL that may be asked"},
	} {
		for _, how := range []string{"obtain: {get: 'https://example.com/t', take: {token: t}}\n", "token: '{{k}}'\n"} {
			v := newVendor(t, jsonSays(`{"t": "token"}`), func(s *transport.Settings) { s.AllowHTTP = append(s.AllowHTTP, "api.example.com") })
			_, err := v.obtain(v.define(how+"inputs: {k: {secret: true, handed_out: true}, at: {format: url, optional: true}}\n"+text), credential(map[string]string{"!k": "a", "at": tt.at}), broker.Selection{})
			if tt.wants == "" {
				if err != nil {
					t.Errorf("%s%s: %v", how, text, err)
				}
				continue
			}
			if e := upstreamError(t, err); e.Kind() != broker.CredentialMisconfigured || !strings.Contains(e.Detail, tt.wants) || len(v.requests()) != 0 {
				t.Errorf("%s%s: got %v after %d requests", how, text, err, len(v.requests()))
			}
		}
	}
}
