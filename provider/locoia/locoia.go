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
	Name                            string   `json:"name"`
	AuthorizationURL                string   `json:"authorization_request_url"`
	AuthorizationMethod             string   `json:"authorization_request_method"`
	AuthorizationHeaders            *headers `json:"authorization_request_headers"`
	AuthorizationBody               *string  `json:"authorization_request_body_template"`
	AccessTokenPath                 string   `json:"response_access_token_path"`
	AccessTokenInHeader             string   `json:"response_access_token_path_in_header"`
	AccessTokenInCookie             string   `json:"response_access_token_path_in_cookie"`
	RefreshTokenPath                string   `json:"response_refresh_token_path"`
	RefreshURL                      string   `json:"refresh_request_url"`
	RefreshHeaders                  *headers `json:"refresh_request_headers"`
	RefreshBody                     *string  `json:"refresh_request_body_template"`
	RefreshResponseAccessTokenPath  string   `json:"refresh_response_access_token_path"`
	RefreshResponseRefreshTokenPath string   `json:"refresh_response_refresh_token_path"`

	HeaderConfiguration *header `json:"header_configuration"`
	header
}

type header struct {
	Encode        bool              `json:"encode"`
	TokenInHeader *bool             `json:"token_in_header"`
	HeaderKey     string            `json:"header_key"`
	TokenFormat   string            `json:"token_format"`
	TokenPrefix   string            `json:"token_prefix"`
	ContentType   string            `json:"content_type"`
	UserAgent     string            `json:"User-Agent"`
	Headers       map[string]string `json:"headers"`
}

// headers are an object, or the text of one, as Locoia's own examples have it; null and an empty text are none.
type headers map[string]string

// UnmarshalJSON implements json.Unmarshaler.
func (h *headers) UnmarshalJSON(b []byte) error {
	var text string
	if json.Unmarshal(b, &text) == nil {
		if b = []byte(strings.TrimSpace(text)); len(b) == 0 {
			return nil
		}
	}
	return json.Unmarshal(b, (*map[string]string)(h))
}

// orNone is an absent one as an empty one.
func (h *headers) orNone() map[string]string {
	if h == nil {
		return nil
	}
	return *h
}

// placeholder is a name in a template of Locoia's.
var placeholder = regexp.MustCompile(`\{\{\s*([A-Za-z_][A-Za-z0-9_]*)\s*\}\}`)

// A wrapped connector is what Locoia's pages show: the configuration beside the form that asks people for its inputs.
type wrapped struct {
	Name  string `json:"name"`
	Token *struct {
		Form   json.RawMessage `json:"auth_form"`
		Config json.RawMessage `json:"config"`
	} `json:"refreshable_token"`
	HeaderConfiguration *header `json:"header_configuration"`
}

// read reads a configuration, wrapped or not.
func read(data []byte) (connector, error) {
	var l connector
	var w wrapped
	if json.Unmarshal(data, &w) == nil && w.Token != nil {
		err := decode(w.Token.Config, &l)
		if l.Name == "" {
			l.Name = w.Name
		}
		if l.HeaderConfiguration == nil {
			l.HeaderConfiguration = w.HeaderConfiguration
		}
		return l, err
	}
	return l, decode(data, &l)
}

func decode(data []byte, to any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	return dec.Decode(to)
}

// Import turns a configuration of Locoia's "Refreshable Token" connector, in JSON, into a definition of this name, and says what it had to
// decide; without a name it is the configuration's own. It fails with a sentence that says what it cannot read.
func Import(data []byte, name string) (definition []byte, notes []string, err error) {
	l, err := read(data)
	if err != nil {
		return nil, nil, fmt.Errorf("import: the configuration is not what Locoia's connector has: %s", clipTo(err.Error(), 200))
	}
	if l.AuthorizationURL == "" {
		return nil, nil, fmt.Errorf("import: authorization_request_url is missing")
	}
	if name != "" {
		l.Name = name
	}
	im := &importer{l: l, inputs: map[string]input{}}
	im.missing()
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
		if !p.Warning {
			notes = append(notes, "to be mended by hand: "+p.String())
		}
	}
	return out.Bytes(), append(im.notes, notes...), nil
}

// missing says which of the parameters that Locoia requires are not there.
func (im *importer) missing() {
	l := im.l
	elsewhere := l.AccessTokenInHeader != "" || l.AccessTokenInCookie != ""
	required := []struct {
		name  string
		there bool
	}{
		{"authorization_request_body_template", l.AuthorizationBody != nil}, {"authorization_request_headers", l.AuthorizationHeaders != nil},
		{"response_access_token_path", l.AccessTokenPath != "" || elsewhere},
	}
	if l.RefreshURL != "" || l.RefreshBody != nil && *l.RefreshBody != "" {
		required = append(required, []struct {
			name  string
			there bool
		}{
			{"refresh_request_url", l.RefreshURL != ""}, {"refresh_request_body_template", l.RefreshBody != nil}, {"refresh_request_headers", l.RefreshHeaders != nil},
			{"response_refresh_token_path", l.RefreshTokenPath != ""},
		}...)
	}
	for _, r := range required {
		if !r.there {
			im.note("%s is missing, which Locoia requires: the definition was made without", r.name)
		}
	}
}

func clipTo(s string, n int) string {
	if len(s) > n {
		return s[:n] + "…"
	}
	return s
}

type importer struct {
	l      connector
	inputs map[string]input
	// userAgent is that of all requests, as a template of ours; empty: none.
	userAgent string
	notes     []string
}

// An input that the definition declares.
type input struct{ secret, url, handedOut bool }

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
	agent := im.agent()
	obtain := im.request(l.AuthorizationMethod, l.AuthorizationURL, l.AuthorizationHeaders.orNone(), l.AuthorizationBody, broker.Obtain)
	obtain.Content = append(obtain.Content, mapping("take", im.take(l.AccessTokenPath, l.RefreshTokenPath, true)).Content...)
	var refresh *yaml.Node
	if l.RefreshURL != "" {
		refresh = im.request("POST", l.RefreshURL, l.RefreshHeaders.orNone(), l.RefreshBody, broker.Refresh)
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
		if im.inputs[in].url {
			one.Content = append(one.Content, mapping("format", "url").Content...)
		}
		if im.inputs[in].secret {
			one.Content = append(one.Content, mapping("secret", true).Content...)
		}
		if im.inputs[in].handedOut {
			one.Content = append(one.Content, mapping("handed_out", true).Content...)
		}
		one.Style = yaml.FlowStyle
		inputs.Content = append(inputs.Content, mapping(in, one).Content...)
	}
	return mapping("name", name, "inputs", inputs, "let", let, "headers", agent, "obtain", obtain, "refresh", refresh, "lifetime", "until_rejected", "present", present)
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
				im.inputs[name] = input{secret: secretish(name)}
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
	h := map[string]string{}
	contentType := ""
	for k, v := range headers {
		if strings.EqualFold(k, "Content-Type") {
			contentType = strings.ToLower(v)
		}
		if strings.EqualFold(k, "User-Agent") && im.names(v) == im.userAgent {
			continue // it is the definition's
		}
		h[k] = im.kept(k, im.names(v))
	}
	address = im.names(address)
	if m := leadingName.FindStringSubmatch(address); m != nil {
		im.inputs[m[1]] = input{url: true}
	}
	n := mapping(method, address, "query", im.pairs(query), "headers", mapOrNil(h))
	if body == nil || strings.TrimSpace(*body) == "" || strings.TrimSpace(*body) == "{}" && (method == "get" || !strings.Contains(contentType, "json")) {
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
			n.Content = append(n.Content, mapping("json", im.jsonNode("", doc)).Content...)
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

// leadingName is the name that a URL begins with.
var leadingName = regexp.MustCompile(`^\{\{([a-z0-9_]+)\}\}`)

// agent moves the User-Agent of the token request to where it is sent with all requests, and with those to the API.
func (im *importer) agent() *yaml.Node {
	for k, v := range im.l.AuthorizationHeaders.orNone() {
		if strings.EqualFold(k, "User-Agent") {
			im.userAgent = im.names(v)
			return mapping("User-Agent", im.userAgent)
		}
	}
	return nil
}

// kept is a value, or, where it is a secret that is written into the configuration, the input that stands for it from now on.
func (im *importer) kept(field, value string) string {
	scheme, literal := "", value
	if strings.EqualFold(field, "Authorization") {
		if a, b, found := strings.Cut(value, " "); found {
			scheme, literal = a+" ", b
		}
	}
	name := provider.SecretInput(field)
	if name == "" || strings.TrimSpace(literal) == "" || placeholder.MatchString(value) {
		return value
	}
	in := im.inputs[name]
	in.secret = true
	im.inputs[name] = in
	im.note("%s: the configuration has a secret in it, and a definition must not: it is the input %s now, to be given with the credential", field, name)
	return scheme + "{{" + name + "}}"
}

// jsonNode writes a document with its numbers as they are spelled. name is the member that it is.
func (im *importer) jsonNode(name string, doc any) *yaml.Node {
	n := &yaml.Node{}
	switch x := doc.(type) {
	case map[string]any:
		n.Kind = yaml.MappingNode
		for _, k := range slices.Sorted(maps.Keys(x)) {
			n.Content = append(n.Content, mapping(k, im.jsonNode(k, x[k])).Content...)
		}
	case []any:
		n.Kind = yaml.SequenceNode
		for _, e := range x {
			n.Content = append(n.Content, im.jsonNode(name, e))
		}
	case string:
		n.SetString(im.kept(name, x))
	default: // a number, true, false or null
		n.Kind, n.Value = yaml.ScalarNode, jsondoc.Text(x)
		if _, number := x.(json.Number); number {
			n.Value = im.kept(name, n.Value)
		}
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
		member := mapping(unescape(k), im.kept(unescape(k), im.names(unescape(v)))).Content
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
		n = mapping("token", im.cookieValue(), "cookie", im.cookiePair())
	default:
		n = mapping("token", or(access, "access_token"))
	}
	if refresh != "" && im.l.RefreshURL != "" {
		n.Content = append(n.Content, mapping("refresh_token", refresh).Content...)
	}
	return n
}

// block is the header block.
func (im *importer) block() header {
	if im.l.HeaderConfiguration != nil {
		return *im.l.HeaderConfiguration
	}
	return im.l.header
}

func (h header) inQuery() bool { return h.TokenInHeader != nil && !*h.TokenInHeader }

// plain: it does not say how the token is shown.
func (h header) plain() bool {
	return !h.inQuery() && h.HeaderKey == "" && h.TokenPrefix == "" && h.TokenFormat == ""
}

// present turns the header block into let and present. A token that was a cookie is shown as that cookie, unless the block says otherwise.
func (im *importer) present() (let, present *yaml.Node) {
	h := im.block()
	headers := im.otherHeaders(h)
	if h.plain() {
		var cookies any
		if im.wholeCookie() {
			cookies = "{{cookie}}"
		} else if headers != nil {
			headers.Content = append(mapping("Authorization", "Bearer {{token}}").Content, headers.Content...)
		}
		if cookies == nil && headers == nil {
			return nil, nil
		}
		return nil, mapping("headers", headers, "cookies", cookies)
	}
	format := im.shown("token_format", or(h.TokenFormat, "{{token}}"))
	value := strings.ReplaceAll(or(h.TokenPrefix, "{{token_format}}"), "{{ token_format }}", "{{token_format}}")
	if h.Encode {
		let = mapping("encoded", mapping("base64", format))
		format = "{{encoded}}"
	}
	value = im.names2(strings.ReplaceAll(value, "{{token_format}}", format))
	switch {
	case h.inQuery():
		return let, mapping("headers", headers, "query", mapping(or(h.HeaderKey, "access_token"), value))
	case strings.EqualFold(h.HeaderKey, "Cookie"):
		if im.wholeCookie() {
			value = "{{cookie}}"
		}
		return let, mapping("headers", headers, "cookies", value)
	}
	token := mapping(or(h.HeaderKey, "Authorization"), value)
	if headers != nil {
		token.Content = append(token.Content, headers.Content...)
	}
	return let, mapping("headers", token)
}

// otherHeaders are those that go with the token's own; nil: none.
func (im *importer) otherHeaders(h header) *yaml.Node {
	all := maps.Clone(h.Headers)
	if h.UserAgent != "" {
		if all == nil {
			all = map[string]string{}
		}
		all["User-Agent"] = h.UserAgent
	}
	if h.ContentType != "" {
		im.note("content_type: it is that of requests to the API, and whoever sends a body says its type")
	}
	n := &yaml.Node{Kind: yaml.MappingNode}
	for _, k := range slices.Sorted(maps.Keys(all)) {
		switch {
		case !h.plain() && strings.EqualFold(k, or(h.HeaderKey, "Authorization")):
			im.note("headers: %s is the token's header; the other is dropped", k)
			continue
		case strings.EqualFold(k, "User-Agent") && im.names(all[k]) == im.userAgent:
			continue // it is the definition's, and handed out with the token
		case strings.EqualFold(k, "User-Agent") && im.userAgent != "":
			im.note("headers: the User-Agent of the API's requests is another than that of the token's")
		}
		n.Content = append(n.Content, mapping(k, im.shown(k, all[k])).Content...)
	}
	if len(n.Content) == 0 {
		return nil
	}
	return n
}

// shown turns a template of ours that callers will see; secrets in it are handed out, as they were.
func (im *importer) shown(field, s string) string {
	s = im.kept(field, im.names(s))
	for _, m := range placeholder.FindAllStringSubmatch(s, -1) {
		if in, ok := im.inputs[m[1]]; ok && in.secret {
			in.handedOut = true
			im.inputs[m[1]] = in
		}
	}
	return s
}

// wholeCookie reports whether the token is shown as the cookie that it was, by the name that it had.
func (im *importer) wholeCookie() bool {
	h := im.block()
	return im.l.AccessTokenInCookie != "" && (h.plain() || strings.EqualFold(h.HeaderKey, "Cookie") && !strings.Contains(h.TokenPrefix+h.TokenFormat, "="))
}

// cookieValue takes the value of the cookie that has a unique string in it: of that name, else in its name, else in its value.
func (im *importer) cookieValue() *yaml.Node {
	unique, _, _ := strings.Cut(im.l.AccessTokenInCookie, "=")
	part := regexp.QuoteMeta(unique)
	return list(
		mapping("cookie", unique),
		mapping("cookies", "all", "pattern", `(?:^|; )[^;=]*`+part+`[^;=]*=([^;]*)`),
		mapping("cookies", "all", "pattern", `(?:^|; )[^;=]*=([^;]*`+part+`[^;]*)`),
	)
}

// cookiePair takes that cookie with its name; nil: it is not wanted.
func (im *importer) cookiePair() *yaml.Node {
	if !im.wholeCookie() {
		return nil
	}
	unique, _, _ := strings.Cut(im.l.AccessTokenInCookie, "=")
	part := regexp.QuoteMeta(unique)
	return list(
		mapping("cookies", "all", "pattern", `(?:^|; )(`+part+`=[^;]*)`),
		mapping("cookies", "all", "pattern", `(?:^|; )([^;=]*`+part+`[^;=]*=[^;]*)`),
		mapping("cookies", "all", "pattern", `(?:^|; )([^;=]*=[^;]*`+part+`[^;]*)`),
	)
}

func list(all ...*yaml.Node) *yaml.Node { return &yaml.Node{Kind: yaml.SequenceNode, Content: all} }

// names2 leaves the let's own name alone.
func (im *importer) names2(s string) string {
	const mark = "\x00encoded\x00"
	return strings.ReplaceAll(im.names(strings.ReplaceAll(s, "{{encoded}}", mark)), mark, "{{encoded}}")
}
