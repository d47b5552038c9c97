package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
)

// patience is how long anything here may take before it counts as stuck. Nothing waits that long when all is well.
const patience = 60 * time.Second

// own is the name under which scripts find this test's own binary, which is tokenbroker with the race detector.
const own = "tokenbroker-of-this-test"

func TestMain(m *testing.M) {
	testscript.Main(leakChecked{m}, map[string]func(){own: main})
}

// isUnset is the value of a variable that a script has unset, for which testscript has no word, and unsetNames is the one with the names of all of those.
const isUnset, unsetNames = "(unset)", "UNSET_BY_THE_SCRIPT"

// chooses is tokenbroker for scripts: a broker runs with the race detector, and a command as it is shipped, because to begin takes a second with it, and there are more than a
// thousand of them.
const chooses = `#!/bin/sh
for name in $` + unsetNames + `; do eval "[ \"\$$name\" != '` + isUnset + `' ] || unset $name"; done
for a in "$@"; do case $a in serve|demo) exec ` + own + ` "$@" ;; esac; done
exec '%s' "$@"
`

// chooser is a directory with that as tokenbroker.
func chooser(t testing.TB) string {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "tokenbroker"), fmt.Appendf(nil, chooses, path), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// leakChecked fails when goroutines are left behind.
type leakChecked struct{ *testing.M }

func (m leakChecked) Run() int {
	code := m.M.Run()
	removeBinary()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			_, _ = os.Stderr.WriteString("leaked goroutines: " + err.Error() + "\n")
			return 1
		}
	}
	return code
}

// TestScripts runs testdata/script. Their own commands:
//
//	exits CODE PROGRAM ARG…   runs a program and wants this exit code
//	answers [ADDRESS]         waits until a broker is serving; default $TOKENBROKER_ADDRESS
//	freeport NAME…            sets environment variables to ports that nobody listens on
//	isjson FILE               wants JSON
//	mode MODE FILE            wants these permissions
//	unset NAME…               unsets environment variables, for tokenbroker
//	capture NAME PATTERN      sets a variable to the first group of the pattern in the last standard output
//
// Without a word about it, a broker's data are in $WORK/d and commands ask the broker there, through its socket.
func TestScripts(t *testing.T) {
	first := chooser(t)
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("TOKENBROKER_DATA_DIR", e.WorkDir+"/d")
			e.Setenv("TOKENBROKER_ADDRESS", "unix:"+e.WorkDir+"/d/tokenbroker.sock")
			e.Setenv("TOKENBROKER_LISTEN", "127.0.0.1:0")
			e.Setenv("TOKENBROKER_METRICS_LISTEN", "none")
			e.Setenv("GORACE", raceOptions())
			e.Setenv("PATH", first+string(filepath.ListSeparator)+e.Getenv("PATH"))
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits": exits, "answers": answers, "freeport": freeport, "capture": capture, "isjson": isJSON, "fetch": fetch,
			"mode": mode, "unset": unset,
		},
		Condition: func(name string) (bool, error) {
			if name == "heeds-hup" { // under nohup nobody does
				return !signal.Ignored(syscall.SIGHUP), nil
			}
			return false, fmt.Errorf("unknown condition %q", name)
		},
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
	})
}

// raceOptions keep the race detector from waiting a second at the end of each process.
func raceOptions() string { return strings.TrimSpace(os.Getenv("GORACE") + " atexit_sleep_ms=0") }

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARG…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit := (*exec.ExitError)(nil)
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

func answers(ts *testscript.TestScript, neg bool, args []string) {
	address := ts.Getenv("TOKENBROKER_ADDRESS")
	if len(args) == 1 {
		address = args[0]
	}
	if neg || len(args) > 1 {
		ts.Fatalf("usage: answers [ADDRESS]")
	}
	ts.Check(waitServing(context.Background(), address))
}

func freeport(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: freeport NAME…")
	}
	ports, err := freePorts(len(args))
	ts.Check(err)
	for i, name := range args {
		ts.Setenv(name, ports[i])
	}
}

func unset(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: unset NAME…")
	}
	for _, name := range args {
		ts.Setenv(name, isUnset)
	}
	ts.Setenv(unsetNames, strings.Join(append(args, ts.Getenv(unsetNames)), " "))
}

func capture(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: capture NAME PATTERN")
	}
	ts.Setenv(args[0], firstGroup(ts.Fatalf, args[1], ts.ReadFile("stdout")))
}

// fetch writes what an address answers into a file.
func fetch(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: fetch URL FILE")
	}
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, args[0], http.NoBody)
	ts.Check(err)
	res, err := http.DefaultClient.Do(req)
	ts.Check(err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), body, 0o600))
}

func isJSON(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: isjson FILE")
	}
	if !json.Valid([]byte(ts.ReadFile(args[0]))) {
		ts.Fatalf("%s is not JSON", args[0])
	}
}

func mode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: mode MODE FILE")
	}
	want, err := strconv.ParseUint(args[0], 8, 32)
	ts.Check(err)
	i, err := os.Lstat(ts.MkAbs(args[1]))
	ts.Check(err)
	if got := i.Mode().Perm(); got != os.FileMode(want) {
		ts.Fatalf("%s has mode %o, want %o", args[1], got, want)
	}
}

// waitServing returns when the broker at the address says that it is serving.
func waitServing(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := dial(address)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{}, grpc.WaitForReady(true))
	return err
}

// dial is a connection that tries again at once when nobody answers yet.
func dial(address string) (*grpc.ClientConn, error) {
	if !strings.HasPrefix(address, "unix:") {
		address = "passthrough:///" + address
	}
	return grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithConnectParams(grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: 10 * time.Millisecond, Multiplier: 1.2, MaxDelay: 100 * time.Millisecond},
		MinConnectTimeout: 20 * time.Second, // gRPC's own: a busy machine takes longer than the first pause to connect
	}))
}

// freePorts are ports of the loopback address that nobody listened on a moment ago.
func freePorts(n int) ([]string, error) {
	var ports []string
	for range n {
		l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		_, port, err := net.SplitHostPort(l.Addr().String())
		if err != nil {
			return nil, err
		}
		ports = append(ports, port)
	}
	return ports, nil
}
