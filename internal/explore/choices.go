package explore

import (
	"fmt"
	"slices"
	"strings"
)

// The kinds of steps, beside those of the store in backend.go.
const (
	stepSend   = "send"
	stepAnswer = "answer"
)

// What can happen at a step. Those that end a process or part it from others take place whether or not this step is its own.
//
//	after N          N other steps go first, if there are any
//	hold D           it takes so long, unless its context ends before
//	fail, lose       it is not done, or it is; the broker is told that it failed
//	late D           the broker is told that it failed; it is done so much later
//	crash            the broker is killed, and comes again 2 s later; crash done: the step is done before
//	stop D           the broker's process stands (SIGSTOP), and its callers with it
//	away D, cut D    the store is away for all brokers, or for this one
//	readonly D       the store can be read, and takes nothing
//	failover N D     once this is done and acknowledged, the last N writes of the last two seconds are undone, and the store is
//	                 away for D
//	lapse D          the same a second later, with all that was written since
//	refuse, busy     the upstream cannot be reached, or answers 503
//	half             it gives a refresh token, and answers 503 to the request after that
//	down D           it answers 503 to all for so long
//	deaf D           the broker hears nothing of what others change
//	asleep D         the machine sleeps: as stop, and its monotonic clock stands
//	ahead D          the broker's wall clock is ahead from now on; -D: it was set back
//	call OP@B        somebody asks broker B; see callers.go
var (
	anywhere = []Action{"after 1", "after 4", "hold 3s", "crash", "stop 3s", "stop 20s", "away 3s", "cut 20s"}
	ofReads  = slices.Concat(anywhere, []Action{"fail", "cut 3s", "deaf 5s"})
	ofWrites = slices.Concat(anywhere, []Action{
		"hold 750ms", "fail", "lose", "late 3s", "crash done", "readonly 6s",
		"failover 1 0s", "failover 1 1s", "failover 2 1s", "failover 1 70s", "lapse 1s",
	})
	ofSends   = slices.Concat(anywhere, []Action{"refuse", "busy", "down 8s", "down 40s"})
	ofAnswers = []Action{"half", "hold 750ms", "hold 3s", "hold 9s", "lose", "crash", "stop 3s", "stop 9s", "stop 20s", "away 3s", "away 70s", "cut 20s", "readonly 6s"}
	ofChecks  = []Action{"fail", "hold 3s", "stop 3s"}

	// ofClocks are about the machine's clock.
	ofClocks = []Action{"asleep 40s", "ahead 10m", "ahead -10m", "ahead -20s"}

	// ops are what callers do of which the scenario's own script says nothing, and whether they go to the same broker or another.
	ops = []string{"reject", "stale", "invalidate", "drop", "delete", "recreate", "rotate", "seed", "impatient", "test", "watch", "term"}
)

// choicesAt are all that can happen at a step of this kind, of broker b of n.
func choicesAt(s *scenario, what string, b int) []Action {
	var all []Action
	switch {
	case what == stepSend:
		all = ofSends
	case what == stepAnswer:
		all = ofAnswers
	case what == stepCheck:
		return ofChecks
	case slices.Contains(writes, what):
		all = ofWrites
	default:
		all = ofReads
	}
	all = slices.DeleteFunc(slices.Clone(all), func(a Action) bool {
		return slices.ContainsFunc(s.not, func(verb string) bool { return strings.HasPrefix(string(a), verb) })
	})
	all = append(all, ofClocks...)
	if what == stepList {
		return all // nothing lies between it and the step beside it
	}
	other := (b + 1) % s.brokers
	all = append(all, Action(fmt.Sprintf("call invalidate@%d", b)))
	for _, op := range ops {
		if s.rotates() || op != "seed" {
			all = append(all, Action(fmt.Sprintf("call %s@%d", op, other)))
		}
	}
	return all
}
