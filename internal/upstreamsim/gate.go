package upstreamsim

import (
	"context"
	"errors"
	"slices"
)

// ErrClosed is returned by [Gate.WaitArrived] when the Sim was closed meanwhile.
var ErrClosed = errors.New("simulated upstream is closed")

// Gate holds requests until it is opened, so that a test can put several of them in the same moment without sleeping. Its
// methods are safe for concurrent use.
type Gate struct {
	sim       *Sim
	system    System
	endpoints []Endpoint
	after     bool
	released  chan struct{}

	arrived int           // guarded by sim.mu
	changed chan struct{} // closed and replaced when arrived grows
}

// Hold keeps the requests to a system (empty: to any) waiting before they take effect. They are counted as arrived and in
// flight. A client that leaves while it waits has changed nothing. Without endpoints, all but the API endpoint are held.
// Several gates may hold the same request.
func (s *Sim) Hold(system System, endpoints ...Endpoint) *Gate {
	return s.addGate(system, endpoints, false)
}

// HoldAnswers is [Sim.Hold] after the requests took effect: their answers wait, and are lost if the client leaves.
func (s *Sim) HoldAnswers(system System, endpoints ...Endpoint) *Gate {
	return s.addGate(system, endpoints, true)
}

func (s *Sim) addGate(system System, endpoints []Endpoint, after bool) *Gate {
	g := &Gate{
		sim: s, system: system, endpoints: slices.Clone(endpoints), after: after,
		released: make(chan struct{}), changed: make(chan struct{}),
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gates = append(s.gates, g)
	return g
}

// Release lets everything pass, from now on too. It may be called more than once.
func (g *Gate) Release() {
	g.sim.mu.Lock()
	defer g.sim.mu.Unlock()
	if i := slices.Index(g.sim.gates, g); i >= 0 {
		g.sim.gates = slices.Delete(g.sim.gates, i, i+1)
		close(g.released)
	}
}

// Arrived is how many requests have come to the gate, whether or not they still wait.
func (g *Gate) Arrived() int {
	g.sim.mu.Lock()
	defer g.sim.mu.Unlock()
	return g.arrived
}

// WaitArrived returns when at least n requests have come to the gate. It fails with the error of ctx when that ends first,
// and with [ErrClosed] when the Sim is closed.
func (g *Gate) WaitArrived(ctx context.Context, n int) error {
	for {
		g.sim.mu.Lock()
		enough, changed := g.arrived >= n, g.changed
		g.sim.mu.Unlock()
		if enough {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-g.sim.closed:
			return ErrClosed
		}
	}
}

func (g *Gate) holds(x *exchange) bool {
	if g.system != "" && g.system != x.system {
		return false
	}
	if len(g.endpoints) == 0 {
		return x.endpoint != EndpointAPI
	}
	return slices.Contains(g.endpoints, x.endpoint)
}

// waitGates waits at every gate that holds the request, before or after it took effect. A decided answer is lost if the client
// leaves meanwhile.
func (x *exchange) waitGates(after bool, decided answer) {
	s := x.sim
	s.mu.Lock()
	var gates []*Gate
	for _, g := range s.gates {
		if g.after == after && g.holds(x) {
			g.arrived++
			close(g.changed)
			g.changed = make(chan struct{})
			gates = append(gates, g)
		}
	}
	s.mu.Unlock()
	for _, g := range gates {
		x.wait(g.released, decided)
	}
}
