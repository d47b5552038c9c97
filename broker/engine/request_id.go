package engine

import (
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

const (
	// requestMemory is how long a request's id is remembered, requestsKept how many.
	requestMemory = time.Hour
	requestsKept  = 16
)

// repeated reports whether a request changed the credential already. It fails with AlreadyExists where another one did, under the same id.
func repeated(c broker.Credential, ch Change, now time.Time) (bool, error) {
	before, ok := c.Requests[ch.RequestID]
	if !ok || now.Sub(before.At) >= requestMemory {
		return false, nil
	}
	if !before.Contents.IsZero() && !ch.contents.IsZero() && before.Contents != ch.contents {
		return false, &broker.Failure{
			Kind: broker.AlreadyExists, Credential: c.Name, Detail: "another request, which asked for something else, had this request_id: draw a new one",
		}
	}
	return true, nil
}

// contentsOf is a keyed hash of what a request asks for: of its secrets nobody could find out anything without the key.
func (b *Broker) contentsOf(what string, d Draft) (id broker.ID) {
	parts := []string{what, d.Provider, d.DefaultScopes.String(), d.DefaultAudience, strconv.FormatBool(d.Disabled)}
	add := func(m map[string]string) {
		parts = append(parts, strconv.Itoa(len(m)))
		for _, name := range slices.Sorted(maps.Keys(m)) {
			parts = append(parts, name, m[name])
		}
	}
	add(d.Inputs)
	add(d.Labels)
	for _, name := range slices.Sorted(maps.Keys(d.Secrets)) {
		parts = append(parts, name, d.Secrets[name].Reveal())
	}
	h := b.store.Fingerprint("request", parts...)
	copy(id[:], h[:])
	return id
}

func rememberRequest(known map[string]broker.Request, ch Change, now time.Time) map[string]broker.Request {
	out := map[string]broker.Request{}
	for k, r := range known {
		if now.Sub(r.At) < requestMemory {
			out[k] = r
		}
	}
	if ch.RequestID != "" {
		for len(out) >= requestsKept {
			oldest := ""
			for k, r := range out {
				if oldest == "" || r.At.Before(out[oldest].At) {
					oldest = k
				}
			}
			delete(out, oldest)
		}
		out[ch.RequestID] = broker.Request{At: now, Contents: ch.contents}
	}
	return out
}
