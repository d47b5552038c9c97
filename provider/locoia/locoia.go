// Package locoia turns configurations of Locoia's connectors into definitions. It decides what a connector's settings mean in
// the definition language, says what it had to decide, and knows nothing of how a definition is run.
package locoia

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/jsondoc"
	"github.com/tokenbroker/tokenbroker/provider"
)

// A connector is the configuration of Locoia's "Refreshable Token" authentication, with the header block that goes with it,
// beside or inside it.
type connector struct {
	Name                            string            `json:"name"`
	AuthorizationURL                string            `json:"authorization_request_url"`
	AuthorizationMethod             string            `json:"authorization_request_method"`
	AuthorizationHeaders            map[string]string `json:"authorization_request_headers"`
	AuthorizationBody               *string           `json:"authorization_request_body_template"`
	AccessTokenPath                 string            `json:"response_access_token_path"`
	AccessTokenInHeader             string            `json:"response_access_token_path_in_header"`
	AccessTokenInCookie             string            `json:"response_access_token_path_in_cookie"`
	RefreshTokenPath                string            `json:"response_refresh_token_path"`
	RefreshURL                      string            `json:"refresh_request_url"`
	RefreshHeaders                  map[string]string `json:"refresh_request_headers"`
	RefreshBody                     *string           `json:"refresh_request_body_template"`
	RefreshResponseAccessTokenPath  string            `json:"refresh_response_access_token_path"`
	RefreshResponseRefreshTokenPath string            `json:"refresh_response_refresh_token_path"`

	HeaderConfiguration *header `json:"header_configuration"`
	header
}

type header struct {
	Encode        bool              `json:"encode"`
	TokenInHeader *bool             `json:"token_in_header"`
	HeaderKey     string            `json:"header_key"`
	TokenFormat   string            `json:"token_format"`
	TokenPrefix   string            `json:"token_prefix"`
	Headers       map[string]string `json:"headers"`
}

// placeholder is a name in a template of Locoia's.
var placeholder = regexp.MustCompile(`\{\{\s*([A-Za-z_][A-Za-z0-9_]*)\s*\}\}`)

// Import turns a configuration of Locoia's "Refreshable Token" connector, in JSON, into a definition, and says what it
// had to decide. It fails with a sentence that says what it cannot read.
func Import(data []byte) (definition []byte, notes []string, err error) {
	var l connector
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&l); err != nil {
		return nil, nil, fmt.Errorf("import: the configuration is not what Locoia's connector has: %s", clipTo(err.Error(), 200))
	}
	if l.AuthorizationURL == "" {
		return nil, nil, fmt.Errorf("import: authorization_request_url is missing")
	}
	im := &importer{l: l, inputs: map[string]bool{}, urls: map[string]bool{}}
	doc := im.definition()
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := enc.Encode(doc); err != nil {
		return nil, nil, fmt.Errorf("import: the definition cannot be written")
	}
	if err := enc.Close(); err != nil {
		return nil, nil, fmt.Errorf("import: the definition cannot be written")
	}
	for _, p := range provider.Check("", out.Bytes()) {
		notes = append(notes, "to be mended by hand: "+p.String())
	}
	return out.Bytes(), append(im.notes, notes...), nil
}

func clipTo(s string, n int) string {
	if len(s) > n {
		return s[:n] + "…"
	}
	return s
}

type importer struct {
	l      connector
	inputs map[string]bool // name to: is secret
	urls   map[string]bool // inputs that a URL begins with
	notes  []string
}

func (im *importer) note(format string, args ...any) {
	im.notes = append(im.notes, fmt.Sprintf(format, args...))
}

// a mapping in order
func mapping(kv ...any) *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode}
	for i := 0; i+1 < len(kv); i += 2 {
		if kv[i+1] == nil {
			continue
		}
		v := &yaml.Node{}
		if x, ok := kv[i+1].(*yaml.Node); ok {
			if x == nil {
				continue
			}
			v = x
		} else if err := v.Encode(kv[i+1]); err != nil {
			continue
		}
		n.Content = append(n.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: fmt.Sprint(kv[i])}, v)
	}
	return n
}

func (im *importer) definition() *yaml.Node {
	l := im.l
	name := strings.Trim(regexp.MustCompile(`[^a-z0-9]+`).ReplaceAllString(strings.ToLower(l.Name), "-"), "-")
	if name == "" {
		name = "imported"
		im.note("it has no name: the definition is called %q, as its file must be", name)
	}
	obtain := im.request(l.AuthorizationMethod, l.AuthorizationURL, l.AuthorizationHeaders, l.AuthorizationBody, broker.Obtain)
	obtain.Content = append(obtain.Content, mapping("take", im.take(l.AccessTokenPath, l.RefreshTokenPath, true)).Content...)
	var refresh *yaml.Node
	if l.RefreshURL != "" {
		refresh = im.request("POST", l.RefreshURL, l.RefreshHeaders, l.RefreshBody, broker.Refresh)
		if l.RefreshResponseAccessTokenPath != "" || l.RefreshResponseRefreshTokenPath != "" {
			take := im.take(or(l.RefreshResponseAccessTokenPath, l.AccessTokenPath), or(l.RefreshResponseRefreshTokenPath, l.RefreshTokenPath), l.RefreshResponseAccessTokenPath == "")
			refresh.Content = append(refresh.Content, mapping("take", take).Content...)
		}
	} else if l.RefreshTokenPath != "" {
		im.note("response_refresh_token_path without refresh_request_url: the refresh token is not taken, the token is obtained anew")
	}
	let, present := im.present()
	im.note("no lifetime is configured: tokens are kept until the API refuses one, for at most a day; set lifetime where you know it")
	var inputs *yaml.Node
	for _, in := range slices.Sorted(maps.Keys(im.inputs)) {
		if inputs == nil {
			inputs = &yaml.Node{Kind: yaml.MappingNode}
		}
		one := mapping()
		switch {
		case im.urls[in]: // in a path a secret would be refused anyway
			one = mapping("format", "url")
		case im.inputs[in]:
			one = mapping("secret", true)
		}
		one.Style = yaml.FlowStyle
		inputs.Content = append(inputs.Content, mapping(in, one).Content...)
	}
	return mapping("name", name, "inputs", inputs, "let", let, "obtain", obtain, "refresh", refresh, "lifetime", "until_rejected", "present", present)
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// names turns Locoia's template into ours and gathers its inputs.
func (im *importer) names(s string) string {
	return placeholder.ReplaceAllStringFunc(s, func(m string) string {
		name := strings.ToLower(placeholder.FindStringSubmatch(m)[1])
		switch name {
		case "refresh_token":
		case "access_token", "token":
			name = "token"
		default:
			if _, ok := im.inputs[name]; !ok {
				im.inputs[name] = secretish(name)
			}
		}
		return "{{" + name + "}}"
	})
}

// secretish: names that speak of secrets.
func secretish(name string) bool {
	for _, w := range []string{"pass", "secret", "key", "token", "pin"} {
		if strings.Contains(name, w) {
			return true
		}
	}
	return false
}

func (im *importer) request(method, address string, headers map[string]string, body *string, place broker.Run) *yaml.Node {
	method = strings.ToLower(or(method, "POST"))
	address, _, _ = strings.Cut(address, "#") // it was never sent
	address, query, _ := strings.Cut(address, "?")
	if m := placeholder.FindStringSubmatchIndex(address); m != nil && m[0] == 0 {
		im.urls[strings.ToLower(address[m[2]:m[3]])] = true
	}
	h := map[string]string{}
	contentType := ""
	for k, v := range headers {
		if strings.EqualFold(k, "Content-Type") {
			contentType = strings.ToLower(v)
		}
		h[k] = im.names(v)
	}
	n := mapping(method, im.names(address), "query", im.pairs(query), "headers", mapOrNil(h))
	if body == nil || *body == "" {
		if method == "post" || method == "put" {
			n.Content = append(n.Content, mapping("text", "").Content...)
		}
		return n
	}
	if method == "get" {
		im.note("%s: a GET has no body; the template is dropped", place)
		return n
	}
	switch trimmed := strings.TrimSpace(*body); {
	case strings.HasPrefix(trimmed, "{") || strings.HasPrefix(trimmed, "["):
		if doc, err := jsondoc.Read([]byte(im.names(trimmed))); err == nil {
			n.Content = append(n.Content, mapping("json", jsonNode(doc)).Content...)
			return n
		}
		im.note("%s: the body looks like JSON and is none; it is sent as text", place)
		n.Content = append(n.Content, mapping("text", im.names(*body)).Content...)
	case strings.Contains(contentType, "x-www-form-urlencoded") || strings.Contains(trimmed, "="):
		n.Content = append(n.Content, mapping("form", im.pairs(trimmed)).Content...)
	default:
		n.Content = append(n.Content, mapping("text", im.names(*body)).Content...)
	}
	return n
}

// jsonNode writes a document with its numbers as they are spelled.
func jsonNode(doc any) *yaml.Node {
	n := &yaml.Node{}
	switch x := doc.(type) {
	case map[string]any:
		n.Kind = yaml.MappingNode
		for _, k := range slices.Sorted(maps.Keys(x)) {
			n.Content = append(n.Content, mapping(k, jsonNode(x[k])).Content...)
		}
	case []any:
		n.Kind = yaml.SequenceNode
		for _, e := range x {
			n.Content = append(n.Content, jsonNode(e))
		}
	case string:
		n.SetString(x)
	default: // a number, true, false or null
		n.Kind, n.Value = yaml.ScalarNode, jsondoc.Text(x)
		if x == nil {
			n.Tag, n.Value = "!!null", "null"
		}
	}
	return n
}

// pairs reads a=b&c=d; its values are templates, and what is not a name is encoded. A name that is there twice has a list.
func (im *importer) pairs(s string) any {
	if s == "" {
		return nil
	}
	n := &yaml.Node{Kind: yaml.MappingNode}
	at := map[string]*yaml.Node{}
	for p := range strings.SplitSeq(s, "&") {
		k, v, _ := strings.Cut(p, "=")
		member := mapping(unescape(k), im.names(unescape(v))).Content
		there, twice := at[member[0].Value]
		switch {
		case !twice:
			at[member[0].Value] = member[1]
			n.Content = append(n.Content, member...)
		case there.Kind == yaml.SequenceNode:
			there.Content = append(there.Content, member[1])
		default:
			first := *there
			*there = yaml.Node{Kind: yaml.SequenceNode, Content: []*yaml.Node{&first, member[1]}}
		}
	}
	return n
}

// unescape decodes what stands between the names of a template.
func unescape(s string) string {
	var b strings.Builder
	literal := func(s string) {
		if plain, err := url.QueryUnescape(s); err == nil {
			s = plain
		}
		b.WriteString(s)
	}
	last := 0
	for _, m := range placeholder.FindAllStringIndex(s, -1) {
		literal(s[last:m[0]])
		b.WriteString(s[m[0]:m[1]])
		last = m[1]
	}
	literal(s[last:])
	return b.String()
}

func mapOrNil(m map[string]string) any {
	if len(m) == 0 {
		return nil
	}
	n := &yaml.Node{Kind: yaml.MappingNode}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		n.Content = append(n.Content, mapping(k, m[k]).Content...)
	}
	return n
}

func (im *importer) take(access, refresh string, elsewhere bool) *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode}
	switch {
	case elsewhere && im.l.AccessTokenInHeader != "":
		n = mapping("token", mapping("header", im.l.AccessTokenInHeader))
	case elsewhere && im.l.AccessTokenInCookie != "":
		n = mapping("token", mapping("cookie", im.l.AccessTokenInCookie))
		im.note("response_access_token_path_in_cookie: it was any part of a cookie's name; %q must be the whole name", im.l.AccessTokenInCookie)
	default:
		n = mapping("token", or(access, "access_token"))
	}
	if refresh != "" && im.l.RefreshURL != "" {
		n.Content = append(n.Content, mapping("refresh_token", refresh).Content...)
	}
	return n
}

// present turns the header block into let and present.
func (im *importer) present() (let, present *yaml.Node) {
	h := im.l.header
	if im.l.HeaderConfiguration != nil {
		h = *im.l.HeaderConfiguration
	}
	inQuery := h.TokenInHeader != nil && !*h.TokenInHeader
	if !inQuery && h.HeaderKey == "" && h.TokenPrefix == "" && h.TokenFormat == "" && len(h.Headers) == 0 {
		return nil, nil
	}
	format := im.names(or(h.TokenFormat, "{{token}}"))
	value := strings.ReplaceAll(or(h.TokenPrefix, "{{token_format}}"), "{{ token_format }}", "{{token_format}}")
	if h.Encode {
		let = mapping("encoded", mapping("base64", format))
		format = "{{encoded}}"
	}
	value = strings.ReplaceAll(value, "{{token_format}}", format)
	if inQuery {
		return let, mapping("query", mapping(or(h.HeaderKey, "access_token"), im.names2(value)))
	}
	headers := mapping(or(h.HeaderKey, "Authorization"), im.names2(value))
	for _, k := range slices.Sorted(maps.Keys(h.Headers)) {
		if strings.EqualFold(k, or(h.HeaderKey, "Authorization")) {
			im.note("headers: %s is the token's header; the other is dropped", k)
			continue
		}
		headers.Content = append(headers.Content, mapping(k, im.names(h.Headers[k])).Content...)
	}
	return let, mapping("headers", headers)
}

// names2 leaves the let's own name alone.
func (im *importer) names2(s string) string {
	const mark = "\x00encoded\x00"
	return strings.ReplaceAll(im.names(strings.ReplaceAll(s, "{{encoded}}", mark)), mark, "{{encoded}}")
}
