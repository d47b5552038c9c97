package explore

import "testing"

// regressions are schedules that broke a promise once. A new one comes from what a search prints.
var regressions = []struct {
	schedule string
	// breaks is why it breaks a promise today; empty: it is mended.
	breaks string
}{
	{"watch: 0 send#1 = busy", ""},
	{"watch: 1 read#1 = cut 3s", ""},
	{"watch: 0 read#1 = call delete@1", ""},
	{"outage: 0 commit#2 = failover 1 70s", ""},
	{"watch: 0 check#4 = fail; 0 view#2 = call recreate@1; 0 view#4 = call drop@1; 1 read#10 = call term@0; 0 view#6 = stop 20s", ""},
	{"rotating: 0 commit#2 = failover 2 1s; 0 view#6 = after 4", ""},
	{"rotating: 1 acquire#1 = lapse 1s", ""},
	{"rotating: 0 acquire#2 = failover 1 0s; 0 check#5 = stop 3s", markerUndone},
	{"outage: 0 acquire#2 = failover 1 0s", markerUndone},
	{"rotating: 0 answer#1 = hold 9s", ""},
	{"rotating: 1 answer#1 = half", ""},
	{"rotating: 0 answer#1 = call stale@1; 1 view#3 = stop 20s; 1 send#1 = down 40s", ""},
	{"readonly: 1 check#2 = stop 3s; 1 view#2 = stop 20s; 1 send#2 = refuse", ""},
	{"readonly: 1 check#2 = stop 3s; 1 view#2 = stop 3s; 1 view#3 = stop 20s; 1 send#2 = refuse", ""},
	{"rotating: 0 answer#1 = call stale@1; 1 view#3 = stop 3s; 1 view#4 = stop 20s; 1 send#1 = down 40s", ""},
	{"deaf: 0 read#3 = call delete@1; 1 read#2 = call term@0; 0 commit#2 = stop 20s", ""},
	{"watch: 0 answer#1 = half; 0 commit#1 = lose", ""},
	{"outage: 1 read#2 = call stale@0", ""},
	{"outage: 0 read#2 = call drop@1; 1 view#1 = hold 3s", ""},
	{"deaf: 0 drop#1 = lapse 1s", ""},
	{"readonly: 1 view#2 = call invalidate@0", ""},
	{"deaf: 1 view#3 = fail", ""},
	{"deaf: 1 view#3 = call delete@0; 1 view#4 = fail", ""},
	{"plain: 1 answer#1 = stop 9s", ""},
	{"plain: 0 view#2 = call invalidate@1; 0 answer#2 = readonly 6s; 1 view#5 = call invalidate@0", ""},
	{"plain: 0 commit#2 = late 3s", ""},
	{"deaf: 0 commit#1 = fail", ""},

	{"sleeper: 1 drop#1 = failover 1 0s; 1 check#5 = hold 3s", ""},
	{"rotating: 1 view#1 = call invalidate@0; 0 drop#1 = failover 2 1s", ""},
	{"watch: 1 view#2 = call test@0; 1 acquire#1 = lapse 1s", ""},
	{"deaf: 0 send#1 = call drop@1; 0 commit#1 = stop 20s", ""},
	{"rotating: 1 acquire#1 = lapse 1s; 0 view#4 = call drop@1", ""},
	{"sleeper: 1 read#1 = call drop@0; 1 list#1 = ahead 10m", ""},
	{"deaf: 0 commit#1 = away 3s; 0 list#1 = ahead 10m", ""},
	{"owned: 0 acquire#1 = stop 3s; 0 view#3 = call invalidate@0; 0 list#1 = stop 20s", ""},
	{"rotating: 1 view#4 = ahead 10m; 0 read#2 = cut 3s", ""},
	{"three: 2 view#2 = call reject@0; 0 list#5 = ahead 10m", ""},
	{"three: 2 view#2 = call reject@0; 0 acquire#2 = ahead 10m", ""},
	{"sleeper: 1 acquire#1 = fail; 0 acquire#2 = call watch@1; 0 send#2 = down 40s", ""},
	{"owned: 0 acquire#2 = failover 1 70s; 0 view#4 = away 3s; 0 acquire#3 = failover 2 1s", ""},
	{"rotating: 1 view#1 = call recreate@0; 1 answer#1 = readonly 6s; 1 commit#7 = stop 20s; 0 send#2 = refuse", ""},
	{"rotating: 0 answer#1 = away 70s; 0 commit#1 = failover 2 1s; 0 settle#2 = asleep 40s", ""},
	{"owned: 0 acquire#2 = failover 1 0s; 0 check#6 = stop 3s", markerUndone},
	{"outage: 0 acquire#2 = crash done; 1 view#8 = asleep 40s; 0 view#5 = call delete@1; 1 delete#1 = lapse 1s; 1 view#12 = after 1", ""},
	{"deaf: 0 acquire#1 = fail; 0 view#2 = call delete@1; 0 answer#1 = hold 3s", ""},
	{"owned: 1 view#4 = call drop@0; 0 acquire#4 = failover 2 1s", ""},
	{"owned: 0 view#4 = call reject@1; 0 commit#3 = lapse 1s; 1 view#5 = call drop@0; 0 view#6 = call drop@1", ""},
	{"outage: 0 read#1 = call rotate@1; 0 acquire#2 = failover 1 70s; 0 commit#5 = failover 2 1s", ""},
	{"three: 0 commit#1 = failover 1 1s; 0 view#2 = ahead 10m; 0 acquire#2 = failover 2 1s", ""},
	{"deaf: 0 drop#1 = failover 1 0s; 0 check#6 = stop 3s", keeperAway},
	{"watch: 1 commit#1 = lapse 1s; 0 read#2 = call invalidate@0", commitUndone},
	{"rotating: 1 view#2 = call invalidate@0; 0 acquire#2 = lapse 1s; 1 view#4 = call reject@0; 1 view#6 = call drop@0", chainUndone},
	{"rotating: 0 commit#1 = lapse 1s; 1 view#1 = call recreate@0; 1 view#3 = call drop@0", deletionUndone},
	{"outage: 1 view#1 = asleep 40s; 1 acquire#1 = failover 2 1s; 0 view#6 = call recreate@1; 1 delete#1 = lapse 1s", ""},
	{"watch: 1 view#2 = call test@0; 0 acquire#2 = failover 2 1s; 1 view#3 = stop 20s", ""},
	{"outage: 0 view#1 = call test@1; 1 acquire#1 = failover 2 1s; 1 send#1 = call term@0; 1 view#12 = stop 3s", ""},
	{"three: 2 view#3 = call seed@0; 0 settle#1 = failover 2 1s; 2 view#6 = stop 20s", ""},
	{"plain: 1 view#3 = asleep 40s; 1 commit#1 = readonly 6s; 1 view#4 = call invalidate@1", ""},
	{"rotating: 1 view#3 = call seed@0; 1 acquire#1 = after 1; 0 acquire#2 = lapse 1s", ""},
	{"outage: 0 read#1 = call test@1; 1 read#2 = call seed@0; 0 write#1 = lapse 1s", ""},
	{"watch: 1 commit#1 = failover 2 1s; 0 send#2 = hold 3s", markerUndone},
	// A broker that was stopped served, as degraded, what it had read to be invalidated.
	{"watch: 1 view#1 = call invalidate@1; 1 read#3 = asleep 40s; 0 acquire#2 = stop 20s; 0 settle#1 = stop 3s", ""},
	// A test presented what a flight of its own process was presenting, because a failover had undone the lease. Now it is another broker that does.
	{"owned: 1 view#3 = call test@0; 0 acquire#2 = failover 1 0s", markerUndone},
	// A test that read that a token was replaced dropped it, and kept no other.
	{"three: 2 view#1 = stop 20s; 2 acquire#1 = call test@0; 2 commit#1 = readonly 6s; 2 read#2 = away 3s", ""},
	// A token was stored, and served, for longer than it lives, because the clock was set back before it was stored, or stored again.
	{"outage: 0 answer#1 = stop 20s; 0 commit#1 = ahead -20s", ""},
	{"three: 0 acquire#2 = failover 1 70s; 0 commit#14 = ahead -10m", ""},
	{"watch: 0 answer#1 = away 70s; 0 commit#4 = ahead -10m", ""},

	// What looked like a broken promise, and was none.
	{"rotating: 1 answer#1 = stop 9s; 1 view#5 = stop 20s", ""},
	{"watch: 0 view#2 = cut 20s; 1 send#1 = stop 3s", ""},
	{"owned: 0 count#1 = call recreate@1; 1 delete#2 = failover 1 1s", ""},
	{"three: 2 view#1 = stop 3s; 2 read#2 = fail", ""},
	{"three: 0 send#2 = hold 3s; 0 view#5 = cut 20s", ""},
	{"three: 0 view#5 = hold 3s; 0 commit#2 = stop 20s", ""},
	{"deaf: 0 check#5 = stop 3s; 0 view#2 = call invalidate@0; 1 view#4 = call delete@0; 1 read#4 = cut 3s", ""},
	{"outage: 0 view#1 = call recreate@1; 1 delete#1 = late 3s", ""},
	{"rotating: 0 read#2 = call drop@1; 0 read#3 = stop 3s; 1 commit#2 = hold 3s; 1 view#7 = stop 20s", ""},
	{"outage: 0 read#1 = hold 3s; 1 acquire#1 = call drop@0", ""},
	{"outage: 0 read#1 = hold 3s; 1 read#1 = call rotate@0", ""},
	{"outage: 0 read#1 = hold 3s; 1 answer#1 = call seed@0", ""},
	{"outage: 0 read#1 = hold 3s; 1 commit#1 = call recreate@0", ""},
	{"deaf: 0 send#1 = busy; 1 check#4 = stop 3s; 1 check#5 = hold 3s", ""},
}

// TestRegressions: what is mended stays so, and what excuses a broken promise is still needed: else it is to go.
func TestRegressions(t *testing.T) {
	c := newCampaign(t)
	shown := map[string]bool{}
	for _, g := range regressions {
		s, err := Parse(g.schedule)
		if err != nil {
			t.Fatal(err)
		}
		if s.String() != g.schedule {
			t.Errorf("%s: read as %s", g.schedule, s)
		}
		r := Replay(t, c.keys, s)
		switch {
		case len(r.Violations) == 0 && g.breaks != "":
			t.Errorf("%s: mended: no promise is broken because %q: say so here", s, g.breaks)
		case len(r.Violations) > 0:
			// Jitter decides which of two brokers comes first, and so which promise it is.
			if v := r.Violations[0]; v.Because != g.breaks || g.breaks == "" {
				t.Errorf("%s: %v (%s); want %q", s, v, v.Because, g.breaks)
			}
			shown[g.breaks] = true
		}
	}
	for _, because := range []string{markerUndone, chainUndone, keeperAway, commitUndone, deletionUndone} {
		if !shown[because] {
			t.Errorf("%s: no regression schedule shows it: take it out, or add one", because)
		}
	}
}
