package provider

import (
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"

	"go.yaml.in/yaml/v4"
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
		r.Wrong(at(n), "%s: it is not a layout; write rfc3339, http, unix, unix_ms or one with %%Y, %%m, %%d, %%H, %%M, %%S", what)
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
			r.Wrong(at(n), "%s: it has an unknown conversion; write %%Y %%m %%d %%H %%M %%S, %%f behind a dot, %%z or %%Z, %%b %%B %%a %%A %%e %%j %%y %%I %%p %%T %%F %%%%", what)
			return s
		}
		if s[i] == 'f' && !strings.HasSuffix(literal, ".") {
			r.Wrong(at(n), "%s: %%f comes after a dot; write %%S.%%f", what)
		}
		literal += "|"
	}
	if strings.ContainsFunc(literal, unicode.IsDigit) || wordsOfLayouts.MatchString(literal) {
		r.Wrong(at(n), "%s: it has digits or a month, day or zone in its literal text, which would be read as a time; take the time alone by pattern", what)
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

// parseTime reads a time; layout "" tries RFC 3339, HTTP's, and Unix time in seconds or milliseconds.
func parseTime(s, layout string) (time.Time, bool) {
	s, layout = strings.TrimSpace(s), strings.TrimSpace(layout)
	switch layout {
	case "":
		if n, ok := number(s); ok {
			return sinceEpoch(n)
		}
		if t, ok := isoTime(s); ok {
			return t, true
		}
		return mailTime(s)
	case "rfc3339":
		return isoTime(s)
	case "http":
		return mailTime(s)
	case "unix", "unix_ms":
		n, ok := number(s)
		if layout == "unix_ms" {
			n /= 1000
		}
		if !ok || n < 0 || n > mostUnix {
			return time.Time{}, false
		}
		return ofUnix(n), true
	}
	for _, zone := range []string{"Z0700", "Z07:00", "Z07"} {
		t, err := time.Parse(parsingLayout(layout, zone), s)
		if name, offset := t.Zone(); err == nil && (!strings.Contains(layout, "%Z") || offset != 0 || name == "UTC" || name == "GMT") {
			return t.UTC(), true // where a zone's name is not known, time.Parse takes it for UTC, and it would be hours too late
		}
		if !strings.Contains(layout, "%z") {
			break
		}
	}
	return time.Time{}, false
}

const (
	// mostUnix is beyond any date, in seconds; it is a date in milliseconds, of 1973.
	mostUnix = 1e11
	// leastUnix is before any token's end, of 1973: a smaller number is no date.
	leastUnix = 1e8
)

// sinceEpoch reads a number of which nobody says what it is.
func sinceEpoch(n float64) (time.Time, bool) {
	if n > mostUnix {
		n /= 1000
	}
	if n < leastUnix || n > mostUnix {
		return time.Time{}, false
	}
	return ofUnix(n), true
}

func ofUnix(n float64) time.Time {
	whole := int64(n)
	return time.Unix(whole, int64((n-float64(whole))*1e9)).UTC()
}

// isoTime reads RFC 3339 and what servers make of it: a space for the T, no seconds, any fraction, +0000 or +00 for +00:00, and no zone,
// which is UTC.
func isoTime(s string) (time.Time, bool) {
	s = strings.TrimSuffix(strings.TrimSuffix(strings.ToUpper(s), " UTC"), " GMT")
	if len(s) > 10 && s[10] == ' ' {
		s = s[:10] + "T" + s[11:]
	}
	s = strings.ReplaceAll(s, " ", "")
	for _, clock := range []string{"2006-01-02T15:04:05", "2006-01-02T15:04"} {
		for _, zone := range []string{"Z07:00", "Z0700", "Z07", ""} {
			if t, err := time.Parse(clock+zone, s); err == nil { // it takes any fraction behind the seconds
				return t.UTC(), true
			}
		}
	}
	return time.Time{}, false
}

// mailTime reads HTTP's dates (RFC 9110 section 5.6.7), and those of RFC 1123 with another zone's offset.
func mailTime(s string) (time.Time, bool) {
	if utc, ok := strings.CutSuffix(s, " UTC"); ok {
		s = utc + " GMT"
	}
	if t, err := http.ParseTime(s); err == nil {
		return t.UTC(), true
	}
	for _, l := range []string{"Mon, 2 Jan 2006 15:04:05 -0700", "Mon, 2 Jan 2006 15:04:05 GMT", "2 Jan 2006 15:04:05 -0700"} {
		if t, err := time.Parse(l, s); err == nil {
			return t.UTC(), true
		}
	}
	return time.Time{}, false
}

// parsingLayout is Go's layout to parse by. A fraction behind the seconds is left out: time.Parse takes one of any length there.
func parsingLayout(layout, zone string) string {
	for _, seconds := range []string{"%S", "%T"} {
		layout = strings.ReplaceAll(layout, seconds+".%f", seconds)
	}
	return goLayout(strings.ReplaceAll(layout, "%z", zone))
}

var numberWord = regexp.MustCompile(`^[+-]?(([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?)$`)

// number reads a number that may be text, with a fraction or an exponent. One that is too large is none: nobody knows what was meant.
func number(s string) (float64, bool) {
	s = strings.TrimSpace(s)
	if !numberWord.MatchString(s) {
		return 0, false
	}
	f, err := strconv.ParseFloat(s, 64)
	return f, err == nil
}
