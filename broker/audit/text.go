package audit

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// How much of a text is kept, in bytes of its JSON, and of all texts of a line. What else a line has takes less than what is left of lineMost.
const (
	textsMost = lineMost - 2<<10
	idMost    = 4 << 10 // a SPIFFE ID has at most 2 KiB
	textMost  = 1 << 10
	wordMost  = 512
	listMost  = 100
)

const ellipsis = "…"

// A clipper keeps the texts of one line within left bytes.
type clipper struct {
	left    int
	clipped bool
}

// text is s, or what there is room for. What is kept of a longer text shares no memory with it.
func (c *clipper) text(s string, most int) string {
	most = min(most, c.left)
	if len(s)*longest <= most { // most texts
		c.left -= len(s) * longest
		if plain(s) {
			c.left += len(s) * (longest - 1)
		}
		return s
	}
	used, end := 0, 0
	for i, r := range s {
		n := width(s[i:], r)
		if used+n+len(ellipsis) > most {
			if rest := cost(s[i:], most-used); rest >= 0 { // it ends within what the ellipsis would take
				c.left -= used + rest
				return s
			}
			c.clipped = true
			if most < len(ellipsis) {
				return ""
			}
			c.left -= used + len(ellipsis)
			return strings.Clone(s[:end]) + ellipsis
		}
		used += n
		end = i + size(s[i:], r)
	}
	c.left -= used
	return s
}

// list is as many as there is room for.
func (c *clipper) list(all []string) []string {
	if len(all) == 0 {
		return nil
	}
	const quotes = 3 // and a comma
	out := make([]string, 0, min(len(all), listMost))
	for _, s := range all {
		if len(out) == listMost || c.left < quotes+len(ellipsis) {
			c.clipped = true
			break
		}
		c.left -= quotes
		out = append(out, c.text(s, textMost))
	}
	return out
}

// longest is what a byte of a text can become: an escape of six.
const longest = 6

func plain(s string) bool {
	for i := range len(s) {
		if b := s[i]; b < ' ' || b >= 0x7f || b == '"' || b == '\\' {
			return false
		}
	}
	return true
}

// cost is what s takes in JSON; -1: more than most.
func cost(s string, most int) int {
	n := 0
	for i, r := range s {
		if n += width(s[i:], r); n > most {
			return -1
		}
	}
	return n
}

// size is how many bytes of s its first rune is.
func size(s string, r rune) int {
	if r == utf8.RuneError {
		_, n := utf8.DecodeRuneInString(s)
		return n
	}
	return utf8.RuneLen(r)
}

// width is what the first rune of s takes in JSON, at most.
func width(s string, r rune) int {
	switch {
	case r == '"' || r == '\\':
		return 2
	case r == utf8.RuneError && size(s, r) == 1: // no UTF-8
		return longest
	case unicode.IsPrint(r):
		return utf8.RuneLen(r)
	case r > 0xffff:
		return 2 * longest // for four bytes
	default:
		return longest
	}
}

// escaped writes what no terminal and no reader of lines should see as JSON escapes it. json does that with some of it; outside of strings there is
// none.
func escaped(b []byte) []byte {
	end := len(b) - 1
	i := 0
	for i < end && b[i] >= ' ' && b[i] < 0x7f {
		i++
	}
	if i == end {
		return b
	}
	const hex = "0123456789abcdef"
	out := append(make([]byte, 0, len(b)+64), b[:i]...)
	unit := func(u rune) {
		out = append(out, '\\', 'u', hex[u>>12&15], hex[u>>8&15], hex[u>>4&15], hex[u&15])
	}
	for i < end {
		r, n := utf8.DecodeRune(b[i:end])
		switch {
		case unicode.IsPrint(r):
			out = append(out, b[i:i+n]...)
		case r > 0xffff:
			r -= 0x10000
			unit(0xd800 + r>>10)
			unit(0xdc00 + r&0x3ff)
		default:
			unit(r)
		}
		i += n
	}
	return append(out, '\n')
}
