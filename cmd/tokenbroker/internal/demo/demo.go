package demo

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

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
	s := settings.Settings{
		DataDir: filepath.Join(dir, "data"), Socket: "auto", MetricsListen: "127.0.0.1:0", KeyFile: "auto", LogLevel: "info", LogFormat: "auto",
		ShutdownTimeout: 25 * time.Second, ExchangeTimeout: 20 * time.Second, UpstreamConcurrency: 16, LimitsMessageBytes: 1 << 20,
		LimitsConnectionAge: 30 * time.Minute, UpstreamCAFile: ca, UpstreamConnectTo: map[string]string{},
	}
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
	d.say("%d callers ask at once for a token of each system:\n", d.callers)
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

// asksPerExchange is how many requests an exchange of a system declares.
var asksPerExchange = map[upstreamsim.System]int{upstreamsim.DocuWare: 3, upstreamsim.ClientBasic: 2}

// herd stores a credential and lets all callers ask at once.
func (d *demo) herd(ctx context.Context, a upstreamsim.Account) ([]string, error) {
	name := string(a.System)
	if _, err := d.admin.CreateCredential(ctx, &tokenbrokerv1.CreateCredentialRequest{
		Credential: &tokenbrokerv1.Credential{Name: name, Provider: string(a.System), Inputs: a.Inputs}, Secrets: a.Secrets,
	}); err != nil {
		return nil, fmt.Errorf("create %s: %w", name, err)
	}
	started := time.Now()
	got := d.together(ctx, func(ctx context.Context, c tokenbrokerv1.TokenBrokerServiceClient) (*tokenbrokerv1.Token, error) {
		res, err := c.GetToken(ctx, &tokenbrokerv1.GetTokenRequest{Credential: name, Scopes: a.Scopes})
		return res.GetToken(), err
	})
	first, last, same := got[0].at, got[0].at, true
	for _, g := range got {
		if g.err != nil {
			return nil, fmt.Errorf("get a token of %s: %w", name, g.err)
		}
		first, last = minTime(first, g.at), maxTime(last, g.at)
		same = same && g.token.GetTokenId() == got[0].token.GetTokenId()
	}
	tok := got[0].token
	want := max(asksPerExchange[a.System], 1)
	requests := d.sim.SystemStats(a.System).Total()
	exchanges, err := d.exchanges(name)
	if err != nil {
		return nil, err
	}
	api, err := d.client.Show(ctx, a, tok)
	if err != nil {
		return nil, err
	}
	answered := fmt.Sprint(api)
	if !same || requests != want || exchanges != 1 || api != 200 || len(d.sim.Refusals(a.System)) > 0 {
		d.broken = true
		answered += " FAIL"
	}
	row := []string{name, fmt.Sprint(exchanges), fmt.Sprint(requests), ms(last.Sub(started)), d.format.When(tok.GetExpireTime().AsTime()), answered}
	if d.format.Wide() {
		row = append(row, fmt.Sprint(len(got)), ms(first.Sub(started)), presentedAs(tok))
	}
	return row, nil
}

// header is that of herd's rows.
func (d *demo) header() string {
	h := "SYSTEM\tEXCHANGES\tREQUESTS\tLAST\tEXPIRES\tAPI"
	if d.format.Wide() {
		h += "\tCALLERS\tFIRST\tPRESENTED AS"
	}
	return h
}

func ms(d time.Duration) string { return fmt.Sprintf("%d ms", d.Milliseconds()) }

func minTime(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func maxTime(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// presentedAs shows where the token goes, and of the token itself a few letters.
func presentedAs(t *tokenbrokerv1.Token) string {
	var out []string
	for _, h := range t.GetHeaders() {
		v := h.GetValue()
		if h.GetName() != "User-Agent" {
			scheme, rest, two := strings.Cut(v, " ")
			if v = mask(v); two {
				v = scheme + " " + mask(rest)
			}
		}
		out = append(out, h.GetName()+": "+v)
	}
	for _, c := range t.GetCookies() {
		out = append(out, "cookie "+c.GetName()+"="+mask(c.GetValue()))
	}
	for _, q := range t.GetQueryParameters() {
		out = append(out, "?"+q.GetName()+"="+mask(q.GetValue()))
	}
	return strings.Join(out, ", ")
}

func mask(s string) string {
	if len(s) < 12 {
		return "…"
	}
	return s[:3] + "…"
}

// exchanges counts the broker's exchanges for a provider, by its own metrics.
func (d *demo) exchanges(provider string) (int, error) {
	families, err := d.broker.Registry.Gather()
	if err != nil {
		return 0, err
	}
	n := 0
	for _, f := range families {
		if f.GetName() != "tokenbroker_exchanges_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == "provider" && l.GetValue() == provider {
					n += int(m.GetCounter().GetValue())
				}
			}
		}
	}
	return n, nil
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
		"go run ./cmd/tokenbroker credential list --address " + addr,
		"go run ./cmd/tokenbroker token watch officernd --address " + addr,
		"curl http://" + d.broker.Metrics + "/metrics",
	} {
		d.say("  %s", l)
	}
}
