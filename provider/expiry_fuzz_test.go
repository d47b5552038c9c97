package provider

import (
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"
)

// FuzzExpiry: no time that an answer has, in no layout that a definition may have, panics or is out of bounds; and a time that
// is written is read as the same.
func FuzzExpiry(f *testing.F) {
	for i, s := range []string{
		"", "0", "3600", "-5", "1e99", "inf", "1779000000", "1779000000123", ".5", "2026-05-01T12:00:00Z", "2026-05-01T12:00:00.123456789+02:00", "9999-12-31T23:59:59-23:59",
		"Fri, 01 May 2026 12:00:00 GMT", "2026-05-01 12:00:00", "1:02:03", "36500:0:0", "99999999999999999999:0:0", "01.05.2026 12:00:00.5 +0200",
	} {
		for j, layout := range []string{"", "rfc3339", "http", "unix", "unix_ms", "%Y-%m-%d %H:%M:%S", "%d.%m.%Y %H:%M:%S.%f %z", "%j", "%%"} {
			if (i+j)%3 == 0 {
				f.Add(s, layout, int64(1779000000))
			}
		}
	}
	f.Add("     2026-05-17 06:40:02", "     %Y-%m-%d %H:%M:%S", int64(1779000002))
	units := []string{"", "s", "ms", "m", "d:hh:mm"}
	f.Fuzz(func(t *testing.T, s, layout string, unix int64) {
		for _, unit := range units {
			if d, ok := relative(s, unit); ok && (d > 2*mostSeconds*time.Second || d < -2*mostSeconds*time.Second) {
				t.Fatalf("%q in %q: got %v", s, unit, d)
			}
		}
		if layout != "" {
			r := newReader("")
			if layout = r.layout(&yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: layout}, "layout"); len(r.Problems) > 0 {
				return
			}
		}
		if at, ok := parseTime(s, layout); ok && at.Location() != time.UTC {
			t.Fatalf("%q in %q: got a time in %v", s, layout, at.Location())
		}
		at := time.Unix(unix%1e10, 0).UTC()
		if unix < 0 || layout == "" {
			return
		}
		// A layout that has all of a time, each part once, and nothing else that could be mistaken for a part.
		whole := []string{"rfc3339", "http", "unix", "unix_ms"}
		if strings.Trim(layout, "-_/ %YmdHMSTF:") == "" && strings.Count(layout, "%") == 6 && containsEach(layout, "%Y", "%m", "%d", "%H", "%M", "%S") && separated(layout) {
			whole = append(whole, layout)
		}
		if slices.Contains(whole, layout) {
			if back, ok := parseTime(formatTime(at, layout), layout); !ok || !back.Equal(at) {
				t.Fatalf("%v in %q: got %v %v of %q", at, layout, back, ok, formatTime(at, layout))
			}
		}
	})
}

func containsEach(s string, parts ...string) bool {
	return !slices.ContainsFunc(parts, func(p string) bool { return strings.Count(s, p) != 1 })
}

// separated reports whether something stands between the conversions of a layout.
func separated(layout string) bool {
	for i := 0; i+2 < len(layout); i++ {
		if layout[i] == '%' && layout[i+2] == '%' {
			return false
		}
	}
	return true
}
