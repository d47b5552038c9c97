package provider

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"strconv"

	"go.yaml.in/yaml/v4"

	"github.com/tokenbroker/tokenbroker/broker"
)

// notIssuance are words that do not decide how a token is issued: a change of theirs must not log everybody in again.
var notIssuance = map[string]bool{
	"title": true, "docs": true, "present": true, "attributes": true, "base_url": true, "margin": true, "rate": true, "override": true,
	"language": true, "when_store_is_away": true, "refresh_token_lifetime": true,
}

// notSent are words that decide nothing of what is sent.
var notSent = map[string]bool{
	"title": true, "docs": true, "attributes": true, "base_url": true, "margin": true, "rate": true, "override": true,
	"language": true, "when_store_is_away": true, "refresh_token_lifetime": true, "lifetime": true,
}

// digest hashes what decides issuance, whatever its order is, or all that decides what is sent, in its order. Comments and words for people do not count.
func digest(root *yaml.Node, sent bool) string {
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
				if k := n.Content[i].Value; !forPeople(k, place, sent) {
					members[k] = n.Content[i+1]
				}
			}
			order := slices.Sorted(maps.Keys(members))
			if sent { // what is taken first may decide what is taken next
				order = order[:0]
				for i := 0; i+1 < len(n.Content); i += 2 {
					if k := n.Content[i].Value; members[k] != nil {
						order = append(order, k)
					}
				}
			}
			part("{")
			for _, k := range order {
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

// forPeople reports whether a word, at a place in the definition, does not decide issuance, or what is sent. In a body, a title is a field.
func forPeople(word string, place []string, sent bool) bool {
	switch {
	case len(place) == 0 && sent:
		return notSent[word]
	case len(place) == 0:
		return notIssuance[word]
	case len(place) == 1 && (place[0] == "scopes" || place[0] == "resources") && (word == "required" && !sent || word == "known"):
		return true
	case word != "title" && word != "hint":
		return false
	}
	return len(place) == 1 && place[0] == "audience" || len(place) == 2 && (place[0] == "inputs" || place[0] == "parameters")
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
