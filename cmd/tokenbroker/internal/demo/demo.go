package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
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
	d := &demo{p: p, sim: sim, client: client, broker: r, callers: c.Callers}
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
	d.say("An embedded broker answers gRPC on %s. Behind the vendors' own names stands a hostile upstream that counts.", d.broker.Addresses[0])
	d.say("%d callers ask at once for a token of each system:\n", d.callers)
	var rows [][]string
	for _, a := range d.sim.Accounts() {
		row, err := d.herd(ctx, a)
		if err != nil {
			return err
		}
		rows = append(rows, row)
	}
	if err := console.Table(d.p.Stdout, "SYSTEM\tCALLERS\tEXCHANGES\tREQUESTS\tFIRST\tLAST\tEXPIRES IN\tPRESENTED AS\tAPI", rows); err != nil {
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
	d.say("%s  %s", mark, fmt.Sprintf(format, args...))
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
	if !same || requests != want || exchanges != 1 || api != 200 || len(d.sim.Refusals(a.System)) > 0 {
		d.broken = true
		name += " (FAIL)"
	}
	return []string{
		name, fmt.Sprint(len(got)), fmt.Sprint(exchanges), fmt.Sprint(requests), ms(first.Sub(started)), ms(last.Sub(started)),
		time.Until(tok.GetExpireTime().AsTime()).Round(time.Second).String(), presentedAs(tok), fmt.Sprint(api),
	}, nil
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

type upstreamCommand struct {
	Listen string `default:"127.0.0.1:7443" help:"Where the simulator answers; loopback only."`
	Dir    string `help:"Where to write settings, CA and credentials for it; made if missing. None: a temporary directory."`
}

// Run runs the simulator until interrupted, and prints a line for each thing that happens there.
func (c *upstreamCommand) Run(p *console.Process) error {
	dir := c.Dir
	if dir == "" {
		var err error
		if dir, err = os.MkdirTemp("", "tokenbroker-upstream-"); err != nil {
			return err
		}
		defer leave(p.Stderr, dir)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(dir, secretsDir), 0o700); err != nil {
		return err
	}
	sim, err := upstreamsim.New(upstreamsim.Options{Addr: c.Listen, OnEvent: func(e upstreamsim.Event) {
		console.Printf(p.Stdout, "%s\n", e)
	}})
	if err != nil {
		return console.WrongInput(err)
	}
	if err := sim.Start(); err != nil {
		return err
	}
	defer sim.Close() //nolint:errcheck // nobody needs it any more
	if err := writeDemoFiles(dir, sim); err != nil {
		return err
	}
	console.Printf(p.Stdout, `The simulated upstreams answer on %[1]s. What points a broker at them is in %[2]s.
In another terminal:

  export TOKENBROKER_CONFIG=%[2]s/settings.yaml
  %[3]s serve

and in a third:

  export TOKENBROKER_CONFIG=%[2]s/settings.yaml
  %[3]s credential apply -f %[2]s/credentials.yaml
  %[3]s token get officernd-1
  %[3]s credential status officernd-1

What happens here, a line each:

`, sim.Addr(), dir, called())
	<-p.Context.Done()
	return nil
}

// secretsDir is where, beside the settings, the secrets of the simulated accounts are.
const secretsDir = "secrets"

// leave removes what this command has written into its temporary directory. What a broker has put there meanwhile is not its to delete.
func leave(w io.Writer, dir string) {
	for _, name := range []string{"ca.pem", "settings.yaml", "credentials.yaml", secretsDir} {
		_ = os.RemoveAll(filepath.Join(dir, name))
	}
	if os.Remove(dir) != nil {
		console.Printf(w, "a broker has its data in %s: delete it when you need it no more\n", dir)
	}
}

// called is how this program was called, for commands to copy.
func called() string {
	if strings.Contains(os.Args[0], "go-build") {
		return "go run ./cmd/tokenbroker"
	}
	return os.Args[0]
}

// writeDemoFiles writes what a broker and an operator need to use the simulator.
func writeDemoFiles(dir string, sim *upstreamsim.Sim) error {
	files := map[string]string{"ca.pem": string(sim.CA())}
	var b strings.Builder
	fmt.Fprintf(&b, "data_dir: %q\nupstream:\n  ca_file: %q\n  connect_to:\n", filepath.Join(dir, "data"), filepath.Join(dir, "ca.pem"))
	for _, h := range sim.Hosts() {
		fmt.Fprintf(&b, "    %q: %q\n", h, sim.Addr())
	}
	files["settings.yaml"] = b.String()
	b.Reset()
	for _, a := range sim.Accounts() {
		fmt.Fprintf(&b, "- name: %s\n  provider: %s\n", a.ID, a.System)
		writeMap(&b, "inputs", a.Inputs)
		refs := map[string]string{}
		for _, name := range slices.Sorted(maps.Keys(a.Secrets)) {
			file := filepath.Join(secretsDir, string(a.ID)+"."+name)
			files[file] = a.Secrets[name]
			refs[name] = "file:" + file
		}
		writeMap(&b, "secrets", refs)
		if len(a.Scopes) > 0 {
			fmt.Fprintf(&b, "  default_scopes: [%s]\n", strings.Join(quotedAll(a.Scopes), ", "))
		}
	}
	files["credentials.yaml"] = b.String()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

func writeMap(w io.Writer, title string, m map[string]string) {
	if len(m) == 0 {
		return
	}
	console.Printf(w, "  %s:\n", title)
	for _, k := range slices.Sorted(maps.Keys(m)) {
		console.Printf(w, "    %s: %q\n", k, m[k])
	}
}

func quotedAll(all []string) []string {
	var out []string
	for _, s := range all {
		out = append(out, fmt.Sprintf("%q", s))
	}
	return out
}
