package broker

import (
	"cmp"
	"slices"
	"strings"
)

// A Destination is a place that a credential's secrets or tokens go to by its definition. Comparable.
type Destination struct {
	Use Use
	// Place is an origin (RFC 6454), such as https://login.example.com. What callers choose or answers tell stands in braces. For Callers and
	// TokenFrom it is the name of the input or the value, and where that comes from; for Carried and SentAs an origin, and behind a colon such a name.
	Place string
}

// A Use is what goes to a destination.
type Use string

// The uses. They are stored.
const (
	// Requests are token requests. What they bring there, Carried says.
	Requests Use = "requests"
	// Carried is one of the secrets, refresh tokens and values of answers that token requests bring to a place. What came from there is none.
	Carried Use = "carried"
	// SentAs is in which part of a request something stands there that callers do not get, and what is made of it, where that is not RFC 6749's place.
	SentAs Use = "sent"
	// TokenFrom is where a token comes from that callers get, and its type and its scopes where that is not RFC 6749's place. Every definition
	// has one. Its word is another one each time that places are named otherwise: a record with a former word, which were "from", "token" and "tokens", is
	// one of before.
	TokenFrom Use = "token from"
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

// Unaccepted returns those of the places that are not in the credential's record: nobody has said that its secrets and tokens may go there.
func (c Credential) Unaccepted(to []Destination) []Destination {
	return slices.DeleteFunc(slices.Clone(to), func(d Destination) bool { return slices.Contains(c.Destinations, d) })
}

// complete reports whether the credential's record says of everything where it goes. One of before does not.
func (c Credential) complete() bool {
	return slices.ContainsFunc(c.Destinations, func(d Destination) bool { return d.Use == TokenFrom })
}

// GoesBy reports whether somebody has accepted that a secret input goes somewhere by what it is called, or the credential's record does not say.
func (c Credential) GoesBy(called string) bool {
	return !c.complete() || slices.ContainsFunc(c.Destinations, func(d Destination) bool {
		return d.Use == Callers && d.Place == called ||
			d.Use == Carried && (strings.HasSuffix(d.Place, ": "+called) || strings.HasSuffix(d.Place, ", first "+called))
	})
}

// Against returns those of the unaccepted places that the credential's record speaks against. A record of before does not say of everything
// where it goes.
func (c Credential) Against(to []Destination) []Destination {
	if c.Destinations == nil {
		return nil
	}
	against := c.Unaccepted(to)
	if c.complete() {
		return against
	}
	return slices.DeleteFunc(against, func(d Destination) bool {
		return d.Use == Carried || d.Use == SentAs || d.Use == TokenFrom || slices.ContainsFunc(c.Destinations, func(was Destination) bool {
			return d.Use == Callers && was.Use == Callers && strings.HasPrefix(d.Place, was.Place+" of ") // it said the place in the answer, not which answer
		})
	})
}
