package provider

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/tokenbroker/tokenbroker/broker"
)

// notIssuance are words that do not decide how a token is issued: a change of theirs must not log everybody in again.
var notIssuance = map[string]bool{
	"title": true, "docs": true, "present": true, "attributes": true, "base_url": true, "margin": true, "rate": true, "override": true,
	"language": true, "when_store_is_away": true, "refresh_token_lifetime": true,
}

// digest hashes what decides issuance, whatever its order is. Comments and words for people do not count.
func digest(root *yaml.Node) string {
	h := sha256.New()
	var write func(n *yaml.Node, place ...string)
	part := func(s string) {
		h.Write([]byte(strconv.Itoa(len(s)) + ":" + s))
	}
	write = func(n *yaml.Node, place ...string) {
		switch n.Kind {
		case yaml.MappingNode:
			members := map[string]*yaml.Node{}
			for i := 0; i+1 < len(n.Content); i += 2 {
				if k := n.Content[i].Value; !(len(place) == 0 && notIssuance[k] || forPeople(k, place) || k == "required" && ofSet(place)) {
					members[k] = n.Content[i+1]
				}
			}
			part("{")
			for _, k := range slices.Sorted(maps.Keys(members)) {
				part(k)
				write(members[k], append(place[:len(place):len(place)], k)...)
			}
			part("}")
		case yaml.SequenceNode:
			part("[")
			for _, c := range n.Content {
				write(c, append(place[:len(place):len(place)], "")...)
			}
			part("]")
		default:
			part(n.Tag)
			part(n.Value)
		}
	}
	write(root)
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// freely are words that may change unasked: nothing that is sent, taken or shown depends on them. What they decide is when a token is asked for, and what people read.
// Where there is a doubt a word is none of these; the order of words counts too.
var freely = map[string]bool{
	"title": true, "docs": true, "margin": true, "rate": true, "override": true, "language": true, "when_store_is_away": true,
	"refresh_token_lifetime": true, "lifetime": true,
}

// how hashes all that a definition decides about what is sent, taken and shown, as it is written.
func how(root *yaml.Node) string {
	h := sha256.Sum256([]byte(written(root, nil, func(word string, place []string) bool {
		return len(place) == 0 && freely[word] || forPeople(word, place)
	})))
	return hex.EncodeToString(h[:])
}

// written is a tree without its form, comments, and the members that are left out; no two others are written the same.
func written(n *yaml.Node, place []string, leftOut func(word string, place []string) bool) string {
	var all []string
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			if k := n.Content[i].Value; !leftOut(k, place) {
				all = append(all, strconv.Quote(k)+": "+written(n.Content[i+1], append(slices.Clip(place), k), leftOut))
			}
		}
		return "{" + strings.Join(all, ", ") + "}"
	case yaml.SequenceNode:
		for _, c := range n.Content {
			all = append(all, written(c, append(slices.Clip(place), ""), leftOut))
		}
		return "[" + strings.Join(all, ", ") + "]"
	default:
		return strconv.Quote(n.Tag) + strconv.Quote(n.Value)
	}
}

// forPeople reports whether a word, at a place in the definition, is for people alone. In a body, a title is a field.
func forPeople(word string, place []string) bool {
	switch word {
	case "known":
		return ofSet(place)
	case "title", "hint":
		return len(place) == 1 && place[0] == "audience" || len(place) == 2 && (place[0] == "inputs" || place[0] == "parameters")
	}
	return false
}

// ofSet reports whether a place is scopes or resources.
func ofSet(place []string) bool {
	return len(place) == 1 && (place[0] == "scopes" || place[0] == "resources")
}

// Facts implements broker.Definition.
func (d *definition) Facts() *broker.Facts { return d.facts }

// makeFacts says what the broker decides by.
func (d *definition) makeFacts() *broker.Facts {
	f := &broker.Facts{
		Name: d.name, Digest: d.digest, Inputs: map[string]broker.InputFacts{}, Obtains: len(d.obtain) > 0 || d.token != nil,
		Refreshes: len(d.refresh) > 0, Reuse: d.reuse, RefreshTokenIdle: d.idle, RefreshTokenAbsolute: d.absolute,
		ObtainsAlone: d.obtainsAlone(),
		Lifetime:     d.lifetime, UntilRejected: d.untilRejected, Margin: d.margin, RateRequests: d.rateRequests, RatePeriod: d.ratePeriod,
	}
	for name, in := range d.inputs {
		f.Inputs[name] = broker.InputFacts{Secret: in.secret, Optional: in.optional, Seed: in.seed, Was: in.was, Called: in.called(name)}
	}
	for _, q := range d.obtain {
		f.Requests++
		if q.issuer != nil {
			f.Requests++
		}
	}
	hosts := map[string]bool{}
	for _, q := range slices.Concat(d.obtain, d.refresh) {
		for _, n := range q.ledBy() {
			d.inputsBehind(n, hosts, map[string]bool{})
		}
	}
	f.Requests = max(f.Requests, 1)
	f.HostInputs = slices.Sorted(maps.Keys(hosts))
	if d.baseURL != nil {
		for _, n := range d.baseURL.hostNames() {
			d.inputsBehind(n, hosts, map[string]bool{})
		}
	}
	f.PlaceInputs = slices.Sorted(maps.Keys(hosts))
	return f
}

// inputsBehind adds the inputs that a name stands for, let values and defaults of parameters seen through.
func (d *definition) inputsBehind(name string, out, seen map[string]bool) {
	if _, ok := d.inputs[name]; ok {
		out[name] = true
		return
	}
	if seen[name] {
		return
	}
	seen[name] = true
	var names []string
	if x, ok := d.let[name]; ok {
		names = x.names()
	}
	if p, ok := d.parameters[name]; ok {
		names = p.fallback.names()
	}
	for _, n := range names {
		d.inputsBehind(n, out, seen)
	}
}

// obtainsAlone reports whether a broker may obtain a token for itself while its store is away. It is so unless the definition
// says `fail`, or does not say and has a refresh: a refresh token that only one broker knows would be lost.
func (d *definition) obtainsAlone() bool {
	switch d.whenAway {
	case "obtain":
		return len(d.obtain) > 0 || d.token != nil
	case "fail":
		return false
	}
	return len(d.refresh) == 0 && (len(d.obtain) > 0 || d.token != nil)
}
