package demo

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/daemon"
	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/settings"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/internal/upstreamsim"
	"github.com/tokenbroker/tokenbroker/internal/upstreamsim/simclient"
)

// Commands are the demo's.
type Commands struct {
	Run      runCommand      `cmd:"" default:"withargs" help:"Run everything in this process (the default)."`
	Upstream upstreamCommand `cmd:"" help:"Run the simulated upstreams alone and print the settings that point a broker at them."`
}

type runCommand struct {
	Output  string `short:"o" default:"text" enum:"text,wide" help:"wide: the table with all that there is."`
	Once    bool   `help:"Exit after the show, with status 1 if anything is not as promised."`
	Callers int    `default:"200" help:"Callers at a time, for each system."`
	Listen  string `default:"127.0.0.1:0" help:"Where the embedded broker answers."`
}

// errDemo: what went wrong has been printed.
var errDemo = errors.New("not everything is as promised")

// Run shows the main job: an embedded broker, the hostile upstream behind the vendors' own names, and many callers.
func (c *runCommand) Run(p *console.Process) error {
	if c.Callers < 1 {
		return console.BadInput("--callers: at least 1")
	}
	dir, err := os.MkdirTemp("", "tokenbroker-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // nobody needs it any more
	sim, err := upstreamsim.New(upstreamsim.Options{SnovPerMinute: -1})
	if err != nil {
		return err
	}
	if err := sim.Start(); err != nil {
		return err
	}
	defer sim.Close() //nolint:errcheck // nobody needs it any more
	client, err := simclient.Of(sim)
	if err != nil {
		return err
	}
	s, err := demoSettings(dir, sim)
	if err != nil {
		return err
	}
	s.Listen = []string{c.Listen}
	r, err := daemon.Start(p.Context, s, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	d := &demo{p: p, format: console.Format{Output: c.Output}, sim: sim, client: client, broker: r, callers: c.Callers}
	err = d.show(p.Context)
	if err == nil && !c.Once {
		d.invite()
		<-p.Context.Done()
	}
	if stopErr := r.Stop(p.Context); err == nil {
		err = stopErr
	}
	return err
}

// demoSettings are a broker's whose upstreams are the simulator.
func demoSettings(dir string, sim *upstreamsim.Sim) (settings.Settings, error) {
	ca := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(ca, sim.CA(), 0o600); err != nil {
		return settings.Settings{}, err
	}
	s, err := settings.Default()
	if err != nil {
		return s, err
	}
	s.DataDir, s.MetricsListen, s.UpstreamCAFile, s.UpstreamConnectTo = filepath.Join(dir, "data"), "127.0.0.1:0", ca, map[string]string{}
	for _, h := range sim.Hosts() {
		s.UpstreamConnectTo[h] = sim.Addr()
	}
	return s, nil
}

// A demo is the show.
type demo struct {
	p       *console.Process
	format  console.Format
	sim     *upstreamsim.Sim
	client  *simclient.Client
	broker  *daemon.Running
	callers int
	conns   []*grpc.ClientConn
	clients []tokenbrokerv1.TokenBrokerServiceClient
	admin   tokenbrokerv1.CredentialServiceClient
	broken  bool
}

// demoConnections is over how many connections the callers are spread.
const demoConnections = 10

func (d *demo) show(ctx context.Context) error {
	for range demoConnections {
		conn, err := grpc.NewClient("passthrough:///"+d.broker.Addresses[0], grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return err
		}
		defer conn.Close() //nolint:errcheck // nothing is left to be lost
		d.conns = append(d.conns, conn)
		d.clients = append(d.clients, tokenbrokerv1.NewTokenBrokerServiceClient(conn))
	}
	d.admin = tokenbrokerv1.NewCredentialServiceClient(d.conns[0])
	d.say("An embedded broker answers gRPC on %s.\nBehind the vendors' own names stands a hostile upstream that counts.", d.broker.Addresses[0])
	d.say("%s at once, for a token of each system:\n", console.Counted(d.callers, "caller"))
	var rows [][]string
	for _, a := range d.sim.Accounts() {
		row, err := d.herd(ctx, a)
		if err != nil {
			return err
		}
		rows = append(rows, row)
	}
	if err := d.format.Table(d.p.Stdout, d.header(), rows); err != nil {
		return err
	}
	d.say("")
	for _, step := range []func(context.Context) error{d.rejection, d.earlyRefresh, d.outage} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	if d.broken {
		return errDemo
	}
	d.say("\nEverything is as promised.")
	return nil
}

func (d *demo) say(format string, args ...any) { console.Printf(d.p.Stdout, format+"\n", args...) }

// promise prints whether something is as it should be.
func (d *demo) promise(kept bool, format string, args ...any) {
	mark := "ok  "
	if !kept {
		mark, d.broken = "FAIL", true
	}
	_ = console.Table(d.p.Stdout, "", [][]string{{mark, fmt.Sprintf(format, args...)}}) // whoever made the writer hears of it
}

// invite prints commands that work while the demo stays up.
func (d *demo) invite() {
	addr := d.broker.Addresses[0]
	d.say("\nIt stays up until Ctrl-C. In another terminal:\n")
	for _, l := range []string{
		"grpcurl -plaintext " + addr + " list",
		"grpcurl -plaintext -d '{\"credential\": \"officernd\"}' " + addr + " tokenbroker.v1.TokenBrokerService/GetToken",
		"grpcurl -plaintext -d '{\"credential\": \"officernd\", \"all\": true}' " + addr + " tokenbroker.v1.TokenBrokerService/Invalidate",
		"grpcurl -plaintext -d '{\"name\": \"ochno-operated\"}' " + addr + " tokenbroker.v1.CredentialService/GetCredentialStatus",
		called() + " credential list --address " + addr,
		called() + " token watch officernd --address " + addr,
		"curl http://" + d.broker.Metrics + "/metrics",
	} {
		d.say("  %s", l)
	}
}
