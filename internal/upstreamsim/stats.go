package upstreamsim

import "maps"

// Stats counts the requests of one account or one system. A request is charged to an account if it names one, whether or not
// it is refused. The zero value is that of no requests.
type Stats struct {
	Requests          map[Endpoint]int  `json:"requests"`       // arrived, by endpoint; "" for those to none
	InFlight          int               `json:"in_flight"`      // not yet answered, without the API endpoint
	MaxConcurrent     int               `json:"max_concurrent"` // the most that were in flight at a time
	AccessTokens      int               `json:"access_tokens"`  // issued
	Accepted          int               `json:"accepted"`       // requests to the API endpoint that were answered 200
	Refused           map[Reason]int    `json:"refused"`
	Faults            map[FaultKind]int `json:"faults"` // requests that met an injected fault
	RedirectsFollowed int               `json:"redirects_followed"`
}

// Total is the number of requests that arrived, without the API endpoint.
func (s Stats) Total() int {
	total := 0
	for endpoint, n := range s.Requests {
		if endpoint != EndpointAPI {
			total += n
		}
	}
	return total
}

// Stats returns a snapshot of an account's counters, the zero value for an unknown account. Its maps are the caller's.
func (s *Sim) Stats(id AccountID) Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a := s.byID[id]; a != nil {
		return a.counters.snapshot()
	}
	return Stats{}
}

// SystemStats is [Sim.Stats] for all accounts of a system together, and for requests that named none.
func (s *Sim) SystemStats(system System) Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.counters[system]; c != nil {
		return c.snapshot()
	}
	return Stats{}
}

// counters is guarded by Sim.mu.
type counters struct {
	requests  map[Endpoint]int
	inFlight  int
	max       int
	access    int
	accepted  int
	refused   map[Reason]int
	faults    map[FaultKind]int
	redirects int
}

func newCounters() *counters {
	return &counters{requests: make(map[Endpoint]int), refused: make(map[Reason]int), faults: make(map[FaultKind]int)}
}

func (c *counters) snapshot() Stats {
	return Stats{
		Requests: maps.Clone(c.requests), InFlight: c.inFlight, MaxConcurrent: c.max, AccessTokens: c.access, Accepted: c.accepted,
		Refused: maps.Clone(c.refused), Faults: maps.Clone(c.faults), RedirectsFollowed: c.redirects,
	}
}

// enter counts a request that is now being worked on.
func (c *counters) enter() {
	c.inFlight++
	c.max = max(c.max, c.inFlight)
}
