// Package suggest guesses what was meant by a word that nobody knows. It knows words and nothing else.
package suggest

import (
	"slices"
	"strings"
)

// most bounds the words that are compared.
const most = 64

// Nearest returns the candidate that the written word was probably meant to be; empty: none comes near. Case does not count.
func Nearest(written string, candidates []string) string {
	best, near := "", max(len(written)/3, 1)+1
	for _, c := range slices.Sorted(slices.Values(candidates)) {
		if apart := len(c) - len(written); max(apart, -apart) >= near {
			continue // further apart than the nearest until now
		}
		if d := distance(strings.ToLower(written), strings.ToLower(c)); d < near {
			best, near = c, d
		}
	}
	return best
}

// distance is the number of insertions, deletions, replacements and swaps of neighbours between two words.
func distance(a, b string) int {
	if len(a) > most || len(b) > most {
		return most
	}
	var rows [3][most + 1]int
	older, old, row := &rows[0], &rows[1], &rows[2]
	for j := range len(b) + 1 {
		old[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			same := 1
			if a[i-1] == b[j-1] {
				same = 0
			}
			row[j] = min(old[j]+1, row[j-1]+1, old[j-1]+same)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], older[j-2]+1)
			}
		}
		older, old, row = old, row, older
	}
	return old[len(b)]
}
