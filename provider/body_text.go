package provider

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"mime"
	"net/url"
	"strings"
	"unicode/utf8"
)

// A textKind is what a text is that is sent as a body: a value in it is written so that it stays one value.
type textKind int

const (
	// unknownText takes no value beside other text.
	unknownText textKind = iota
	jsonText
	graphQLText
	xmlText
	formText
)

// kindOfText is what the Content-Type says that a request writes, or the definition for all.
func kindOfText(headers ...[]field) textKind {
	written := ""
	for _, fs := range headers {
		for _, f := range fs {
			if strings.EqualFold(f.name, "Content-Type") {
				written = ""
				if len(f.values) == 1 && len(f.values[0].names()) == 0 {
					written = withNames(f.values[0].parts, "")
				}
			}
		}
	}
	media, _, err := mime.ParseMediaType(written)
	switch {
	case err != nil:
	case media == "application/json", strings.HasSuffix(media, "+json"):
		return jsonText
	case media == "application/graphql":
		return graphQLText
	case media == "application/xml", media == "text/xml", strings.HasSuffix(media, "+xml"):
		return xmlText
	case media == "application/x-www-form-urlencoded":
		return formText
	}
	return unknownText
}

// misplaced says why values cannot stand in a text where they do; empty: they can. One that is all of it stands as it is.
func (k textKind) misplaced(t text) string {
	if _, alone := t.alone(); alone || len(t.names()) == 0 {
		return ""
	}
	switch k {
	case unknownText:
		return "how a value is written into a text depends on what the text is: write headers: {Content-Type: …} of JSON, XML, a form or application/graphql, or use json, form or multipart"
	case jsonText, graphQLText:
		return k.unquoted(t.parts)
	case xmlText:
		return misplacedInXML(t)
	default:
		return ""
	}
}

// unquoted says that a name stands outside of the double quotes of a string.
func (k textKind) unquoted(parts []part) string {
	inside, escaped, comment := false, false, false
	for _, p := range parts {
		if k == graphQLText && strings.Contains(p.literal, `"""`) {
			return `a value cannot be written into """…""": write the string in "…"`
		}
		if p.name != "" && (!inside || escaped) {
			return "{{" + p.name + "}} must stand within the double quotes of a string; use json: for numbers, true and false"
		}
		for i := range len(p.literal) {
			switch c := p.literal[i]; {
			case comment:
				comment = c != '\n' && c != '\r'
			case escaped:
				escaped = false
			case inside && c == '\\':
				escaped = true
			case c == '"':
				inside = !inside
			case c == '#' && !inside && k == graphQLText:
				comment = true
			}
		}
	}
	return ""
}

// misplacedInXML: names stand in character data and in the values of attributes.
func misplacedInXML(t text) string {
	const mark = "a1marked1a"
	s := withNames(t.parts, mark)
	if strings.Contains(s, "<![CDATA[") {
		return "a value cannot be written into CDATA: leave <![CDATA[ and ]]> out, what is in a value is escaped"
	}
	dec := xml.NewDecoder(strings.NewReader(s))
	found := 0
	for {
		switch token, err := dec.RawToken(); x := token.(type) {
		case xml.CharData:
			found += strings.Count(string(x), mark)
		case xml.StartElement:
			for _, a := range x.Attr {
				found += strings.Count(a.Value, mark)
			}
		default:
			switch {
			case errors.Is(err, io.EOF) && found == strings.Count(s, mark):
				return ""
			case errors.Is(err, io.EOF):
				return "a value stands between tags, or in the quotes of an attribute"
			case err != nil:
				return "it is not XML, as its Content-Type says, in UTF-8"
			}
		}
	}
}

// errNotUTF8 is of a value that is to be text.
var errNotUTF8 = errors.New("has bytes that are no text (UTF-8): wrap it in base64, base64url or hex")

// write writes a value into a text of the kind.
func (k textKind) write(s string) (string, error) {
	switch k {
	case jsonText, graphQLText:
		quoted, err := quote(s)
		return strings.TrimSuffix(strings.TrimPrefix(quoted, `"`), `"`), err
	case xmlText:
		if !utf8.ValidString(s) {
			return "", errNotUTF8
		}
		if strings.ContainsFunc(s, func(r rune) bool {
			return r < ' ' && r != '\t' && r != '\n' && r != '\r' || r == 0xfffe || r == 0xffff
		}) {
			return "", errors.New("has a character that XML cannot have")
		}
		var b strings.Builder
		_ = xml.EscapeText(&b, []byte(s)) // a strings.Builder does not fail
		return b.String(), nil
	case formText:
		return url.QueryEscape(s), nil
	default:
		return s, nil
	}
}

// quote writes a string of JSON (RFC 8259 section 7), which is one of GraphQL too.
func quote(s string) (string, error) {
	if !utf8.ValidString(s) {
		return "", errNotUTF8
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s) // a string has no way to fail
	return strings.TrimSuffix(b.String(), "\n"), nil
}

// expandAs expands a text of the kind.
func (t text) expandAs(k textKind, v *values) (string, error) {
	if _, alone := t.alone(); alone {
		k = unknownText
	}
	var b strings.Builder
	for _, p := range t.parts {
		b.WriteString(p.literal)
		if p.name == "" {
			continue
		}
		x, err := v.get(p.name)
		if err != nil || x.absent() {
			return "", err
		}
		s, err := k.write(x.String())
		if err != nil {
			return "", nameText(p.name).bad("text: {{%s}} %v", p.name, err)
		}
		b.WriteString(s)
	}
	return b.String(), nil
}
