package locoia

import (
	"encoding/json"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/jsondoc"
)

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
