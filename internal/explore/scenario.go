package explore

import (
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// A scenario is what happens by itself: how many brokers there are, what the upstream is like, and who asks when.
type scenario struct {
	name    string
	brokers int
	facts   broker.Facts
	script  []event
	// not are verbs that make no sense here.
	not []string
	// deaf: the brokers hear nothing of each other.
	deaf bool
}

// An event is an action, or several, at a time. Actions that are no calls are of broker 0.
type event struct {
	at time.Duration
	do []Action
}

// rotates reports whether a human gives a refresh token that is spent by use.
func (s *scenario) rotates() bool { return s.facts.Refreshes && !s.facts.Obtains }

func at(d time.Duration, do ...Action) event { return event{d, do} }

const (
	sec  = time.Second
	msec = time.Millisecond
	// margin is how long before its end a token is refreshed: the brokers draw the time from a beat before that.
	margin = 4 * beat
)

// calm is an ordinary minute: a cold start, hits, a refresh ahead of time, a token that nobody refreshed.
var calm = []event{
	at(0, "call get@0", "call get@1"), at(1*sec, "call get@1"),
	at(29250*msec, "call get@0", "call get@1"), at(29750*msec, "call get@0", "call get@1"),
	at(62*sec, "call get@0", "call get@1"), at(64*sec, "call get@0", "call get@1"),
}

var (
	rotating = broker.Facts{
		Name: "rotating", Digest: "1", Refreshes: true, Requests: 1, Margin: margin,
		Inputs: map[string]broker.InputFacts{"refresh_token": {Secret: true, Seed: true}, "client_secret": {Secret: true, Optional: true}},
	}
	plain = broker.Facts{
		Name: "plain", Digest: "1", Obtains: true, ObtainsAlone: true, Requests: 1, Margin: margin,
		Inputs: map[string]broker.InputFacts{"client_secret": {Secret: true, Optional: true}},
	}
	// owned: an obtain brings a refresh token, which is then used.
	owned = broker.Facts{
		Name: "owned", Digest: "1", Obtains: true, Refreshes: true, Requests: 1, Margin: margin,
		Inputs: map[string]broker.InputFacts{"client_secret": {Secret: true, Optional: true}},
	}
)

var scenarios = byName(
	&scenario{name: "rotating", brokers: 2, facts: rotating, script: calm},
	&scenario{name: "plain", brokers: 2, facts: plain, script: calm},
	&scenario{name: "owned", brokers: 2, facts: owned, script: calm},
	// Nobody hears of what others do.
	&scenario{name: "deaf", brokers: 2, facts: plain, deaf: true, script: []event{
		at(0, "call get@0", "call get@1"), at(9*sec, "call get@1"), at(15*sec, "call invalidate@0"), at(21*sec, "call get@0", "call get@1"),
	}},
	// Watches, and nobody who asks.
	&scenario{name: "watch", brokers: 2, facts: rotating, script: []event{
		at(0, "call watch@0", "call watch@1"), at(31 * sec), at(50*sec, "call get@1"),
	}},
	// The store is away for a while, and nobody loses a token over it.
	&scenario{name: "outage", brokers: 2, facts: rotating, not: []string{"away", "cut", "readonly"}, script: []event{
		at(0, "call get@0", "call get@1"), at(5*sec, "away 30s"), at(7*sec, "call get@0", "call get@1"), at(10*sec, "call get@0", "call get@1"),
		at(14*sec, "call get@0", "call get@1"), at(40*sec, "call get@0", "call get@1"), at(43*sec, "call get@0", "call get@1"),
	}},
	// The store can be read, and takes nothing.
	&scenario{name: "readonly", brokers: 2, facts: plain, not: []string{"away", "cut", "readonly"}, script: []event{
		at(0, "readonly 10s"), at(1*sec, "call get@0"), at(4*sec, "call get@0"),
		at(12*sec, "call get@0", "call get@1"), at(15*sec, "call get@0", "call get@1"),
	}},
	// A machine sleeps, and its broker hears nothing of what others do meanwhile.
	&scenario{name: "sleeper", brokers: 2, facts: plain, deaf: true, script: []event{
		at(0, "call get@0", "call get@1"), at(5*sec, "call get@0"), at(6*sec, "asleep 15s"), at(10*sec, "call invalidate@1"),
		at(21*sec, "call get@0"), at(21250*msec, "call get@0"), at(21500*msec, "call get@0"),
	}},
	&scenario{name: "three", brokers: 3, facts: rotating, script: []event{
		at(0, "call get@0", "call get@1", "call get@2"), at(29250*msec, "call get@1", "call get@2"), at(29750*msec, "call get@0"),
		at(62*sec, "call get@2", "call get@0"), at(64*sec, "call get@1"),
	}},
)

func byName(all ...*scenario) map[string]*scenario {
	out := map[string]*scenario{}
	for _, s := range all {
		out[s.name] = s
	}
	return out
}
