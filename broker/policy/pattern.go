package policy

import (
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/tokenbroker/tokenbroker/internal/dotdot"
)

// A form is what a pattern's texts are made of: the separators of their segments; empty: they are one segment.
type form string

const (
	whole   form = ""
	slashes form = "/"
	dots    form = "."
	uris    form = "/:"
	// several are addresses, of which some take two for one that stand behind a blank or a comma.
	several form = "/ ,"
	// words are scopes, of which some take two for one that stand behind a comma.
	words form = " ,"
)

// A pattern is held against whole texts, byte for byte. `*` is one or more bytes within a segment, `**` at the end one or more last segments.
// What a wildcard stands for is never an empty segment, nor one that whoever reads the text may take for another place (`..`). Matching
// takes a time that grows with the text, whatever the pattern.
type pattern struct {
	text string
	form form
	// least is how long a text is that matches.
	least int
	// segments are none where the text is all that matches.
	segments []segment
	// rest: `**` follows them, after the separator.
	rest      bool
	separator byte
}

// A segment is the text between two separators, as what stands between its wildcards.
type segment struct {
	// before is the separator that it follows; nothing of the first.
	before byte
	pieces []string
}

var (
	errNothing = errors.New("there is nothing in it; leave it out")
	errControl = errors.New("it has a control character in it; leave that out")
	errStars   = errors.New("** stands for the last segments, and nothing beside it; write it after the last separator, or * within a segment")
	errFlat    = errors.New("** stands for segments, and there are none here; write *")
)

// parsePattern reads a pattern. It fails for what is none.
func parsePattern(text string, f form) (pattern, error) {
	p := pattern{text: text, form: f, least: len(text)}
	if text == "" {
		return p, errNothing
	}
	if strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return p, errControl
	}
	if !hasWildcard(text) {
		return p, nil
	}
	body, isRest := strings.CutSuffix(text, "**")
	if strings.Contains(text, "**") && (f == whole || f == words) {
		return p, errFlat
	}
	if isRest {
		p.least-- // one segment of one byte will do
		if p.rest = true; body != "" {
			if p.separator = body[len(body)-1]; !f.separates(p.separator) || f.parts(p.separator) {
				return p, errStars
			}
			body = body[:len(body)-1]
		}
	}
	if strings.Contains(body, "**") {
		return p, errStars
	}
	if text == "**" {
		return p, nil
	}
	for before := byte(0); ; {
		end := f.end(body)
		p.segments = append(p.segments, segment{before, strings.Split(body[:end], "*")})
		if end == len(body) {
			return p, nil
		}
		before, body = body[end], body[end+1:]
	}
}

func hasWildcard(text string) bool { return strings.Contains(text, "*") }

func (f form) separates(c byte) bool { return strings.IndexByte(string(f), c) >= 0 }

// parts reports whether what it separates are several texts, and not segments of one.
func (f form) parts(c byte) bool { return f.separates(c) && (c == ' ' || c == ',') }

// end is where the first segment of a text ends.
func (f form) end(text string) int {
	switch len(f) {
	case 0:
		return len(text)
	case 1:
		if i := strings.IndexByte(text, f[0]); i >= 0 {
			return i
		}
		return len(text)
	}
	for i := range len(text) {
		if f.separates(text[i]) {
			return i
		}
	}
	return len(text)
}

// matches reports whether the whole text is what the pattern says.
func (p *pattern) matches(text string) bool {
	if p.segments == nil && !p.rest {
		return text == p.text
	}
	if len(text) < p.least {
		return false
	}
	for i := range p.segments {
		s := &p.segments[i]
		if i > 0 {
			if text == "" || text[0] != s.before {
				return false
			}
			text = text[1:]
		}
		end := p.form.end(text)
		if !s.matches(text[:end], p.form) {
			return false
		}
		text = text[end:]
	}
	if !p.rest {
		return text == ""
	}
	if p.segments != nil {
		if text == "" || text[0] != p.separator {
			return false
		}
		text = text[1:]
	}
	for {
		end := p.form.end(text)
		if end == 0 || astray(text[:end], p.form) {
			return false
		}
		if end == len(text) {
			return true
		}
		if p.form.parts(text[end]) {
			return false
		}
		text = text[end+1:]
	}
}

func (s *segment) matches(text string, f form) bool {
	first, last := s.pieces[0], s.pieces[len(s.pieces)-1]
	if len(s.pieces) == 1 {
		return text == first
	}
	if !strings.HasPrefix(text, first) || astray(text, f) {
		return false
	}
	// Each piece is looked for where it comes first, at least one byte after the one before: whatever a later place would leave for the
	// others, an earlier one leaves too.
	text = text[len(first):]
	for _, piece := range s.pieces[1 : len(s.pieces)-1] {
		if text == "" {
			return false
		}
		i := strings.Index(text[1:], piece)
		if i < 0 {
			return false
		}
		text = text[1+i+len(piece):]
	}
	return len(text) > len(last) && strings.HasSuffix(text, last)
}

// astray reports whether no wildcard may stand for a segment. Of what may be several that is one with a blank of any alphabet, or with what somebody has put in the place of what cannot be
// shown. Of a path it is one that leads elsewhere: who reads it goes to another place than is written.
func astray(segment string, f form) bool {
	if f.parts(' ') && strings.ContainsFunc(segment, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) || r == utf8.RuneError }) {
		return true
	}
	return f.separates('/') && strings.ContainsAny(segment, ".%") && dotdot.Leads(segment)
}

// patterns are the values of a dimension. The zero value is one that is left out.
type patterns struct {
	// any: `*` alone, which is any value at all, and none.
	any bool
	all []pattern
}

func (p *patterns) leftOut() bool { return !p.any && p.all == nil }

// matches reports whether one of them matches; of any, whatever the text.
func (p *patterns) matches(text string) bool {
	if p.any {
		return true
	}
	for i := range p.all {
		if p.all[i].matches(text) {
			return true
		}
	}
	return false
}

// matchEach reports whether each of the texts is matched; wrong is the first that is not.
func (p *patterns) matchEach(texts []string) (wrong string, ok bool) {
	for _, t := range texts {
		if !p.matches(t) {
			return t, false
		}
	}
	return "", true
}

// mostShown is how many patterns a sentence names.
const mostShown = 8

// String is what people wrote, as a sentence names it.
func (p *patterns) String() string {
	if p.any {
		return "*"
	}
	var b strings.Builder
	for i := range p.all[:min(len(p.all), mostShown)] {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(p.all[i].text)
	}
	if len(p.all) > mostShown {
		b.WriteString(", …")
	}
	return b.String()
}
