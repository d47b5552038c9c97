package explore

import (
	"hash/fnv"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/store/seal"
)

// Replay runs one schedule.
func Replay(t *testing.T, keys *seal.Keyring, s Schedule) Run {
	t.Helper()
	return run(t, scenarios[s.Scenario], keys, s.fixed())
}

// mostDeviations bounds what a random schedule has; commonly it has one to four.
const mostDeviations = 6

// Random runs a schedule that a seed decides. Whether something happens at a step, and what, is a hash of the seed and the step's
// name, so that it is the same whenever the step comes.
func Random(t *testing.T, keys *seal.Keyring, seed uint64) Run {
	t.Helper()
	names := Scenarios()
	s := scenarios[names[seed%uint64(len(names))]]
	some := strconv.FormatUint(seed, 10)
	wanted, happened := 1+hash(some, "wanted")%4, 0
	return run(t, s, keys, func(step string, choices []Action) Action {
		const commonly = 60 // steps of a schedule
		if happened >= mostDeviations || hash(some, step)%commonly >= wanted {
			return ""
		}
		happened++
		return choices[hash(some, step, "which")%uint64(len(choices))]
	})
}

func hash(parts ...string) uint64 {
	h := fnv.New64a()
	for _, p := range parts {
		_, _ = h.Write([]byte(p))
		_, _ = h.Write([]byte{0})
	}
	n := h.Sum64()
	n ^= n >> 33
	n *= 0xff51afd7ed558ccd
	n ^= n >> 33
	return n
}

// Scenarios are the names of all.
func Scenarios() []string {
	var names []string
	for n := range scenarios {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// Next are the schedules that have one deviation more than one that was run, later than all it has.
func (r Run) Next() []Schedule {
	from := 0
	for _, d := range r.Schedule.Deviations {
		from = max(from, 1+slices.IndexFunc(r.seen, func(s seen) bool { return s.step == d.Step }))
	}
	var next []Schedule
	for _, s := range r.seen[min(from, len(r.seen)):] {
		for _, a := range s.choices {
			next = append(next, r.Schedule.with(Deviation{s.step, a}))
		}
	}
	return next
}

// Shrink drops the deviations without which the same promise is broken for the same reason, until none can be dropped.
func Shrink(t *testing.T, keys *seal.Keyring, r Run) Run {
	t.Helper()
	first := r.Violations[0]
	for i := 0; i < len(r.Schedule.Deviations); {
		less := Replay(t, keys, r.Schedule.without(i))
		if len(less.Violations) > 0 && less.Violations[0].Promise == first.Promise && less.Violations[0].Because == first.Because {
			less.Schedule.Deviations = slices.Clone(less.Schedule.Deviations)
			r, i = less, 0
			continue
		}
		i++
	}
	return r
}

// Signature is what tells violations apart: the promise, and why it could not be kept, or the kinds of what has to happen for it to be broken.
func (r Run) Signature() string {
	if v := r.Violations[0]; v.Because != "" {
		return v.Promise + ": " + v.Because
	}
	var verbs []string
	for _, d := range r.Schedule.Deviations {
		verbs = append(verbs, d.Do.Verb())
	}
	slices.Sort(verbs)
	return r.Violations[0].Promise + " [" + strings.Join(slices.Compact(verbs), ", ") + "]"
}
