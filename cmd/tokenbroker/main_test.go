package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
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

// TestMain lets scripts run this test's own binary as tokenbroker, race detector included.
func TestMain(m *testing.M) {
	testscript.Main(leakChecked{m}, map[string]func(){"tokenbroker": withoutUnset})
}

// isUnset is the value of a variable that a script has unset, for which testscript has no word.
const isUnset = "(unset)"

// withoutUnset is main, in an environment without the variables that a script has unset.
func withoutUnset() {
	for _, v := range os.Environ() {
		if name, value, _ := strings.Cut(v, "="); value == isUnset {
			_ = os.Unsetenv(name)
		}
	}
	main()
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
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("TOKENBROKER_DATA_DIR", e.WorkDir+"/d")
			e.Setenv("TOKENBROKER_ADDRESS", "unix:"+e.WorkDir+"/d/tokenbroker.sock")
			e.Setenv("TOKENBROKER_LISTEN", "127.0.0.1:0")
			e.Setenv("TOKENBROKER_METRICS_LISTEN", "none")
			e.Setenv("GORACE", raceOptions())
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits": exits, "answers": answers, "freeport": freeport, "capture": capture, "isjson": isJSON, "fetch": fetch,
			"mode": mode, "unset": unset,
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
