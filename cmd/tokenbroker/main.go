// Command tokenbroker is the broker, and what operators use to look after it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/daemon"
	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/demo"
	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/operator"
	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/settings"
)

// cli is the command line; help is generated from it.
type cli struct {
	Serve      daemon.ServeCommand         `cmd:"" help:"Run the broker."`
	Demo       demo.Commands               `cmd:"" help:"See it work: a broker and simulated upstreams on this machine, two hundred callers for each system."`
	Token      operator.TokenCommands      `cmd:"" help:"Get, invalidate and watch tokens."`
	Run        operator.RunCommand         `cmd:"" help:"Run a command with a token that stays fresh, in files that its environment names."`
	Credential operator.CredentialCommands `cmd:"" help:"Look after credentials."`
	Provider   operator.ProviderCommands   `cmd:"" help:"Look at provider definitions, check and try them."`
	Health     operator.HealthCommand      `cmd:"" set:"timeout=3s" help:"Ask a broker whether it is serving: for probes, and for scripts that start one."`
	Policy     operator.PolicyCommands     `cmd:"" help:"Check, test and explain a policy: who may do what. No broker is needed."`
	Certs      operator.CertsCommands      `cmd:"" help:"Certificates to throw away, to try mutual TLS."`
	Config     settings.ConfigCommands     `cmd:"" help:"Check a settings file."`
	Backup     operator.BackupCommand      `cmd:"" help:"Copy the embedded store to a file, while the broker runs or not."`
	Restore    operator.RestoreCommand     `cmd:"" help:"Make a data directory of a copy of the embedded store."`
	Bench      operator.BenchCommand       `cmd:"" help:"Load-test a running deployment and report latency."`
	Store      operator.StoreCommands      `cmd:"" help:"Move what is stored: from the embedded store into Redis, back, or to another Redis."`
	Keys       operator.KeysCommands       `cmd:"" help:"Look after the keys that seal what is stored: wrap, rotate, retire them."`
	Doctor     operator.DoctorCommand      `cmd:"" help:"Say what is unsafe about the broker that runs: files, keys, Redis, policy, certificates."`
	Version    versionCommand              `cmd:"" help:"Say which version this is; --version does too."`
	Help       helpCommand                 `cmd:"" help:"Say how a command is used; --help does too."`
	Completion completionCommand           `cmd:"" help:"Print what makes a shell complete commands, flags and names."`
	Names      operator.NamesCommand       `cmd:"" hidden:"" help:"Print the names that a shell completes."`
}

const description = `tokenbroker gives internal services access tokens for third-party APIs.

Exit codes: 0 all is well; 1 failure; 2 bad usage or input; 3 not found; 4 not allowed; 5 somebody must change something
first; 6 temporary, try again; 7 the broker cannot be reached. run ends with the code of its command.`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // so that a second signal ends what does not heed the first
	code := run(&console.Process{Context: ctx, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}, os.Args[1:])
	stop()
	os.Exit(code)
}

// run executes one command line and returns its exit code. That standard output could not be written is a failure: somebody who
// writes a token to a full disk must hear of it.
func run(p *console.Process, args []string) int {
	out := &output{Writer: p.Stdout}
	code := execute(&console.Process{Context: p.Context, Stdin: p.Stdin, Stdout: out, Stderr: p.Stderr}, args)
	if code == console.ExitOK && out.err != nil {
		return console.Report(p, outputOf(args), fmt.Errorf("write the output: %w", out.err))
	}
	return code
}

// output remembers the first error of a writer, and lets one goroutine write at a time.
type output struct {
	io.Writer
	mu  sync.Mutex
	err error
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n, err := o.Writer.Write(b)
	if o.err == nil {
		o.err = err
	}
	return n, err
}

// Under implements console.Wrapped.
func (o *output) Under() io.Writer { return o.Writer }

func execute(p *console.Process, args []string) int {
	var c cli
	code, exited := 0, false
	parser, err := kong.New(&c,
		kong.Name("tokenbroker"), kong.Description(description),
		kong.Writers(p.Stdout, p.Stderr), kong.Exit(func(n int) { code, exited = n, true }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 120}),
		settings.Options(settings.DefaultDataDir()),
		kong.Bind(p),
	)
	if err != nil {
		console.Printf(p.Stderr, "tokenbroker: %v\n", err)
		return console.ExitFailure
	}
	args = meant(args)
	file, wrong, err := settings.Named(args)
	if err != nil {
		return console.Report(p, outputOf(args), err)
	}
	blank, err := settings.DropBlank(parser, args)
	if err != nil {
		return console.Report(p, outputOf(args), err)
	}
	if err := settings.CheckEnvironment(parser.Model); err != nil {
		return console.Report(p, outputOf(args), console.WrongInput(err))
	}
	c.Completion.model = parser.Model
	c.Serve.At = map[string]settings.Position{}
	c.Store.NotePlaces(c.Serve.At)
	c.Keys.NotePlaces(c.Serve.At)
	if err := kong.Resolvers(file.Resolver(c.Serve.At)).Apply(parser); err != nil {
		return console.Report(p, outputOf(args), err)
	}
	k, err := parser.Parse(args)
	if exited {
		return code
	}
	if err != nil {
		return console.Report(p, outputOf(args), console.WrongInput(usageHint(err)))
	}
	if unknown := settings.Unknown(parser.Model, os.Environ()); k.Command() == "serve" {
		c.Serve.Unknown, c.Serve.InFile, c.Serve.Listeners = unknown, wrong, file.Listeners // it says so, with what is wrong besides
		c.Serve.File, c.Serve.Blank = file.Name, blank.Of(k)
	} else if console.Warn(p, outputOf(args), unknown...); len(wrong) > 0 {
		return console.Report(p, outputOf(args), settings.Together(wrong))
	} else if empty := blank.Of(k); len(empty) > 0 {
		return console.Report(p, outputOf(args), console.BadInput("%s", strings.Join(empty, "\n")))
	}
	if err := k.Run(p); err != nil {
		return console.Report(p, outputOf(args), err)
	}
	return console.ExitOK
}

// meant is a command line as kong has it: without a command it is help that is wanted.
func meant(args []string) []string {
	switch {
	case len(args) == 0:
		return []string{"--help"}
	case args[0] == "--version":
		return append([]string{"version"}, args[1:]...)
	case args[0] == "help" && !slices.Contains(args, "--help") && !slices.Contains(args, "-h"):
		return append(slices.Clone(args[1:]), "--help")
	}
	return args
}

// helpCommand is for the list of commands: meant makes --help of it.
type helpCommand struct {
	Command []string `arg:"" optional:"" help:"The command; none: all of them."`
}

// usageHint adds where help is. A surplus argument is not repeated: it may be a secret that somebody put there.
func usageHint(err error) error {
	var parse *kong.ParseError
	if !errors.As(err, &parse) || parse.Context.Selected() == nil {
		return fmt.Errorf("%w; see tokenbroker --help", err)
	}
	command := parse.Context.Selected()
	if choice := settings.WrongChoice(parse.Context); choice != nil {
		err = choice
	}
	if surplus(parse.Context) {
		err = errors.New("there is an argument too many")
	}
	if c, ok := command.Target.Addr().Interface().(interface{ Form() string }); ok {
		return fmt.Errorf("%w; write %s %s", err, command.FullPath(), c.Form())
	}
	return fmt.Errorf("%w; see %s --help", err, command.FullPath())
}

// surplus reports whether parsing stopped at an argument for which the command has no place.
func surplus(c *kong.Context) bool {
	taken := 0
	for _, p := range c.Path {
		if p.Positional != nil {
			taken++
		}
	}
	rest := c.Path[len(c.Path)-1].Remainder()
	if command := c.Selected(); !command.Leaf() || taken < len(command.Positional) || len(rest) == 0 {
		return false
	}
	return rest[0] == "-" || rest[0] == "--" || !strings.HasPrefix(rest[0], "-")
}

// outputOf finds how the caller wants errors, also when the command line does not parse. Behind "--" it is another program's.
func outputOf(args []string) string {
	for i, a := range args {
		if a == "--" {
			break
		}
		if v, ok := strings.CutPrefix(a, "--output="); ok {
			return v
		}
		if v, ok := strings.CutPrefix(a, "-o"); ok && v != "" {
			return v
		}
		if (a == "--output" || a == "-o") && i+1 < len(args) {
			return args[i+1]
		}
	}
	return os.Getenv("TOKENBROKER_OUTPUT")
}
