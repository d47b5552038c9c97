package console

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"time"
)

// A Format is how a command prints what it has to say: the flag that every command has.
type Format struct {
	Output string `short:"o" env:"TOKENBROKER_OUTPUT" default:"text" enum:"text,wide,json" help:"text for people, within ${columns} columns where that can be; wide for people, with all that there is; json for scripts."`
}

// JSON reports whether it is for scripts.
func (f Format) JSON() bool { return f.Output == "json" }

// Wide reports whether somebody has room for everything.
func (f Format) Wide() bool { return f.Output == "wide" }

// Print writes a value as JSON where that is asked for, else the text.
func (f Format) Print(w io.Writer, value any, format string, args ...any) error {
	if f.JSON() {
		return JSON(w, value)
	}
	Printf(w, format, args...)
	return nil
}

// Counted is a number of things: 1 problem, 2 problems.
func Counted(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return strconv.Itoa(n) + " " + what
}

// JSON writes a value for scripts. What is in it has stable names.
func JSON(w io.Writer, value any) error {
	b, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s\n", b)
	return err
}

// When says a time for people: how far away it is and, where there is room, when that is; zero: never.
func (f Format) When(t time.Time) string {
	if t.IsZero() || t.Unix() == 0 {
		return "-"
	}
	d, text := time.Until(t), ""
	if d <= 0 {
		text = span(-d) + " ago"
	} else {
		text = "in " + span(d)
	}
	if f.Wide() {
		text += t.Local().Format(" (2006-01-02 15:04:05)")
	}
	return text
}

// span is a duration in its two largest units.
func span(d time.Duration) string {
	const day = 24 * time.Hour
	switch d = d.Round(time.Second); {
	case d < time.Hour:
		return d.String()
	case d < 2*day:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	default:
		return fmt.Sprintf("%d days", d/day)
	}
}
