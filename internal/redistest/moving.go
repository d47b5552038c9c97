package redistest

import (
	"fmt"
	"net"
	"slices"
	"strconv"
)

// A Moving is a slot that is on its way from one master of a Cluster to another, as `redis-cli --cluster reshard` moves it.
type Moving struct {
	c        *Cluster
	from, to *Server
	slot     string
}

// Move begins to move the slot of a key to another master. It is over with End.
func (c *Cluster) Move(key string) *Moving {
	c.t.Helper()
	slot, err := c.slot(key)
	if err != nil {
		c.t.Fatal(err)
	}
	m := &Moving{c: c, from: c.MasterFor(key), slot: strconv.Itoa(slot)}
	others := slices.DeleteFunc(c.Nodes()[:masters], func(s *Server) bool { return s == m.from })
	m.to = others[0]
	m.do(m.to, "CLUSTER", "SETSLOT", m.slot, "IMPORTING", c.ids[m.from])
	m.do(m.from, "CLUSTER", "SETSLOT", m.slot, "MIGRATING", c.ids[m.to])
	return m
}

func (m *Moving) do(s *Server, args ...string) any {
	m.c.t.Helper()
	reply, err := s.Do(args...)
	if err != nil {
		m.c.t.Fatalf("redistest: %v: %v", args[:2], err)
	}
	return reply
}

// Keys are some that are not moved yet, so many at most.
func (m *Moving) Keys(most int) (keys []string) {
	m.c.t.Helper()
	all, _ := m.do(m.from, "CLUSTER", "GETKEYSINSLOT", m.slot, strconv.Itoa(most)).([]any)
	for _, k := range all {
		keys = append(keys, fmt.Sprint(k))
	}
	return keys
}

// Take moves keys.
func (m *Moving) Take(keys ...string) {
	m.c.t.Helper()
	host, port, err := net.SplitHostPort(m.to.Addr())
	if err != nil {
		m.c.t.Fatal(err)
	}
	m.do(m.from, append([]string{"MIGRATE", host, port, "", "0", "5000", "REPLACE", "KEYS"}, keys...)...)
}

// End gives the slot to who has its keys, and waits until all masters know that, by an epoch that no other claim has: what the one before has said of itself may be on its way still.
func (m *Moving) End() {
	m.c.t.Helper()
	slot, err := strconv.Atoi(m.slot)
	if err != nil {
		m.c.t.Fatal(err)
	}
	all := m.c.nodes[:masters]
	await(m.c.t, "all masters to know who has the slot", func() error {
		for _, s := range append([]*Server{m.to, m.from}, all...) {
			m.do(s, "CLUSTER", "SETSLOT", m.slot, "NODE", m.c.ids[m.to])
		}
		for _, s := range all {
			owner, others := 0, 0
			for _, n := range view(s) {
				switch {
				case n.is("slave"): // has its master's
				case n.id != m.c.ids[m.to]:
					others = max(others, n.epoch)
				case !n.has(slot):
					return fmt.Errorf("%s has another", s.Addr())
				default:
					owner = n.epoch
				}
			}
			if owner <= others {
				m.do(m.to, "CLUSTER", "BUMPEPOCH")
				return fmt.Errorf("by %s its epoch is %d, and another's %d", s.Addr(), owner, others)
			}
		}
		return nil
	})
}
