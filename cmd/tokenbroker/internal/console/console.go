package console

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"golang.org/x/term"

	"github.com/tokenbroker/tokenbroker/internal/tame"
)

// A Process is what a command works with, so that tests can run it in-process.
type Process struct {
	Context        context.Context //nolint:containedctx // the life of one command
	Stdin          *os.File
	Stdout, Stderr io.Writer
}

// Wrapped is an output that passes on what it is given.
type Wrapped interface {
	// Under is where.
	Under() io.Writer
}

// Beneath is where an output ends up, so that another program can write there itself: a terminal is one to it, too.
func Beneath(w io.Writer) io.Writer {
	for {
		o, ok := w.(Wrapped)
		if !ok {
			return w
		}
		w = o.Under()
	}
}

// Printf writes for the operator. Texts among the arguments may be names that others chose: nothing in them moves a terminal's cursor, but for line
// breaks and tabs. Whoever made the writer hears of a failure.
func Printf(w io.Writer, format string, args ...any) {
	args = slices.Clone(args)
	for i, a := range args {
		switch x := a.(type) {
		case string:
			args[i] = tame.Text(x)
		case error:
			args[i] = tame.Text(x.Error())
		}
	}
	_, _ = fmt.Fprintf(w, format, args...)
}

// Println writes a line, as Printf does.
func Println(w io.Writer, args ...any) { _, _ = fmt.Fprintln(w, args...) }

// IsTerminal reports whether somebody looks at what is written there.
func IsTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// Visible is a value for people: one that could move their terminal's cursor, or break a line, is quoted.
func Visible(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(s)
	}
	return s
}
