package redistest

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// fields are the lines name:value of a reply.
func fields(reply any) map[string]string {
	text, _ := reply.(string)
	all := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			all[name] = value
		}
	}
	return all
}

// pairs are the names and values of a reply that alternates them.
func pairs(reply any) map[string]string {
	list, _ := reply.([]any)
	all := map[string]string{}
	for i := 0; i+1 < len(list); i += 2 {
		all[fmt.Sprint(list[i])] = fmt.Sprint(list[i+1])
	}
	return all
}

// fieldOf is a value of a list like "ip=127.0.0.1,port=1,state=online".
func fieldOf(list, name string) string {
	for pair := range strings.SplitSeq(list, ",") {
		if value, ok := strings.CutPrefix(pair, name+"="); ok {
			return value
		}
	}
	return ""
}

// replication is what INFO says of it, by name.
func (s *Server) replication() (map[string]string, error) {
	reply, err := s.Do("INFO", "replication")
	return fields(reply), err
}

// replicated is nil if so many replicas follow the master.
func replicated(master *Server, want int) error {
	info, err := master.replication()
	if err != nil {
		return err
	}
	if info["role"] != "master" {
		return errors.New("not the master: " + info["role"])
	}
	online := 0
	for i := range want {
		if fieldOf(info[fmt.Sprintf("slave%d", i)], "state") == "online" {
			online++
		}
	}
	if online != want {
		return fmt.Errorf("%d replicas, want %d", online, want)
	}
	return nil
}

// AwaitReplicated waits until a replica says that it has what the server has now. WAIT would not do: since Redis 7.2 it is about what its own connection has
// written.
func (s *Server) AwaitReplicated() {
	s.t.Helper()
	now := int64(-1)
	await(s.t, "a replica", func() error {
		info, err := s.replication()
		if err != nil {
			return err
		}
		if now < 0 {
			if now, err = strconv.ParseInt(info["master_repl_offset"], 10, 64); err != nil {
				return err
			}
		}
		has, err := strconv.ParseInt(fieldOf(info["slave0"], "offset"), 10, 64)
		if err == nil && has < now {
			err = fmt.Errorf("it has %d of %d", has, now)
		}
		return err
	})
}

// following is nil if a replica is linked to its master, and a master to its replica.
func following(s *Server) error {
	info, err := s.replication()
	if err != nil {
		return err
	}
	if info["role"] == "master" {
		return replicated(s, 1)
	}
	if info["master_link_status"] != "up" {
		return errors.New("the replica's link is " + info["master_link_status"])
	}
	return nil
}

func addrs(servers []*Server) []string {
	var all []string
	for _, x := range servers {
		all = append(all, x.Addr())
	}
	return all
}
