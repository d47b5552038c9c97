// Package jsondoc reads JSON that others wrote, strictly, and gives values as text. It knows no document's words.
package jsondoc

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"unicode/utf8"
)

// deepest bounds the nesting of a document.
const deepest = 100

// Read reads one document of MostValues at most (ErrTooMany) with its numbers as they are spelled. It is strict where leniency would guess: a name that is
// there twice (ErrTwice), what is no UTF-8, and anything after the document are no JSON (RFC 8259 sections 4 and 8.1).
func Read(b []byte) (any, error) { return ReadUpTo(b, MostValues) }

// ReadUpTo is Read of a document that has so many values at most.
func ReadUpTo(b []byte, most int) (any, error) {
	b = bytes.TrimPrefix(b, []byte("\xef\xbb\xbf"))
	if Values(b) > most {
		return nil, ErrTooMany
	}
	if !utf8.Valid(b) {
		return nil, errNot
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	doc, err := readValue(d, 0)
	if errors.Is(err, ErrTwice) {
		return nil, err
	}
	if err != nil {
		return nil, errNot
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errNot
	}
	return doc, nil
}

func readValue(d *json.Decoder, depth int) (any, error) {
	t, err := d.Token()
	if err != nil || depth > deepest {
		return nil, errNot
	}
	switch t {
	case json.Delim('{'):
		m := map[string]any{}
		for d.More() {
			k, err := d.Token()
			name, ok := k.(string)
			if err != nil || !ok {
				return nil, errNot
			}
			if _, twice := m[name]; twice {
				return nil, ErrTwice
			}
			if m[name], err = readValue(d, depth+1); err != nil {
				return nil, err
			}
		}
		_, err = d.Token()
		return m, err
	case json.Delim('['):
		l := []any{}
		for d.More() {
			x, err := readValue(d, depth+1)
			if err != nil {
				return nil, err
			}
			l = append(l, x)
		}
		_, err = d.Token()
		return l, err
	}
	return t, nil
}

// ErrTwice says that an object has a name twice: what is one, RFC 8259 section 4 leaves open.
var ErrTwice = errors.New("a name is there twice")

var errNot = errors.New("not JSON")

// Text is a JSON value as text: strings as they are, numbers and booleans as spelled, anything else as JSON.
func Text(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	case json.Number:
		return v.String()
	case bool:
		return strconv.FormatBool(v)
	}
	b, err := json.Marshal(v)
	if err != nil {
		return ""
	}
	return string(b)
}
