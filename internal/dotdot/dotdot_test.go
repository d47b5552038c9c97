package dotdot

import (
	"net/url"
	"strings"
	"testing"
)

func TestLeads(t *testing.T) {
	for path, want := range map[string]bool{
		"": false, "a": false, "...": false, "..a": false, "a..": false, "a/b.c/..d": false, "%2e%2e%2e": false, "100%": false, "%zz/%2": false, "a?b=..x": false, "%%%": false,
		".": true, "..": true, "a/..": true, "../a": true, "/./a": true, `a\..\b`: true, "..;/a": true, "a/..?": true, "a?b/../c": true, "..#": true,
		"%2e": true, "%2E.": true, ".%2e/a": true, "a%2f..%2fb": true, "a%5c..": true, "..%3bx": true, "..%3Fx": true, "..%23x": true,
		"%252e%252e/a": true, "..%252fa": true, "%25252e.": true, "%25%32%65%25%32%65/a": true, "..%25%32%66a": true, "%252%35%32e.": true, "%%32e%%32e/a": true,
		"100%/%2e%2e": true, "%zz/%252e%252e": true, "%2525252e.": false, // decoded four times over
	} {
		if got := Leads(path); got != want {
			t.Errorf("%q: got %v", path, got)
		}
	}
}

// FuzzLeads: what leads to another place once it is decoded up to three times is found.
func FuzzLeads(f *testing.F) {
	f.Add("a/%25%32e./b")
	f.Fuzz(func(t *testing.T, path string) {
		next, err := path, error(nil)
		for range decoded + 1 {
			if !Leads(path) && strings.Contains("/"+next+"/", "/../") {
				t.Fatalf("%q becomes %q", path, next)
			}
			if next, err = url.PathUnescape(next); err != nil {
				return
			}
		}
	})
}
