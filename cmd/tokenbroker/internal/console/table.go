package console

import (
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"unicode/utf8"
)

const (
	// Columns is the width that text keeps to, where what it names is not wider itself.
	Columns = 80
	// columnGap is between two columns.
	columnGap = 2
	// columnLeast is what the last column always has.
	columnLeast = 10
)

// Table lines up columns, within so many as f allows.
func (f Format) Table(w io.Writer, header string, rows [][]string) error {
	if f.Wide() {
		return table(w, header, rows, 0)
	}
	return Table(w, header, rows)
}

// Table lines up columns, within Columns: the last one gives way. Under a header it is cut, so that a row is a line; else it goes on below.
func Table(w io.Writer, header string, rows [][]string) error {
	return table(w, header, rows, Columns)
}

func table(w io.Writer, header string, rows [][]string, most int) error {
	if header != "" {
		rows = slices.Insert(slices.Clone(rows), 0, strings.Split(header, "\t"))
	}
	shown, before := make([][]string, len(rows)), map[int]int{}
	for i, r := range rows {
		for j, c := range r {
			c = Visible(c)
			shown[i] = append(shown[i], c)
			if j < len(r)-1 {
				before[j] = max(before[j], utf8.RuneCountInString(c)+columnGap)
			}
		}
	}
	t := tabwriter.NewWriter(w, 0, 0, columnGap, ' ', 0)
	for _, r := range shown {
		last, room := len(r)-1, most
		for j := range last {
			room -= before[j]
		}
		lines := []string{r[last]}
		switch {
		case most == 0:
		case header != "":
			lines[0] = cut(r[last], max(room, columnLeast))
		default:
			lines = wrap(r[last], max(room, columnLeast))
		}
		Println(t, strings.Join(append(r[:last:last], lines[0]), "\t"))
		for _, l := range lines[1:] {
			Println(t, strings.Repeat("\t", last)+l)
		}
	}
	return t.Flush()
}

// cut is the text, or so much of it as there is room for.
func cut(s string, room int) string {
	if utf8.RuneCountInString(s) <= room {
		return s
	}
	return string([]rune(s)[:room-1]) + "…"
}

// wrap breaks a text at its blanks. A word that is too long stays whole: it is there to be copied.
func wrap(s string, room int) []string {
	lines := []string{""}
	for i, word := range strings.Split(s, " ") {
		last := &lines[len(lines)-1]
		switch {
		case i == 0:
			*last = word
		case utf8.RuneCountInString(*last)+1+utf8.RuneCountInString(word) <= room:
			*last += " " + word
		default:
			lines = append(lines, word)
		}
	}
	return lines
}
