package provider

import (
	"errors"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"

	"go.yaml.in/yaml/v4"

	"github.com/tokenbroker/tokenbroker/internal/yamldoc"
)

// A layout says how a time is written: rfc3339, http, unix, unix_ms, or strftime such as %Y-%m-%dT%H:%M:%SZ; without a zone
// it is UTC.
var strftime = map[byte]string{
	'Y': "2006", 'm': "01", 'd': "02", 'e': "_2", 'H': "15", 'I': "03", 'M': "04", 'S': "05", 'p': "PM", 'b': "Jan", 'B': "January",
	'a': "Mon", 'A': "Monday", 'y': "06", 'j': "002", 'z': "-0700", 'Z': "MST", 'f': "000000", 'T': "15:04:05", 'F': "2006-01-02", '%': "%",
}

func (r *reader) layout(n *yaml.Node, what string) string {
	s, ok := r.Text(n, what)
	if !ok {
		return ""
	}
	switch s {
	case "rfc3339", "http", "unix", "unix_ms":
		return s
	}
	if !strings.Contains(s, "%") {
		r.Wrong(at(n), "%s: %q is not a layout; write rfc3339, http, unix, unix_ms or one with %%Y, %%m, %%d, %%H, %%M, %%S", what, yamldoc.Clip(s))
		return s
	}
	literal := ""
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			literal += s[i : i+1]
			continue
		}
		i++
		if i == len(s) || strftime[s[i]] == "" {
			r.Wrong(at(n), "%s: %q has an unknown conversion", what, yamldoc.Clip(s))
			return s
		}
		if s[i] == 'f' && !strings.HasSuffix(literal, ".") {
			r.Wrong(at(n), "%s: %q: %%f comes after a dot", what, yamldoc.Clip(s))
		}
		literal += "|"
	}
	if strings.ContainsFunc(literal, unicode.IsDigit) || wordsOfLayouts.MatchString(literal) {
		r.Wrong(at(n), "%s: %q has digits or a month, day or zone in its literal text, which would be read as a time", what, yamldoc.Clip(s))
	}
	return s
}

// wordsOfLayouts are what Go's layouts take for a part of a time.
var wordsOfLayouts = regexp.MustCompile(`Jan|Mon|MST|PM|pm|Z0`)

// goLayout turns strftime into Go's layout. Go has no quotes for literal text: what it would take for a part of a time is
// refused when the definition is loaded.
func goLayout(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+1 < len(s) {
			i++
			b.WriteString(strftime[s[i]])
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func formatTime(t time.Time, layout string) string {
	t = t.UTC()
	switch layout {
	case "rfc3339":
		return t.Format(time.RFC3339)
	case "http":
		return t.Format(http.TimeFormat)
	case "", "unix":
		return strconv.FormatInt(t.Unix(), 10)
	case "unix_ms":
		return strconv.FormatInt(t.UnixMilli(), 10)
	}
	return t.Format(goLayout(layout))
}

// parseTime reads a time; layout "" tries RFC 3339, HTTP's and Unix seconds.
func parseTime(s, layout string) (time.Time, bool) {
	s = strings.TrimSpace(s)
	var t time.Time
	var err error
	switch layout {
	case "":
		for _, l := range []string{"rfc3339", "http", "unix"} {
			if t, ok := parseTime(s, l); ok {
				return t, true
			}
		}
		return time.Time{}, false
	case "rfc3339":
		t, err = time.Parse(time.RFC3339Nano, s)
	case "http":
		t, err = http.ParseTime(s)
	case "unix", "unix_ms":
		n, ok := number(s)
		if !ok {
			return time.Time{}, false
		}
		if layout == "unix_ms" {
			n /= 1000
		}
		if n < 0 || n > 1e11 {
			return time.Time{}, false
		}
		whole := int64(n)
		return time.Unix(whole, int64((n-float64(whole))*1e9)).UTC(), true
	default:
		t, err = time.Parse(goLayout(layout), s)
	}
	return t.UTC(), err == nil
}

var numberWord = regexp.MustCompile(`^[+-]?(([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|(?i:inf|infinity))$`)

// number reads a number that may be text, with a fraction or an exponent. One that is too large is infinite.
func number(s string) (float64, bool) {
	s = strings.TrimSpace(s)
	if !numberWord.MatchString(s) {
		return 0, false
	}
	f, err := strconv.ParseFloat(s, 64)
	return f, err == nil || errors.Is(err, strconv.ErrRange)
}
