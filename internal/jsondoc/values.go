package jsondoc

import "errors"

// MostValues bounds the values of a document: each object, list, text, number, true, false and null is one, names are none. An object of one member takes some
// 340 bytes of memory and five of a text, so the length of a text says little of what it becomes. A list of 4,000 things with four members each has 20,001.
const MostValues = 20_000

// ErrTooMany says that a document has more values than are read.
var ErrTooMany = errors.New("too many values")

// Values counts the values of a document, and reads none of them. Of what is no JSON it says at least how many would be read until that is found out.
func Values(b []byte) int {
	most, n := 0, 0
	word := false // within a number, true, false or null
	for i := 0; i < len(b); i++ {
		starts := false
		switch b[i] {
		case '"':
			for i++; i < len(b) && b[i] != '"'; i++ {
				if b[i] == '\\' {
					i++
				}
			}
			n, word = n+1, false
		case '{', '[':
			n, word = n+1, false
		case ':': // what was before it is a name
			n, word = n-1, false
		case '}', ']', ',', ' ', '\t', '\r', '\n':
			word = false
		default:
			starts = !word
			word = true
		}
		if starts {
			n++
		}
		most = max(most, n)
	}
	return most
}
