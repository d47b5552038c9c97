package redistest

import (
	"errors"
	"fmt"
	"strconv"
	"testing"
)

// A Sentinel is a master and two replicas, watched by three sentinels of which two must agree. A master that does not answer
// is held to be down after a second; another takes its place some seconds later.
type Sentinel struct {
	t         testing.TB
	servers   []*Server
	sentinels []*Server
}

const masterName = "redistest"

// StartSentinel starts all of them, and waits until replicas follow the master and each sentinel knows everybody.
func StartSentinel(t testing.TB) *Sentinel {
	t.Helper()
	s := &Sentinel{t: t}
	master := Start(t, Options{})
	s.servers = []*Server{master}
	for range 2 {
		r := newServer(t, Options{})
		// In the file and not an argument: the sentinels change it there.
		r.lines = append(r.lines, fmt.Sprintf("replicaof 127.0.0.1 %d", master.port))
		r.start()
		s.servers = append(s.servers, r)
	}
	await(t, "replicas", func() error { return replicated(master, len(s.servers)-1) })
	for range 3 {
		s.sentinels = append(s.sentinels, startSentinel(t, master))
	}
	for _, x := range s.sentinels {
		await(t, "sentinels", func() error { return s.complete(x) })
	}
	return s
}

func startSentinel(t testing.TB, master *Server) *Server {
	t.Helper()
	x := newServer(t, Options{})
	x.sentinel = true
	x.lines = []string{
		"bind 127.0.0.1",
		"protected-mode yes",
		"dir " + strconv.Quote(x.Dir()),
		`logfile ""`,
		"user " + admin + " on >" + x.password + " ~* &* +@all",
		"sentinel announce-ip 127.0.0.1",
		fmt.Sprintf("sentinel monitor %s 127.0.0.1 %d 2", masterName, master.port),
		"sentinel down-after-milliseconds " + masterName + " 1000",
		"sentinel failover-timeout " + masterName + " 5000",
		"sentinel parallel-syncs " + masterName + " 2",
	}
	x.start()
	return x
}

// complete is nil if a sentinel knows everybody and would fail over.
func (s *Sentinel) complete(x *Server) error {
	if _, err := x.Do("SENTINEL", "CKQUORUM", masterName); err != nil {
		return err
	}
	reply, err := x.Do("SENTINEL", "MASTER", masterName)
	if err != nil {
		return err
	}
	m := pairs(reply)
	if m["flags"] != "master" || m["num-other-sentinels"] != strconv.Itoa(len(s.sentinels)-1) {
		return fmt.Errorf("flags %s, %s other sentinels", m["flags"], m["num-other-sentinels"])
	}
	return s.knowsReplicas(x)
}

func (s *Sentinel) knowsReplicas(x *Server) error {
	reply, err := x.Do("SENTINEL", "REPLICAS", masterName)
	if err != nil {
		return err
	}
	all, _ := reply.([]any)
	if len(all) != len(s.servers)-1 {
		return fmt.Errorf("%d replicas", len(all))
	}
	for _, r := range all {
		if m := pairs(r); m["flags"] != "slave" || m["master-link-status"] != "ok" {
			return fmt.Errorf("replica %s: flags %s, link %s", m["name"], m["flags"], m["master-link-status"])
		}
	}
	return nil
}

// MasterName is what clients ask the sentinels for.
func (s *Sentinel) MasterName() string { return masterName }

// SentinelAddrs are the sentinels' hosts and ports.
func (s *Sentinel) SentinelAddrs() []string { return addrs(s.sentinels) }

// Sentinels are the sentinels' own processes.
func (s *Sentinel) Sentinels() []*Server { return append([]*Server(nil), s.sentinels...) }

// Servers are the master and the replicas, whatever each is now.
func (s *Sentinel) Servers() []*Server { return append([]*Server(nil), s.servers...) }

// Master is the master of which most sentinels say that it is; while they fail over, it waits until they agree.
func (s *Sentinel) Master() *Server {
	s.t.Helper()
	var master *Server
	await(s.t, "most sentinels to agree on a master", func() error {
		votes := map[string]int{}
		for _, x := range s.sentinels {
			votes[masterBy(x)]++
		}
		for _, x := range s.servers {
			if votes[x.Addr()] > len(s.sentinels)/2 {
				master = x
				return nil
			}
		}
		return fmt.Errorf("they say %v", votes)
	})
	return master
}

// masterBy is the master's address by one sentinel; empty if it does not answer.
func masterBy(x *Server) string {
	if !x.answers() {
		return ""
	}
	reply, err := x.Do("SENTINEL", "GET-MASTER-ADDR-BY-NAME", masterName)
	if pair, ok := reply.([]any); err == nil && ok && len(pair) == 2 {
		return fmt.Sprintf("%s:%s", pair...)
	}
	return ""
}

// Replicas are the servers other than the master, dead ones too.
func (s *Sentinel) Replicas() []*Server {
	s.t.Helper()
	master := s.Master()
	var all []*Server
	for _, x := range s.servers {
		if x != master {
			all = append(all, x)
		}
	}
	return all
}

// KillMaster kills the master and returns it.
func (s *Sentinel) KillMaster() *Server {
	s.t.Helper()
	master := s.Master()
	master.Kill()
	return master
}

// AwaitFailover waits until most sentinels and the server itself say that another than old is the master, and returns it.
func (s *Sentinel) AwaitFailover(old *Server) *Server {
	s.t.Helper()
	var master *Server
	await(s.t, "a failover", func() error {
		if master = s.Master(); master == old {
			return errors.New("the master is who it was")
		}
		return replicated(master, 0)
	})
	return master
}
