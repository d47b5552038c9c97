package explore

import (
	"fmt"
	"strings"
	"time"
)

// A Deviation is what happens at one step instead of its going on at once.
type Deviation struct {
	// Step names it by broker, kind and number among its kind: "0 commit#2".
	Step string
	// Do is what happens there; see choices.go.
	Do Action
}

// String is the form that Parse reads.
func (d Deviation) String() string { return d.Step + " = " + string(d.Do) }

// An Action is what happens at a step: a word, and what belongs to it, such as "hold 3s".
type Action string

// Verb is its word; with what a caller does, where it is a call: "hold", "call reject".
func (a Action) Verb() string {
	verb, rest, _ := strings.Cut(string(a), " ")
	if verb == "call" {
		op, _, _ := strings.Cut(rest, "@")
		return verb + " " + op
	}
	return verb
}

// number is the first number that belongs to it; span the first duration.
func (a Action) number() (n int) {
	for _, f := range strings.Fields(string(a))[1:] {
		if _, err := fmt.Sscanf(f+" ", "%d ", &n); err == nil {
			return n
		}
	}
	return 0
}

func (a Action) span() time.Duration {
	for _, f := range strings.Fields(string(a))[1:] {
		if d, err := time.ParseDuration(f); err == nil && strings.ContainsAny(f, "smh") {
			return d
		}
	}
	return 0
}

// A Schedule is a scenario, and where it deviates from what the scheduler does by itself.
type Schedule struct {
	Scenario   string
	Deviations []Deviation
}

// String is the form that Parse reads: "rotating: 0 commit#2 = failover 1 1s; 1 view#3 = hold 3s".
func (s Schedule) String() string {
	var parts []string
	for _, d := range s.Deviations {
		parts = append(parts, d.String())
	}
	return s.Scenario + ": " + strings.Join(parts, "; ")
}

// Parse is the inverse of String.
func Parse(text string) (Schedule, error) {
	name, rest, ok := strings.Cut(strings.TrimSpace(text), ":")
	s := Schedule{Scenario: strings.TrimSpace(name)}
	if _, known := scenarios[s.Scenario]; !ok || !known {
		return s, fmt.Errorf("%q: no such scenario", text)
	}
	for part := range strings.SplitSeq(rest, ";") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		step, do, ok := strings.Cut(part, " = ")
		if !ok || !strings.Contains(step, "#") || do == "" {
			return s, fmt.Errorf("%q: want a step and what happens there, as in 0 commit#2 = hold 3s", part)
		}
		s.Deviations = append(s.Deviations, Deviation{step, Action(do)})
	}
	return s, nil
}

// without is the schedule without its i-th deviation.
func (s Schedule) without(i int) Schedule {
	out := Schedule{Scenario: s.Scenario}
	out.Deviations = append(append(out.Deviations, s.Deviations[:i]...), s.Deviations[i+1:]...)
	return out
}

// with is the schedule with one more.
func (s Schedule) with(d Deviation) Schedule {
	out := Schedule{Scenario: s.Scenario}
	out.Deviations = append(append(out.Deviations, s.Deviations...), d)
	return out
}

// pick says what happens at a step; empty: it goes on.
type pick func(step string, choices []Action) Action

// fixed is the schedule's own.
func (s Schedule) fixed() pick {
	do := map[string]Action{}
	for _, d := range s.Deviations {
		do[d.Step] = d.Do
	}
	return func(step string, _ []Action) Action { return do[step] }
}
