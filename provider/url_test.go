package provider

import (
	"bufio"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/provider/transport"
)

// segmentsOf are the segments of a request's path as a strict server reads them: split first, decoded then.
func segmentsOf(t testing.TB, uri string) []string {
	t.Helper()
	raw, _, _ := strings.Cut(uri, "?")
	var out []string
	for s := range strings.SplitSeq(strings.TrimPrefix(raw, "/"), "/") {
		plain, err := url.PathUnescape(s)
		if err != nil {
			t.Fatalf("%s: %v", uri, err)
		}
		out = append(out, plain)
	}
	return out
}

func TestAValueInAPathIsOneSegmentWhateverStandsAroundIt(t *testing.T) {
	v := newVendor(t, jsonSays(`{"t": "token"}`))
	for literal, arrives := range map[string]string{"tenants": "tenants", "größe": "größe", "a|b": "a|b", "100%25": "100%", "two words": "two words", "a%2Fb": "a/b", `q"[^]<>`: `q"[^]<>`} {
		d := v.define("inputs: {s: {secret: true}}\nparameters: {p: {}}\nobtain: {post: 'https://example.com/" + literal + "/{{p}}/token', form: {s: '{{s}}'}, take: {token: t}}\n")
		for _, p := range []string{"a/b/c", "x/admin/keys?x=", "a;b", "a#b", "%2e%2ea", "%2F", `a\b`, "größe", "\r\n", "a b", "...", "\xff"} {
			before := len(v.requests())
			if _, err := v.obtain(d, credential(map[string]string{"!s": "x"}), broker.Selection{Parameters: broker.NewPairs(map[string]string{"p": p})}); err != nil {
				t.Errorf("%s, %q: %v", literal, p, err)
				continue
			}
			if got, want := segmentsOf(t, v.requests()[before].uri), []string{arrives, p, "token"}; !slices.Equal(got, want) {
				t.Errorf("%s: got %q, want %q", literal, got, want)
			}
		}
		for _, p := range []string{"", ".", "..", "../..", `..\x`, "a/../b", "a/.", "..;x", "%2e%2e", "x/..?", "x%2f..%2fadmin", "%25%32e."} {
			before := len(v.requests())
			_, err := v.obtain(d, credential(map[string]string{"!s": "x"}), broker.Selection{Parameters: broker.NewPairs(map[string]string{"p": p})})
			if e := upstreamError(t, err); e.Level != broker.LevelRequest || !strings.Contains(e.Detail, "{{p}}") || len(v.requests()) != before {
				t.Errorf("%s, %q: got %v, want a refusal that names what the caller chose", literal, p, err)
			}
		}
	}
}

func TestAURLThatCanNeverBeAskedIsRefusedWithAdvice(t *testing.T) {
	for address, want := range map[string]string{
		"https://a b/":                    "is not a host's name",
		"https:///x":                      "the host is missing; write https://host/path",
		"https://":                        "the host is missing",
		"https://u:p@example.com/":        "write auth: {basic: [user, password]}",
		"https://example.com/a/../b":      "write the path that it leads to",
		"https://example.com/a/%2e%2E/b":  "write the path that it leads to",
		"https://example.com/./{{i}}":     "write the path that it leads to",
		"https://example.com/.{{i}}/..":   "write the path that it leads to",
		"https://example.com/#top":        "write %23 for a literal #",
		"https://example.com/100%":        "write %25 for a literal %",
		"https://example.com/?a=%zz":      "write %25 for a literal %",
		"https://example.com/a\\nb":       "write their code",
		"https://example.com:/":           "from 1 to 65535",
		"https://example.com:99999/":      "from 1 to 65535",
		"https://example.com:4{{i}}/":     "from 1 to 65535",
		"https://a..b/":                   "is not a host's name",
		"https://größe.example/":          "xn--",
		"https://[::1/":                   "IPv6",
		"https://[{{i}}]/":                "IPv6",
		"https://[fe80::1%25eth0]/":       "IPv6",
		"HTTPS://example.com/":            "begins with https://",
		"{{u}}evil.example/":              "comes / or ?",
		"{{u}}{{i}}/":                     "comes / or ?",
		"{{i}}/x":                         "format: url",
		"https://{{u}}/x":                 "begin the URL with {{u}}",
		"https://{{hp}}.example.com/x":    "write https://{{hp}}/…",
		"https://{{hp}}:8443/x":           "write https://{{hp}}/…",
		"https://{{region}}.a.example/x":  `a value of {{region}} must be a host's name`,
		"https://example.com/{{none}}/x":  `a value of {{none}} must not be empty`,
		"https://example.com/?q={{none}}": `a value of {{none}} must not be empty`,
		"https://example.com/{{up}}/x":    `a value of {{up}} must not lead elsewhere`,
		"https://example.com:{{up}}/x":    `a value of {{up}} must be a port`,
		"https://{{sub}}.example.com/":    `a value of {{sub}} must be a host's name`,
	} {
		text := "name: x\ninputs: {i: {}, u: {format: url}, hp: {format: host_path}, none: {default: ''}, up: {default: '..'}, region: {one_of: [us, eu/x]}}\nparameters: {sub: {one_of: ['a:1']}}\n" +
			"obtain: {post: \"" + address + "\", take: {token: t}}\n"
		if got := strings.Join(check(t, text), "\n"); !strings.Contains(got, want) {
			t.Errorf("%s: got %q, want %q", address, got, want)
		}
		if got := strings.Join(check(t, strings.Replace(text, "obtain: {post:", "token: t\nbase_url: ", 1)), "\n"); got == "" {
			t.Errorf("%s is taken as a base_url", address)
		}
	}
	for _, address := range []string{
		"https://example.com", "https://example.com?a={{i}}", "https://[2001:db8::1]:8443/{{i}}", "https://[::1]", "{{u}}?a=b", "{{u}}/{{i}}/", "https://{{hp}}/x",
		"https://{{hp}}", "https://{{i}}", "https://x-{{i}}.example.com:{{i}}/", "http://localhost:8080//a//", "https://example.com/{{{{x}}",
	} {
		if got := check(t, "name: x\ninputs: {i: {}, u: {format: url}, hp: {format: host_path}}\nobtain: {post: \""+address+"\", take: {token: t}}\n"); len(got) > 0 {
			t.Errorf("%s: got %v", address, got)
		}
	}
}

func TestWhatCannotStandInAURLIsAnInputsFault(t *testing.T) {
	v := newVendor(t, nil)
	d := v.define(`
inputs: {sub: {}, port: {}, seg: {}, place: {format: host_path}, server: {format: url}}
obtain:
- {get: "https://{{sub}}.example.com:{{port}}/{{seg}}", take: {a: a}}
- {get: "https://{{place}}/oauth", take: {token: t}}
base_url: "{{server}}/api"`)
	good := map[string]string{"sub": "acme", "port": "8443", "seg": "a/b", "place": "example.com/eu", "server": "HTTPS://example.com/x/"}
	if got := d.wrong(credential(good)); len(got) > 0 {
		t.Fatal(got)
	}
	for input, values := range map[string][]string{
		"sub": {"a:1", "a/b", "u@h", "a..b", "größe"}, "port": {"0", "x", "65536", "8443/x"}, "seg": {".", "..", "a/.."},
		"place":  {"https://example.com", "example.com/a?b=c", "u@example.com", "example.com/../x", "/x", "a b/c", "example.com#x"},
		"server": {"https://example.com/../x", "https://example.com/#x", "https:///x", "https://u@example.com", "https://example.com:99999"},
	} {
		for _, value := range values {
			inputs := map[string]string{}
			for k, x := range good {
				inputs[k] = x
			}
			inputs[input] = value
			if got := d.wrong(credential(inputs)); len(got) != 1 || got[0].Field != "credential.inputs."+input {
				t.Errorf("%s %q: got %v, want one violation", input, value, got)
			}
		}
	}
	if got := d.Facts().PlaceInputs; !slices.Equal(got, []string{"place", "port", "server", "sub"}) {
		t.Errorf("got places of %v", got)
	}
}

func TestAHostWithItsPathInOneInput(t *testing.T) {
	v := newVendor(t, jsonSays(`{"t": "token"}`))
	d := v.define(`
inputs: {instance: {format: host_path, prefix: "https://"}, id: {}}
obtain: {post: "https://{{instance}}/oauth/{{id}}", take: {token: t}}
base_url: "https://{{instance}}/api"`)
	for value, want := range map[string]string{
		"example.com": "/oauth/a%2Fb", "example.com/": "/oauth/a%2Fb", "example.com:443/eu/base": "/eu/base/oauth/a%2Fb", "https://example.com/größe/a%2Fb/": "/gr%C3%B6%C3%9Fe/a%2Fb/oauth/a%2Fb",
	} {
		c := credential(map[string]string{"instance": value, "id": "a/b"})
		if got := d.wrong(c); len(got) > 0 {
			t.Errorf("%s: %v", value, got)
		}
		if _, err := v.obtain(d, c, broker.Selection{}); err != nil {
			t.Errorf("%s: %v", value, err)
			continue
		}
		all := v.requests()
		if got := all[len(all)-1].uri; got != want {
			t.Errorf("%s: got %s, want %s", value, got, want)
		}
		if got := d.Host(c, broker.Selection{}); got != "example.com:443" {
			t.Errorf("%s: got host %s", value, got)
		}
	}
}

func TestWhereAURLLeadsFollowsFromItsParts(t *testing.T) {
	v := newVendor(t, nil)
	d := v.define(`
inputs: {place: {format: host_path}, port: {}, sub: {}, server: {format: url}, id: {}}
parameters: {region: {one_of: [eu, us]}}
obtain:
- {get: "https://{{place}}/{{id}}?a={{id}}", take: {a: a}}
- {get: "https://x-{{sub}}.example.com:{{port}}/{{id}}", take: {b: b}}
- {get: "https://{{region}}.example.com:{{port}}/{{a}}", take: {token: t}}
base_url: "{{server}}/{{id}}"`)
	inputs := map[string]string{"place": "place.example:443/base", "port": "8443", "sub": "s", "server": "https://Server.example:1/a/b?", "id": "i"}
	var got []string
	for _, x := range d.Destinations(credential(inputs)) {
		if x.Use == broker.Requests || x.Use == broker.API {
			got = append(got, x.Place)
		}
	}
	slices.Sort(got)
	want := []string{"https://place.example", "https://server.example:1", "https://x-s.example.com:8443", "https://{region: eu, us}.example.com:8443"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestTheLastSlashOfAWholeURLIsKeptWhereNothingFollows(t *testing.T) {
	v := newVendor(t, jsonSays(`{"access_token": "token"}`))
	d := v.define("inputs: {token_url: {format: url}}\nobtain: {oauth2: '{{token_url}}', auth: none}")
	if _, err := v.obtain(d, credential(map[string]string{"token_url": "https://example.com/o/token/?a=b"}), broker.Selection{}); err != nil {
		t.Fatal(err)
	}
	if got := v.requests()[0].uri; got != "/o/token/?a=b" {
		t.Errorf("got %s", got)
	}
}

// FuzzURL: whatever a template's literals are, and whatever fills it, a server reads the host, the segments and the query that
// were meant, or nothing is sent.
func FuzzURL(f *testing.F) {
	tr, err := transport.New(transport.Settings{})
	if err != nil {
		f.Fatal(err)
	}
	d := &definition{transport: tr, inputs: map[string]*input{"h": {format: hostPathFormat}}}
	for i, s := range []string{"a", "..", "../..", "@evil", `\`, "%2e", "%5C", "?", "#", ":", "//x", "\r\n", "é", "a/b", "", ";", "\xff", "8443", "https://u@h", "https://e.com/p/", "e.com/b/"} {
		for j, template := range []string{
			"https://a.b/x/{{p}}/y", "https://a.b/größe/{{p}}", "https://a.b/a|b/{{p}}", "https://a.b/x y/{{p}}?q=[{{p}}]&z=1", "https://a.b/%7E%2f/{{p}}", "https://a.b?{{p}}", "https://a.b#{{p}}",
			"https://{{p}}.b/", "https://a.b:{{p}}/", "{{p}}/x", "{{p}}?x=1", "https://{{h}}/x", "https://a.b/{{p}}{{q}}", "https://[::1]/{{p}}/",
		} {
			if (i+j)%5 == 0 { // each with each would take longer than most runs
				f.Add(template, s, []string{"b", ".", "/"}[i%3])
			}
		}
	}
	const first, second = "0FIRST0", "0SECOND0"
	f.Fuzz(func(t *testing.T, template, p, q string) {
		parts, err := parseText(template)
		if err != nil {
			return
		}
		u, err := parseURL(text{parts: parts})
		if err != nil {
			return
		}
		build := func(p, q string) (*url.URL, error) {
			v := newValues(nil)
			v.set("p", p, false)
			v.set("q", q, false)
			v.set("h", p, false)
			return d.url(u, v)
		}
		got, err := build(p, q)
		if err != nil {
			return
		}
		if u.whole != "" || u.hostPath() == "h" {
			base := p
			if u.whole == "" {
				base = u.scheme + "://" + p
			}
			if want, err := url.Parse(base); err != nil || want.Host != got.Host || want.User != nil {
				t.Fatalf("%q with %q: got host %q, want %v", template, p, got.Host, want)
			}
			return
		}
		served := received(t, got)
		if p == "" && strings.Contains(template, "{{p}}") {
			t.Fatalf("%q: filled by nothing", template)
		}
		// With harmless values it is what net/url makes of the template, and with these it differs in them alone.
		var plainTemplate strings.Builder
		for _, p := range parts {
			plainTemplate.WriteString(p.literal + map[string]string{"p": first, "h": first, "q": second}[p.name])
		}
		plain, err := build(first, second)
		if err != nil {
			return // they are no port
		}
		if want, err := url.Parse(plainTemplate.String()); err == nil && (!strings.EqualFold(want.Host, plain.Host) || want.Path != plain.Path || want.Query().Encode() != plain.Query().Encode()) {
			t.Fatalf("%q: got %q, net/url makes %q of it", template, plain, want)
		}
		fill := strings.NewReplacer(first, p, second, q)
		if want := fill.Replace(plain.Host); served.Host != want {
			t.Fatalf("%q with %q and %q: got host %q, want %q", template, p, q, served.Host, want)
		}
		var want []string
		for _, s := range segmentsOf(t, plain.RequestURI()) {
			want = append(want, fill.Replace(s))
		}
		if arrived := segmentsOf(t, served.RequestURI); !slices.Equal(arrived, want) {
			t.Fatalf("%q with %q and %q: got segments %q, want %q", template, p, q, arrived, want)
		}
		for _, s := range want {
			if s == "." || s == ".." {
				t.Fatalf("%q with %q and %q leads elsewhere", template, p, q)
			}
		}
		wanted := url.Values{}
		for name, values := range plain.Query() {
			for _, value := range values {
				wanted.Add(fill.Replace(name), fill.Replace(value))
			}
		}
		if query := served.URL.Query(); len(query) > len(wanted) || len(wanted) == len(plain.Query()) && query.Encode() != wanted.Encode() {
			t.Fatalf("%q with %q and %q: got query %v, want %v", template, p, q, query, wanted)
		}
	})
}

// received is a request as a server reads it.
func received(t *testing.T, u *url.URL) *http.Request {
	t.Helper()
	r, err := http.NewRequest(http.MethodGet, u.String(), nil)
	if err != nil {
		t.Fatalf("%q cannot be asked: %v", u, err)
	}
	r.URL = u
	var wire strings.Builder
	if err := r.Write(&wire); err != nil {
		t.Fatalf("%q cannot be sent: %v", u, err)
	}
	served, err := http.ReadRequest(bufio.NewReader(strings.NewReader(wire.String())))
	if err != nil {
		t.Fatalf("%q cannot be read: %v", u, err)
	}
	return served
}
