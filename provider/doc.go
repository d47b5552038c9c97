// Package provider is the definition language: it parses and checks definitions, and runs them against an upstream. It
// implements broker.Upstream. Operators write definitions; adding an API never needs Go code.
//
// It decides what a request looks like, what an answer means and which part of it is taken. It does not decide when to ask,
// what to keep or for how long: that is the broker's. Nothing that an upstream or a transport says leaves the package, but
// for error codes in the alphabet of RFC 6749 and, for an operator at a terminal, what Try shows.
package provider
