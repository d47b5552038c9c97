package policy

import (
	"errors"
	"fmt"

	"github.com/tokenbroker/tokenbroker/broker"
)

// Names are patterns of callers' names, as a policy's callers have them. The zero value matches nothing.
type Names struct{ all []pattern }

// namesMost bounds them.
const namesMost = 1000

// ParseNames reads patterns of names of a kind: DNS, URI or CommonName; and of SPIFFE IDs, without their scheme.
func ParseNames(kind broker.CallerKind, texts []string) (n Names, err error) {
	forms := map[broker.CallerKind]form{broker.DNS: dots, broker.URI: uris, broker.CommonName: whole, broker.SPIFFE: slashes}
	f, ok := forms[kind]
	switch {
	case !ok:
		return n, fmt.Errorf("there are no names of the kind %q", kind)
	case len(texts) == 0:
		return n, errors.New("there is no name in it")
	case len(texts) > namesMost:
		return n, fmt.Errorf("there are more than %d names in it", namesMost)
	}
	for i, text := range texts {
		p, err := parsePattern(text, f)
		if why := spiffeIDs.check(text); err == nil && kind == broker.SPIFFE && why != "" {
			err = errors.New(why)
		}
		if err != nil {
			return n, fmt.Errorf("name %d: %w", i+1, err)
		}
		n.all = append(n.all, p)
	}
	return n, nil
}

// Match reports whether a name is one of them.
func (n Names) Match(name string) bool {
	for i := range n.all {
		if n.all[i].matches(name) {
			return true
		}
	}
	return false
}
