package server

import (
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// A from is a connection of a machine.
type from struct {
	net.Conn
	host string
}

func (f from) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.ParseIP(f.host), Port: 1} }
func (f from) Close() error         { return nil }

// TestOneMachineDisplacesItself: whoever floods the room from another machine keeps its places from nobody else, and nobody waits for it.
func TestOneMachineDisplacesItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most = 8
		r := newHTTPRoom(nil, most)
		comes := func(host string) (*httpConnection, time.Duration) {
			c := from{host: host}
			k := &httpConnection{Conn: c, room: r, host: otherHost(c.RemoteAddr())}
			return k, r.enter(k)
		}
		for i := range 1000 {
			if _, wait := comes("192.0.2.66"); wait > 0 {
				t.Fatalf("the one who floods is waited for, %v, at connection %d", wait, i)
			}
		}
		var probes []*httpConnection
		for range 3 {
			k, wait := comes("192.0.2.1")
			if wait > 0 {
				t.Fatalf("another waits %v", wait)
			}
			probes = append(probes, k)
		}
		for range 1000 {
			comes("192.0.2.66")
		}
		for i, k := range probes {
			if k.in == nil {
				t.Errorf("probe %d was displaced by the one who floods", i)
			}
		}
		if n := r.waiting.Len() + r.answered.Len(); n != most {
			t.Errorf("%d are in, of %d", n, most)
		}
		for range most { // of this machine nobody is told from another
			comes("127.0.0.1")
		}
		if _, wait := comes("127.0.0.1"); wait <= 0 || wait > httpAsking {
			t.Errorf("on this machine one displaces another after %v, want it to have its time", wait)
		}
	})
}
