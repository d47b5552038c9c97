package provider

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"html"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// messageMost bounds an upstream's message.
const messageMost = 500

// shortestSecret is from how many characters on a secret is looked for in what an upstream says, and pieceOfSecret how much of one is too much.
const (
	shortestSecret = 4
	pieceOfSecret  = 6
)

// conceal replaces secrets by their names, in the forms in which an upstream echoes what it was sent; what contains another is replaced first.
// Where a piece of one is left, in whatever spelling, nothing of the text is shown.
func (v *values) conceal(s string) string {
	var pairs []string
	for _, x := range v.all() {
		secret := x.String()
		if !x.secret || len(secret) < shortestSecret {
			continue
		}
		quoted, _ := json.Marshal(secret) // a string has no way to fail
		for _, form := range []string{
			secret, url.QueryEscape(secret), url.PathEscape(secret), strings.Trim(string(quoted), `"`), html.EscapeString(secret),
			base64.StdEncoding.EncodeToString([]byte(secret)), base64.RawURLEncoding.EncodeToString([]byte(secret)),
		} {
			pairs = append(pairs, form, "<"+x.name+">")
		}
	}
	s = basicPair.ReplaceAllString(strings.NewReplacer(pairs...).Replace(s), "Basic <hidden>")
	if name := v.pieceIn(s); name != "" {
		return "what it says has a piece of " + name + " in it, and is not shown"
	}
	return s
}

// pieceIn names a secret of which a piece is in a text, in any case, as it is, escaped, or as base64 or hex; empty: none is.
func (v *values) pieceIn(s string) string {
	for name := range v.fixed {
		s = strings.ReplaceAll(s, "<"+name+">", " ")
	}
	for _, x := range v.former {
		s = strings.ReplaceAll(s, "<"+x.name+">", " ")
	}
	s = everydayWord.ReplaceAllString(s, " ")
	texts := []string{bare(s), bare(unescaped(s))}
	for _, word := range encodedWord.FindAllString(s, -1) {
		for _, decode := range []func(string) ([]byte, error){base64.RawStdEncoding.DecodeString, base64.RawURLEncoding.DecodeString, hex.DecodeString} {
			if b, err := decode(strings.TrimRight(word, "=")); err == nil {
				texts = append(texts, bare(string(b)))
			}
		}
	}
	for _, x := range v.all() {
		secret := x.String()
		if !x.secret || len(secret) < shortestSecret {
			continue
		}
		for _, form := range []string{
			secret, base64.StdEncoding.EncodeToString([]byte(secret)), base64.URLEncoding.EncodeToString([]byte(secret)), hex.EncodeToString([]byte(secret)),
		} {
			if slices.ContainsFunc(texts, func(t string) bool { return pieces(t, bare(form)) }) {
				return x.name
			}
		}
	}
	return ""
}

// everydayWord is what upstreams say of anybody's secret; that one has such a word in it tells nothing.
var everydayWord = regexp.MustCompile(`(?i)\b(clients?|secrets?|passwords?|users?|usernames?|tokens?|refresh|credentials?|access|invalid|unknown|wrong)\b`)

var encodedWord = regexp.MustCompile(`[A-Za-z0-9+/_-]{6,}=*`)

// unescaped undoes what a text was escaped by, as far as it was.
func unescaped(s string) string {
	s = html.UnescapeString(s)
	s = jsonEscape.ReplaceAllStringFunc(s, func(e string) string {
		var c string
		if json.Unmarshal([]byte(`"`+e+`"`), &c) != nil {
			return e
		}
		return c
	})
	return percentEscape.ReplaceAllStringFunc(s, func(e string) string {
		c, err := url.PathUnescape(e)
		if err != nil {
			return e
		}
		return c
	})
}

var (
	jsonEscape    = regexp.MustCompile(`(\\u[0-9a-fA-F]{4})+|\\[/"\\]`)
	percentEscape = regexp.MustCompile(`(%[0-9a-fA-F]{2})+`)
)

// bare leaves letters and digits, in lower case.
func bare(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			return unicode.ToLower(r)
		}
		return -1
	}, s)
}

// pieces reports whether a piece of a secret is in a text, or the whole of a short one.
func pieces(text, secret string) bool {
	if len(secret) <= pieceOfSecret {
		return len(secret) >= shortestSecret && strings.Contains(text, secret)
	}
	for i := 0; i+pieceOfSecret <= len(secret); i++ {
		if strings.Contains(text, secret[i:i+pieceOfSecret]) {
			return true
		}
	}
	return false
}

// basicPair is a client's id and secret as they were sent: encoded together, neither is found in it.
var basicPair = regexp.MustCompile(`(?i)\bbasic [A-Za-z0-9+/_-]{4,}=*`)

// printable bounds a text and leaves nothing in it that a terminal obeys.
func printable(s string) string {
	var b strings.Builder
	for n, r := range []rune(s) {
		if n == messageMost {
			b.WriteString("…")
			break
		}
		if !unicode.IsPrint(r) {
			r = ' '
		}
		b.WriteRune(r)
	}
	return b.String()
}
