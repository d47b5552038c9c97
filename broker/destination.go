package broker

import (
	"cmp"
	"slices"
)

// A Destination is a place that a credential's secrets or tokens go to by its definition. Comparable.
type Destination struct {
	Use Use
	// Place is an origin (RFC 6454), such as https://login.example.com. What callers choose or answers tell stands in braces. For Callers it
	// is the name of the input or the value, and where that comes from.
	Place string
}

// A Use is what goes to a destination.
type Use string

// The uses. They are stored.
const (
	// Requests are token requests: secrets, refresh tokens and values of former answers go there.
	Requests Use = "requests"
	// API is where callers are told to take tokens, the base URL.
	API Use = "api"
	// Callers get this secret input itself, or this value of an answer, as part of what they show to the API or beside it.
	Callers Use = "callers"
	// Release: a definition that came with the broker says where everything goes, and a release of the broker may change it.
	Release Use = "release"
)

// SortDestinations sorts, and drops repetitions. It changes its argument.
func SortDestinations(all []Destination) []Destination {
	slices.SortFunc(all, func(a, b Destination) int { return cmp.Or(cmp.Compare(a.Use, b.Use), cmp.Compare(a.Place, b.Place)) })
	return slices.Compact(all)
}

// Unaccepted returns those of the places that nobody has said the credential's secrets and tokens may go to.
func (c Credential) Unaccepted(to []Destination) []Destination {
	return slices.DeleteFunc(slices.Clone(to), func(d Destination) bool { return slices.Contains(c.Destinations, d) })
}
