package policy

import (
	"regexp"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/dotdot"
)

func TestPatterns(t *testing.T) {
	for _, x := range []struct {
		form    form
		pattern string
		yes, no string // separated by blanks; _ is the empty text
	}{
		{whole, "a", "a", "_ b aa A"},
		{whole, "*", "a abc a/b .. /", "_"},
		{whole, "a*", "ab abc a*", "_ a ba"},
		{whole, "*a", "ba aa bca", "_ a ab"},
		{whole, "a*b", "axb axxb abb aab", "ab axbx xaxb a b _"},
		{whole, "a*b*c", "axbxc axbbxc abbbc axbcxbxc", "abc axbc abxc axc"},
		{whole, "*ab*ab*", "xabxabx xababxabx", "xabab ababab xababx abxabx"},
		{whole, "a*a", "aaa aba", "a aa ab"},
		{slashes, "a/*", "a/b a/bc", "a a/ a/b/c a/.. a/. a/%2e%2E a/.%2e ab/c"},
		{slashes, "a/x*", "a/xb a/x..", "a/x a/x/ a/b"},
		{slashes, "a/.*", "a/.x a/...", "a/. a/.. a/.%2e"},
		{slashes, "*/a", "b/a", "/a a b/c/a ../a"},
		{slashes, "a/*/c", "a/b/c", "a//c a/c a/b/b/c a/../c"},
		{slashes, "a/**", "a/b a/b/c a/b/c/d", "a a/ a//b a/b/ a/b//c a/../b a/b/.. b/c"},
		{slashes, "a/b*/**", "a/bb/c a/bb/c/d", "a/b/c a/bb a/bb/"},
		{slashes, "**", "a a/b", "_ / a/ /a a//b .. a/../b"},
		{slashes, "https://h/**", "https://h/x https://h/x/y", "https://h https://h/ https://h.evil/x https://h@evil/x http://h/x https:/h/x"},
		{slashes, "a/..", "a/..", "a/b"},
		{slashes, "a/**", "a/..b a/b..?c a/b;c=..x", `a/..? a/..?x=1 a/%2e%2E#x a/..;x a/x\..\y a/x%2f..%2fy a/x%5C.. a/b?c/../d`},
		{words, "*.Read", "Mail.Read", "Mail.Send,Mail.Read a,Mail.Read ,Mail.Read Read"},
		{words, "Mail.*", "Mail.Read Mail.\u00e9", "Mail.Read,Mail.Send"},
		{words, "a,b", "a,b", "a b ab"},
		{several, "https://h/*", "https://h/a https://h/a;b", "https://h/a,admin https://h/a,b https://h/\u200badmin https://h/a\ufffdadmin"},
		{several, "https://h/**", "https://h/a https://h/a/b", "https://h/a,admin https://h/a/b,admin https://h/a,b/c https://h/,a https://h/a/\ufeffadmin"},
		{several, "api-*", "api-x", "api-x,admin api-x,api-y"},
		{several, "**", "a a/b", "a,b a/b,c"},
		{slashes, "a/**", "a/b%3b a/b%253fc", "a/..%3bx a/..%3Fx a/..%23x a/%252e%252e/x a/..%252fx a/%25252e%25252E/x a/%25%32%65%25%32%65/x a/..%25%32%66x a/%%32e%%32e/x"},
		{dots, "*.batch.corp", "a.batch.corp", "batch.corp .batch.corp a.b.batch.corp a.batch.corp. axbatch.corp"},
		{dots, "a*.corp", "ab.corp", "a.corp a.b.corp"},
		{dots, "a.**", "a.b a.b.c", "a a. a..b"},
		{uris, "urn:corp:*", "urn:corp:a", "urn:corp:a:b urn:corp:a/b urn:corp: urn/corp/a"},
		{uris, "urn:corp/*", "urn:corp/a", "urn:corp:a"},
		{uris, "urn:**", "urn:a urn:a:b urn:a/b", "urn: urn urn:a: urn:a//b urn/a"},
	} {
		p, err := parsePattern(x.pattern, x.form)
		if err != nil {
			t.Errorf("%s: %v", x.pattern, err)
			continue
		}
		for want, texts := range map[bool]string{true: x.yes, false: x.no} {
			for _, s := range strings.Fields(texts) {
				if s == "_" {
					s = ""
				}
				if got := p.matches(s); got != want {
					t.Errorf("%s of %q: got %v for %q", x.pattern, x.form, got, s)
				}
			}
		}
	}
}

// TestNoWildcardStandsForABlank in what may be several, of whichever alphabet. Who writes one down means it.
func TestNoWildcardStandsForABlank(t *testing.T) {
	for _, f := range []form{words, several} {
		for _, blank := range []string{" ", "\t", "\u00a0", "\u2003", "\u3000", "\ufeff", "\u0085", "\u200b"} {
			for pattern, want := range map[string]bool{"*": false, "*.read": false, "mail*": false, "mail.send*mail.read": false, "mail.send" + blank + "mail.read": true} {
				p, err := parsePattern(pattern, f)
				if err != nil {
					if want && blank < " " { // a control character
						continue
					}
					t.Fatal(pattern, err)
				}
				if p.matches("mail.send"+blank+"mail.read") != want {
					t.Errorf("%q of %q: got %v", pattern, f, !want)
				}
			}
		}
	}
}

// TestNamesOfHostsFoldOfASCIIAlone: other letters that are A to Z to Unicode make another name.
func TestNamesOfHostsFoldOfASCIIAlone(t *testing.T) {
	for name, want := range map[string]bool{"api.kiosk.example": true, "API.Kiosk.example": true, "ap\u0130.kiosk.example": false, "api.\u212aiosk.example": false} {
		p, err := parsePattern("api.kiosk.example", dots)
		if err != nil {
			t.Fatal(err)
		}
		e := entry{kind: broker.DNS, name: patterns{all: []pattern{p}}}
		if got := e.matches(&broker.Caller{Kind: broker.DNS, Name: name}); got != want {
			t.Errorf("%q: got %v", name, got)
		}
		if got := lowerHost("https://"+name+"/\u0130") == "https://api.kiosk.example/\u0130"; got != want {
			t.Errorf("the address of %q: got %v", name, got)
		}
	}
	if c, err := (Description{Identity: "dns:company/ap\u0130.corp"}).Caller(); err == nil {
		t.Errorf("got %s", c)
	}
}

func TestWhatIsNoPattern(t *testing.T) {
	for _, x := range []struct {
		form form
		text string
	}{
		{whole, ""}, {whole, "**"}, {whole, "a**"}, {whole, "a/**"}, {whole, "a\n"}, {whole, "a\x7f"}, {slashes, "a**"}, {slashes, "**/a"}, {slashes, "***"}, {slashes, "a/***"},
		{slashes, "a/**/b"}, {slashes, "a.**"}, {dots, "a/**"}, {slashes, "****"}, {slashes, "a/**b"}, {slashes, "**a/**"}, {slashes, "**/**"},
	} {
		if _, err := parsePattern(x.text, x.form); err == nil {
			t.Errorf("%q of %q is taken for a pattern", x.text, x.form)
		}
	}
}

// expression is what a pattern means, as an expression of Go's, but for segments that lead astray.
func expression(text string, f form) *regexp.Regexp {
	one := `[^` + regexp.QuoteMeta(string(f)) + `]`
	if f == whole {
		one = `(?s:.)`
	}
	rest, isRest := strings.CutSuffix(text, "**")
	var b strings.Builder
	for i, piece := range strings.Split(rest, "*") {
		if i > 0 {
			b.WriteString(one + "+")
		}
		b.WriteString(regexp.QuoteMeta(piece))
	}
	if isRest {
		b.WriteString(one + "+(?:[" + regexp.QuoteMeta(string(f)) + "]" + one + "+)*")
	}
	return regexp.MustCompile(`\A(?:` + b.String() + `)\z`)
}

// FuzzPattern: a pattern matches what the expression does that says the same, but for segments that lead astray.
func FuzzPattern(f *testing.F) {
	for _, s := range []string{"a", "*", "a*b", "a/*", "a/**", "**", "*.b", "a:*/b*", "*a*a*a*b", "a/***", "..", "%2e*"} {
		for _, text := range []string{"a", "aab", "a/b", "a/../b", "aaaaaaaaab", "x:y/bz", ""} {
			f.Add(s, text, byte(len(s)+len(text)))
		}
	}
	f.Fuzz(func(t *testing.T, s, text string, which byte) {
		form := []form{whole, slashes, dots, uris}[which%4]
		p, err := parsePattern(s, form)
		if err != nil || len(s) > 1000 || !isASCII(s) || !isASCII(text) {
			p.matches(text)
			return
		}
		got, want := p.matches(text), expression(s, form).MatchString(text)
		if want && !got && form.separates('/') && hasWildcard(s) && dotdot.Leads(strings.ReplaceAll(text, ":", "/")) {
			return
		}
		if got != want {
			t.Fatalf("%q of %q: got %v for %q", s, form, got, text)
		}
		if got && strings.HasSuffix(s, "/**") && dotdot.Leads(strings.TrimPrefix(text, strings.TrimSuffix(s, "**"))) && !hasWildcard(strings.TrimSuffix(s, "**")) {
			t.Fatalf("%q matches %q, which leads astray", s, text)
		}
	})
}

func isASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r >= 0x80 })
}
