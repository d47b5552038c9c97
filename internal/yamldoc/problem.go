package yamldoc

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// A Position is where something stands in a file. Lines and columns count from 1; the zero Position is the file as a whole.
type Position struct{ Line, Column int }

// At is where the node begins.
func At(n *yaml.Node) Position { return Position{n.Line, n.Column} }

// A Problem is one thing wrong with a file. It is an error.
type Problem struct {
	// File is as its Reader was given it; empty: none is known.
	File string
	// Line and Column count from 1; 0: the file as a whole.
	Line, Column int
	// Word is where in the file's language it is, as inputs.api_key; empty: nowhere in particular.
	Word    string
	Message string
	// Suggestion is what was probably meant; empty: nothing comes to mind.
	Suggestion string
	// Warning: the file can be used as it is, and is probably not what was meant.
	Warning bool
}

// Errors are the problems that keep a file from being used: those that are no warnings.
func Errors(ps []Problem) []Problem { return of(ps, false) }

// Warnings are the others.
func Warnings(ps []Problem) []Problem { return of(ps, true) }

func of(ps []Problem, warnings bool) []Problem {
	var out []Problem
	for _, p := range ps {
		if p.Warning == warnings {
			out = append(out, p)
		}
	}
	return out
}

// String is `file:line:column: warning: message; did you mean "…"?`.
func (p Problem) String() string {
	var b strings.Builder
	if p.File != "" {
		b.WriteString(p.File + ":")
	}
	if p.Line > 0 {
		fmt.Fprintf(&b, "%d:%d:", p.Line, p.Column)
	}
	if b.Len() > 0 {
		b.WriteString(" ")
	}
	if p.Warning {
		b.WriteString("warning: ")
	}
	return b.String() + p.told()
}

// told is the message, with what was probably meant.
func (p Problem) told() string {
	if p.Suggestion == "" {
		return p.Message
	}
	return fmt.Sprintf("%s; did you mean %q?", p.Message, p.Suggestion)
}

// MarshalJSON is a problem for scripts; its severity is error or warning.
func (p Problem) MarshalJSON() ([]byte, error) {
	severity := "error"
	if p.Warning {
		severity = "warning"
	}
	return json.Marshal(struct {
		File     string `json:"file,omitempty"`
		Line     int    `json:"line,omitempty"`
		Column   int    `json:"column,omitempty"`
		Word     string `json:"word,omitempty"`
		Severity string `json:"severity"`
		Message  string `json:"message"`
	}{p.File, p.Line, p.Column, p.Word, severity, p.told()})
}

// Error implements error.
func (p Problem) Error() string { return p.String() }

// Sort puts problems in the order of their files, and in each in the order of the text.
func Sort(ps []Problem) {
	slices.SortStableFunc(ps, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
}

// mostTold is how many problems people are told: nobody reads more.
const mostTold = 100

// First are as many problems as people are told, and how many more there are.
func First(ps []Problem) []Problem {
	more := len(ps) - mostTold
	if more <= 0 {
		return ps
	}
	message := fmt.Sprintf("and %d problems more", more)
	if more == 1 {
		message = "and 1 problem more"
	}
	return append(slices.Clone(ps[:mostTold]), Problem{File: ps[mostTold].File, Message: message})
}

// Together are the first problems, as one error; nil: there is none.
func Together(ps []Problem) error {
	var errs []error
	for _, p := range First(ps) {
		errs = append(errs, p)
	}
	return errors.Join(errs...)
}

// wordFirst is the word that a message begins with, as those of a Reader do: they say what is wrong after where.
var wordFirst = regexp.MustCompile(`^[^\s:]+(: )`)

// problem makes one of a message.
func (r *Reader) problem(p Position, message string) Problem {
	word := ""
	if at := wordFirst.FindStringSubmatchIndex(message); at != nil {
		word = message[:at[2]]
	}
	return Problem{File: r.File, Line: p.Line, Column: p.Column, Word: word, Message: sentence(message)}
}

// sentence is a message that fits into a line, whatever the keys are that it names.
func sentence(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return utf8.RuneError
	}, s)
	return clip(s, 1000)
}

// Clip shortens what is quoted in a message.
func Clip(s string) string { return clip(s, 40) }

func clip(s string, most int) string {
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}
