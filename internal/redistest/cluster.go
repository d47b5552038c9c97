package redistest

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// A Cluster is three masters, which share the slots evenly, and a replica of each. A node that does not answer for 1.5 s is
// held to be down; its replica takes its place some seconds later.
type Cluster struct {
	t     testing.TB
	nodes []*Server
	ids   map[*Server]string
}

const (
	masters = 3
	slots   = 16384
)

// StartCluster starts all of them, and waits until every node says that the cluster is complete and replicas follow.
func StartCluster(t testing.TB) *Cluster {
	t.Helper()
	c := &Cluster{t: t, ids: map[*Server]string{}}
	for i := range 2 * masters {
		s := newServer(t, Options{})
		s.cluster = true
		s.lines = append(s.lines,
			"cluster-enabled yes",
			"cluster-config-file nodes.conf",
			"cluster-node-timeout 1500",
			"cluster-announce-ip 127.0.0.1",
		)
		s.start()
		c.nodes = append(c.nodes, s)
		c.ids[s] = fmt.Sprint(s.must("CLUSTER", "MYID"))
		// Each its own, as redis-cli does: nodes that begin with the same one have to sort it out between them.
		s.must("CLUSTER", "SET-CONFIG-EPOCH", strconv.Itoa(i+1))
	}
	c.join()
	for _, s := range c.nodes {
		await(t, "the cluster", func() error { return c.complete(s) })
	}
	return c
}

// join gives slots to the first nodes, makes all known to each other, and the others replicas of the first.
func (c *Cluster) join() {
	c.t.Helper()
	for i, s := range c.nodes[:masters] {
		first, next := i*slots/masters, (i+1)*slots/masters
		s.must("CLUSTER", "ADDSLOTSRANGE", strconv.Itoa(first), strconv.Itoa(next-1))
	}
	for _, s := range c.nodes[1:] {
		c.nodes[0].must("CLUSTER", "MEET", "127.0.0.1", strconv.Itoa(s.port), strconv.Itoa(s.bus))
	}
	for _, s := range c.nodes {
		await(c.t, "the nodes to meet", func() error {
			if known := len(view(s)); known != len(c.nodes) {
				return fmt.Errorf("%d known", known)
			}
			return nil
		})
	}
	for i, s := range c.nodes[masters:] {
		await(c.t, "a replica", func() error {
			_, err := s.Do("CLUSTER", "REPLICATE", c.ids[c.nodes[i]])
			return err
		})
	}
}

// complete is nil if a node sees the whole cluster in order, and follows its master if it has one.
func (c *Cluster) complete(s *Server) error {
	state, err := s.Do("CLUSTER", "INFO")
	if err != nil {
		return err
	}
	if m := fields(state); m["cluster_state"] != "ok" || m["cluster_slots_ok"] != strconv.Itoa(slots) {
		return fmt.Errorf("state %s, %s slots are served", m["cluster_state"], m["cluster_slots_ok"])
	}
	replicas := 0
	for _, n := range view(s) {
		if n.is("fail") || n.is("fail?") || n.is("handshake") || n.is("noaddr") || !n.linked && !n.is("myself") {
			return errors.New("a node is " + n.flags)
		}
		if n.is("slave") {
			replicas++
		}
	}
	if replicas != masters {
		return fmt.Errorf("%d replicas", replicas)
	}
	return following(s)
}

// A node is a line of CLUSTER NODES.
type node struct {
	id, flags, master string
	epoch             int
	linked            bool
	slots             [][2]int
}

func (n node) is(flag string) bool { return slices.Contains(strings.Split(n.flags, ","), flag) }

func (n node) has(slot int) bool {
	return slices.ContainsFunc(n.slots, func(r [2]int) bool { return r[0] <= slot && slot <= r[1] })
}

// view is the cluster as a node sees it; empty if it does not answer.
func view(s *Server) []node {
	if !s.answers() {
		return nil
	}
	reply, err := s.Do("CLUSTER", "NODES")
	if err != nil {
		return nil
	}
	var all []node
	for line := range strings.Lines(fmt.Sprint(reply)) {
		if f := strings.Fields(line); len(f) >= 8 {
			all = append(all, parseNode(f))
		}
	}
	return all
}

// parseNode reads id, address, flags, master, two times, epoch, link, and slots.
func parseNode(f []string) node {
	n := node{id: f[0], flags: f[2], master: f[3], linked: f[7] == "connected"}
	n.epoch, _ = strconv.Atoi(f[6])
	for _, r := range f[8:] {
		from, to, ranged := strings.Cut(r, "-")
		first, err := strconv.Atoi(from)
		if err != nil { // a slot that moves
			continue
		}
		last := first
		if ranged {
			last, _ = strconv.Atoi(to)
		}
		n.slots = append(n.slots, [2]int{first, last})
	}
	return n
}

// Addrs are the nodes' hosts and ports.
func (c *Cluster) Addrs() []string { return addrs(c.nodes) }

// Nodes are all nodes: at first the masters, and then the replica of each in the same order.
func (c *Cluster) Nodes() []*Server { return slices.Clone(c.nodes) }

// MasterFor is the node that the key's slot belongs to, by the newest claim that a node which answers knows of. Until a dead
// master's replica has taken its place it is the dead one.
func (c *Cluster) MasterFor(key string) *Server {
	c.t.Helper()
	slot, err := c.slot(key)
	if err != nil {
		c.t.Fatal(err)
	}
	var owner node
	for _, s := range c.nodes {
		for _, n := range view(s) {
			if n.has(slot) && n.is("master") && n.epoch >= owner.epoch {
				owner = n
			}
		}
	}
	return c.byID(owner.id)
}

func (c *Cluster) slot(key string) (int, error) {
	err := errors.New("redistest: no node of the cluster answers")
	for _, s := range c.nodes {
		if !s.answers() {
			continue
		}
		var reply any
		reply, err = s.Do("CLUSTER", "KEYSLOT", key)
		if n, ok := reply.(int64); ok {
			return int(n), nil
		}
	}
	return 0, err
}

func (c *Cluster) byID(id string) *Server {
	for s, has := range c.ids {
		if has == id {
			return s
		}
	}
	return nil
}

// ReplicaOf is the node that replicates another, by what it says itself; nil if there is none that answers.
func (c *Cluster) ReplicaOf(master *Server) *Server {
	for _, s := range c.nodes {
		for _, n := range view(s) {
			if n.is("myself") && n.is("slave") && n.master == c.ids[master] {
				return s
			}
		}
	}
	return nil
}

// AwaitFailover waits until every node that answers says that the key belongs to another than old, and that the cluster is
// in order, and returns the new owner.
func (c *Cluster) AwaitFailover(key string, old *Server) *Server {
	c.t.Helper()
	slot, err := c.slot(key)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, s := range c.nodes {
		await(c.t, "a failover", func() error { return c.moved(s, slot, old) })
	}
	return c.MasterFor(key)
}

// moved is nil if s does not answer, or says that a slot is another's than old's.
func (c *Cluster) moved(s *Server, slot int, old *Server) error {
	if !s.answers() {
		return nil
	}
	for _, n := range view(s) {
		if n.id == c.ids[old] && n.has(slot) {
			return errors.New("the key's master is who it was")
		}
	}
	state, err := s.Do("CLUSTER", "INFO")
	if err == nil && fields(state)["cluster_state"] != "ok" {
		err = errors.New("the cluster is not in order")
	}
	return err
}
