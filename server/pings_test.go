package server_test

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/tokenbroker/tokenbroker/server"
)

// TestWhoeverPingsTooOftenIsSentAway: the third ping that comes too early ends the connection, as README.md says, with the bounds that it
// says.
func TestWhoeverPingsTooOftenIsSentAway(t *testing.T) {
	s := newStand(t)
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte(http2.ClientPreface)); err != nil {
		t.Fatal(err)
	}
	f := http2.NewFramer(conn, conn)
	if err := f.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	answered := 0
	for i := byte(0); ; i++ {
		if err := f.WritePing(false, [8]byte{i}); err != nil {
			t.Fatal(err)
		}
		for got := false; !got; {
			frame, err := f.ReadFrame()
			if err != nil {
				t.Fatalf("after %d answers: %v", answered, err)
			}
			switch x := frame.(type) {
			case *http2.PingFrame:
				if got = x.IsAck(); got {
					answered++
				}
			case *http2.GoAwayFrame:
				if x.ErrCode != http2.ErrCodeEnhanceYourCalm || string(x.DebugData()) != "too_many_pings" || answered < 3 || answered > 4 {
					t.Errorf("got %v %s after %d answers", x.ErrCode, x.DebugData(), answered)
				}
				return
			default:
			}
		}
	}
}

// TestTheReadmeSaysHowOftenClientsMayPing.
func TestTheReadmeSaysHowOftenClientsMayPing(t *testing.T) {
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		fmt.Sprintf("once in %.0f s", server.PingsNotFaster.Seconds()), fmt.Sprintf("silent for %.0f minutes", server.PingAfter.Minutes()),
		fmt.Sprintf("no answer within %.0f s", server.PingTimeout.Seconds()), fmt.Sprintf("After %.0f minutes (`limits.connection_age`)", server.DefaultConnectionAge.Minutes()),
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("README.md does not say %q", want)
		}
	}
}
