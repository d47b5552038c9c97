package operator

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

// RunCommand runs a command with a token that stays fresh.
type RunCommand struct {
	remote
	selectionFlags
	Credential string   `required:"" names:"credential" help:"The credential."`
	Env        string   `placeholder:"VARIABLE" help:"Have the token, as it is at the start, in this environment variable too. It does not stay fresh there, and whoever may read the environment of the command's processes sees it."`
	Command    []string `arg:"" name:"command" help:"The command with its arguments, behind --."`
}

// Help implements kong.HelpProvider.
func (*RunCommand) Help() string {
	return `Two environment variables name files of mode 0600, which are replaced by a rename whenever there is another token, and removed at the end:

  ACCESS_TOKEN_FILE   the token alone
  HEADER_FILE         the headers, as token get --header prints them

  tokenbroker run --credential NAME -- sh -c 'curl -H @"$HEADER_FILE" URL'

An API that refuses the token before it ends is told to the broker by tokenbroker token invalidate NAME --all, and the files have another token at once.

Its exit code is the command's: 128 and the signal's number where a signal has ended it, 127 where there is no such command, 126 where it cannot be run.
SIGTERM is passed on to it, as are SIGINT, SIGQUIT and SIGHUP where this is not in the foreground of a terminal, which sends them to both. Where there is no token at the start the command is not
run. Later that is said, once, and the command goes on.`
}

// Form is how it is written: what it is to run looks like arguments of its own where -- is forgotten.
func (*RunCommand) Form() string { return "--credential NAME -- COMMAND [ARGUMENT ...]" }

// Run ends as the command does, once that has begun.
func (c *RunCommand) Run(p *console.Process) error {
	if c.Env != "" && !isVariable(c.Env) || c.Env == tokenVariable || c.Env == headerVariable {
		return console.BadInput("--env: %q is no name for an environment variable here", c.Env)
	}
	program, err := exec.LookPath(c.Command[0])
	if err != nil {
		return notRun(err)
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGQUIT)
	defer signal.Stop(signals)
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) // whoever read what is said here may have left: the files are to be removed all the same. The command has the signal as it was
	var began bool
	var ended error
	err = c.with(p.Context, func(ctx context.Context, cl *client) error {
		res, err := cl.tokens.GetToken(ctx, c.get(c.Credential))
		if err != nil {
			return err
		}
		files, err := newTokenFiles(res.GetToken())
		if err != nil {
			return err
		}
		defer files.remove()
		if !signal.Ignored(syscall.SIGHUP) { // as under nohup: the command inherits that
			signal.Notify(signals, syscall.SIGHUP)
		}
		if p.Context.Err() != nil {
			return console.ErrInterrupted
		}
		cmd := exec.Command(program, c.Command[1:]...) //nolint:gosec,noctx // what the operator wants run; it ends by itself
		cmd.Args[0] = c.Command[0]
		cmd.Stdin, cmd.Stdout, cmd.Stderr = p.Stdin, console.Beneath(p.Stdout), console.Beneath(p.Stderr)
		cmd.Env = append(os.Environ(), files.environment()...)
		if c.Env != "" {
			cmd.Env = append(cmd.Env, c.Env+"="+res.GetToken().GetAccessToken())
		}
		if len(res.GetToken().GetQueryParameters()) > 0 {
			console.Println(p.Stderr, "tokenbroker: this API wants query parameters too, which are in neither file: see token get --output json")
		}
		if err := cmd.Start(); err != nil {
			return notRun(err)
		}
		began = true
		ended = c.accompany(ctx, p, cl, cmd, signals, &following{files: files, held: res.GetToken()})
		return nil
	})
	if began {
		return ended // whatever the connection has come to meanwhile
	}
	return err
}

// accompany keeps the files fresh and passes signals on, until the command has ended. It returns how.
func (c *RunCommand) accompany(ctx context.Context, p *console.Process, cl *client, cmd *exec.Cmd, signals <-chan os.Signal, f *following) error {
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx)) // a signal that is passed on ends ctx
	followed, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		defer close(followed)
		c.follow(ctx, p, cl, f)
	}()
	defer func() {
		stop()
		<-followed
	}()
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case s := <-signals:
			if s == syscall.SIGTERM || !inForeground() {
				_ = cmd.Process.Signal(s) // it may be over
			}
		case err := <-ended:
			return howItEnded(err)
		}
	}
}

// A following is the token that is in the files.
type following struct {
	files *tokenFiles
	held  *tokenbrokerv1.Token
	// told: that it cannot be had any more was said.
	told bool
}

// followAgain is after how long the broker is asked again that had no token, if it does not say so itself.
const followAgain = 10 * time.Second

// follow keeps the files fresh until ctx ends: by what the broker tells, or, where that may not be asked for, by asking at refresh_time.
func (c *RunCommand) follow(ctx context.Context, p *console.Process, cl *client, f *following) {
	says := func(err error) {
		if err != nil && !f.told && ctx.Err() == nil {
			console.Printf(p.Stderr, "tokenbroker: no token any more; the files keep the one that ends %s: %s\n", c.When(f.held.GetExpireTime().AsTime()), console.Sentence(cl.explain(err)))
		}
		f.told = err != nil
	}
	has := func(t *tokenbrokerv1.Token) {
		f.held = t
		says(f.files.put(t))
	}
	w := watching{
		request: c.watch(c.Credential, f.held.GetTokenId()), timeout: c.Timeout, address: c.Address, ended: func() {},
		heard: func(e *tokenbrokerv1.WatchTokenResponse) error {
			switch e := e.GetEvent().(type) {
			case *tokenbrokerv1.WatchTokenResponse_Token:
				has(e.Token)
			case *tokenbrokerv1.WatchTokenResponse_State:
				if e.State.GetReason() != "" && !e.State.GetDegraded() {
					says(errors.New(e.State.GetReason()))
				}
			}
			return nil
		},
	}
	for watches := true; ctx.Err() == nil; {
		if watches {
			err := w.run(ctx, cl)
			if watches = status.Code(err) != codes.PermissionDenied; watches {
				if !errors.Is(err, io.EOF) {
					says(err)
				}
				_ = wait(ctx, pauseAfter(err))
			}
			continue
		}
		if wait(ctx, time.Until(f.held.GetRefreshTime().AsTime())) != nil {
			return
		}
		res, err := cl.tokens.GetToken(ctx, c.get(c.Credential))
		pause := watchPause // it may be the same token still, whose refresh has begun
		if err != nil {
			says(err)
		} else {
			has(res.GetToken())
		}
		if err != nil || res.GetDegraded() {
			pause = pauseAfter(err)
		}
		_ = wait(ctx, pause)
	}
}

// pauseAfter is how long nobody is asked again.
func pauseAfter(err error) time.Duration {
	if err == nil {
		return followAgain
	}
	said, _ := time.ParseDuration(console.Describe(err).RetryAfter) // the broker's own
	return max(said, followAgain)
}

// howItEnded makes of how a command has ended how this one does.
func howItEnded(err error) error {
	var exit *exec.ExitError
	switch {
	case !errors.As(err, &exit):
		return err
	case exit.ExitCode() < 0:
		if w, ok := exit.Sys().(syscall.WaitStatus); ok && w.Signaled() {
			return console.Reported(console.Ended(128+int(w.Signal()), err))
		}
	}
	return console.Reported(console.Ended(exit.ExitCode(), err))
}

// The exit codes of shells (POSIX, Shell & Utilities, section 2.8.2).
const exitNotRunnable, exitNotFound = 126, 127

// notRun says why a command could not be started.
func notRun(err error) error {
	code := exitNotRunnable
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		code = exitNotFound
	}
	return console.Ended(code, err)
}

// isVariable reports whether a name is one for an environment variable (POSIX, Base Definitions, section 8.1).
func isVariable(name string) bool {
	return strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_") == "" && (name[0] < '0' || name[0] > '9')
}

// inForeground reports whether this process's group is the one to which its terminal sends signals: its child has them from there already. A signal that somebody sends to this process
// alone, by its id, cannot be told apart from that.
func inForeground() bool {
	tty, err := os.Open("/dev/tty")
	if err != nil {
		return false // there is no terminal
	}
	defer tty.Close() //nolint:errcheck // it was only asked
	group, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}
