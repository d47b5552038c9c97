// Package tame writes what a terminal would obey as Go writes it: names of others' files and texts of requests are printed. It knows nothing of
// who prints them.
package tame

import (
	"strconv"
	"strings"
	"unicode"
)

// Line is a text of one line: nothing in it moves a terminal's cursor. It is s itself where that is so already.
func Line(s string) string { return tamed(s, unicode.IsPrint) }

// Text is one of several lines: line breaks and tabs stay.
func Text(s string) string {
	return tamed(s, func(r rune) bool { return r == '\n' || r == '\t' || unicode.IsPrint(r) })
}

func tamed(s string, shown func(rune) bool) string {
	if !strings.ContainsFunc(s, func(r rune) bool { return !shown(r) }) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if shown(r) {
			b.WriteRune(r)
		} else {
			b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
		}
	}
	return b.String()
}
