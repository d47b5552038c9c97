package main

import "regexp"

// firstGroup is what the first group of the pattern matches in the text.
func firstGroup(fatalf func(string, ...any), pattern, text string) string {
	m := regexp.MustCompile(pattern).FindStringSubmatch(text)
	if len(m) < 2 {
		fatalf("no match for %s in:\n%s", pattern, text)
		return ""
	}
	return m[1]
}

func removeBinary() {}
