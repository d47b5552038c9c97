// Package dotdot finds what leads elsewhere in a path (RFC 3986 section 5.2.4).
package dotdot

import (
	"strconv"
	"strings"
)

// decoded is how often somebody behind us may decode a path: a proxy, a server, and what serves it.
const decoded = 3

// Leads reports whether a path, or a segment of one, has a `.` or `..` in it that somebody may obey: as it is or percent-encoded, up to three times over; behind what some take for a
// slash; before what some read as parameters, a query or a fragment. Whoever does obey it asks for another place than is written. It takes a time that grows with the path. Safe for
// concurrent use.
func Leads(path string) bool {
	for range decoded + 1 {
		for s := range strings.FieldsFuncSeq(path, ends) {
			if s == "." || s == ".." {
				return true
			}
		}
		was := path
		if path = decode(path); path == was {
			return false
		}
	}
	return false
}

func ends(r rune) bool { return strings.ContainsRune(`/\;?#`, r) }

// decode has each escape of a byte as the byte. What is none stays.
func decode(s string) string {
	i := strings.IndexByte(s, '%')
	if i < 0 {
		return s
	}
	var out strings.Builder
	out.WriteString(s[:i])
	for ; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if b, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				out.WriteByte(byte(b))
				i += 2
				continue
			}
		}
		out.WriteByte(s[i])
	}
	return out.String()
}
