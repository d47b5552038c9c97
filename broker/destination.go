package broker

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// A Destination is a place that a credential's secrets or tokens go to by its definition. Comparable.
type Destination struct {
	Use Use
	// Place is an origin (RFC 6454), such as https://login.example.com. What callers choose or answers tell stands in braces. For Callers it is the
	// name of the input; for Carried an origin, and behind a colon such a name; for How a digest, in words.
	Place string
}

// A Use is what goes to a destination.
type Use string

// The uses. They are stored.
const (
	// Requests are token requests. What they bring there, Carried says.
	Requests Use = "requests"
	// Carried is one of the secret inputs and refresh tokens that token requests bring to a place.
	Carried Use = "carried"
	// How stands for all that the definition decides about what is sent, taken and shown, by its digest: whatever of that another file does otherwise. Every
	// definition has one. A record without it is one of before, also one with "from", "token", "tokens", "token from" or "sent", which said it part by part.
	How Use = "how"
	// API is where callers are told to take tokens, the base URL.
	API Use = "api"
	// Callers get this secret input itself, as part of what they show to the API.
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

// complete reports whether the credential's record says of everything where it goes, and how. One of before does not.
func (c Credential) complete() bool {
	return slices.ContainsFunc(c.Destinations, func(d Destination) bool { return d.Use == How })
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
	return slices.DeleteFunc(against, func(d Destination) bool { return d.Use == Carried || d.Use == How })
}

// News says for people what is new about places that nobody has accepted: first which hosts, then which secrets go to those that got other things, and which
// callers get. Only where there is none of that it is the same hosts.
func News(to []Destination) string {
	var hosts, asked, secrets, shown, news []string
	for _, d := range to {
		switch {
		case d.Use == Callers:
			shown = append(shown, d.Place)
		case d.Use != Requests && d.Use != API:
		case !slices.Contains(hosts, d.Place):
			hosts = append(hosts, d.Place)
		}
		if d.Use == Requests {
			asked = append(asked, d.Place)
		}
	}
	for _, d := range to {
		if host, secret := d.carried(); secret != "" && !slices.Contains(asked, host) {
			secrets = append(secrets, fmt.Sprintf("%.300s: %.200s", host, secret))
		}
	}
	tell := func(all []string, one, more string) {
		switch len(all) {
		case 0:
		case 1:
			news = append(news, fmt.Sprintf(one, all[0]))
		default:
			news = append(news, fmt.Sprintf(more, len(all), all[0]))
		}
	}
	tell(hosts, "it goes to a new host: %.300s", "it goes to %d new hosts, the first of which is %.300s")
	tell(secrets, "a secret goes where nobody has accepted it, to %s", "%d secrets go where nobody has accepted them, the first of which to %s")
	tell(shown, "callers get a secret, which nobody has accepted: %.200s", "callers get %d secrets, which nobody has accepted, the first of which is %.200s")
	if len(news) == 0 {
		return "it goes to the same hosts; what is sent, taken or shown there has changed"
	}
	return strings.Join(news, "; ")
}

// carried are the host that gets a secret, and what that is called; empty: nothing is carried.
func (d Destination) carried() (host, secret string) {
	i := strings.LastIndex(d.Place, ": ")
	if d.Use != Carried || i < 0 {
		return "", ""
	}
	return d.Place[:i], d.Place[i+len(": "):]
}
