package main

import (
	"errors"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/term"

	"github.com/tokenbroker/tokenbroker/store/redis"
)

// serveCommand runs the broker.
type serveCommand struct {
	Config string `env:"TOKENBROKER_CONFIG" type:"path" help:"Settings file in YAML. A flag wins over the environment, the environment over the file."`
	settings
}

// Help implements kong.HelpProvider.
func (*serveCommand) Help() string {
	return "In a container with a memory limit the broker keeps within it. It collects garbage less often than Go does by itself, for up to 64 MiB of memory, or half of the limit. The environment variables GOMEMLIMIT and GOGC win over both."
}

// Run serves until the process is told to stop.
func (c *serveCommand) Run(p *process) error {
	log := newLog(p, c.LogLevel, c.LogFormat)
	tokens, stop := useMemory(log)
	defer stop()
	c.tokensInCache = tokens
	r, err := startBroker(p.ctx, c.settings, log)
	if err != nil {
		return err
	}
	if r.firstRun {
		log.Info("made a new key: back it up, apart from the data; without it nothing that is stored can be read", "key_file", c.keyFile(), "data_dir", c.DataDir)
	}
	log.Info("without authentication: loopback addresses and Unix sockets only; whoever can reach them may use every credential")
	if a, err := redis.ParseAddress(c.Store); err == nil {
		log.Info("what is stored is in Redis, and shared with all brokers there", "store", a.String(), "key_file", c.keyFile())
	}
	log.Info(r.banner())
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	for {
		select {
		case <-hup:
			if err := r.catalog.Reload(); err != nil {
				log.Warn("definitions not reloaded", "error", err.Error())
				continue
			}
			log.Info("definitions reloaded")
			continue
		case err = <-r.failed:
		case <-p.ctx.Done():
		}
		break
	}
	again := make(chan os.Signal, 1)
	signal.Notify(again, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(again)
	log.Info("stopping: exchanges that are under way are committed first", "at_most", c.ShutdownTimeout.String())
	stopped := make(chan error, 1)
	go func() { stopped <- r.stop(p.ctx) }()
	select {
	case stopErr := <-stopped:
		return errors.Join(err, stopErr)
	case <-again:
		return errors.New("stopped at once, at a second signal: exchanges that were under way are lost")
	}
}

// newLog writes to standard error.
func newLog(p *process, level, format string) *slog.Logger {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		l = slog.LevelInfo
	}
	o := &slog.HandlerOptions{Level: l}
	if format == "text" || format == "auto" && isTerminal(p.stderr) {
		return slog.New(slog.NewTextHandler(p.stderr, o))
	}
	return slog.New(slog.NewJSONHandler(p.stderr, o))
}

func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
