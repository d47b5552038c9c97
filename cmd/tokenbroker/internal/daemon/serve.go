package daemon

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/settings"
	"github.com/tokenbroker/tokenbroker/store/redis"
)

// ServeCommand runs the broker.
type ServeCommand struct {
	Config string `env:"TOKENBROKER_CONFIG" type:"path" help:"Settings file in YAML. A flag wins over the environment, the environment over the file."`
	settings.Settings
}

// Help implements kong.HelpProvider.
func (*ServeCommand) Help() string {
	return "In a container with a memory limit the broker keeps within it. It collects garbage less often than Go does by itself, for up to 64 MiB of memory, or half of the limit. The environment variables GOMEMLIMIT and GOGC win over both."
}

// Run serves until the process is told to stop.
func (c *ServeCommand) Run(p *console.Process) error {
	log := newLog(p, c.LogLevel, c.LogFormat)
	err := c.serve(p, log)
	switch {
	case err == nil:
		log.Info("stopped")
	case isJSON(p, c.LogFormat):
		log.Error("stopped", "error", err.Error())
		return console.Reported(err)
	}
	return err
}

func (c *ServeCommand) serve(p *console.Process, log *slog.Logger) error {
	for _, w := range c.Unknown {
		log.Warn(w)
	}
	noCoreDumps(log)
	memory, stop := useMemory(log)
	defer stop()
	c.TokensInCache, c.Flights, c.Capacity = memory.tokens, memory.flights, memory.capacity
	r, err := Start(p.Context, c.Settings, log)
	if err != nil {
		return err
	}
	if r.firstRun {
		log.Info("made a new key: back it up, apart from the data; without it nothing that is stored can be read", "key_file", c.KeyPath(), "data_dir", c.DataDir)
	}
	if r.policy == nil {
		log.Info("without a policy: loopback addresses and Unix sockets only; whoever can reach them may use every credential")
	}
	if a, err := redis.ParseAddress(c.Store); err == nil {
		with := slog.String("key_file", c.KeyPath())
		if c.Wrapped() {
			with = slog.String("kek", c.KeysKEK)
		}
		log.Info("what is stored is in Redis, and shared with all brokers there", "store", a.String(), with)
	}
	log.Info(r.banner())
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	go reloadAt(p.Context, hup, r, log) // not here: a file system that hangs must not keep the broker from stopping
	select {
	case err = <-r.failed:
	case <-p.Context.Done():
	}
	again := make(chan os.Signal, 1)
	signal.Notify(again, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(again)
	log.Info("stopping: exchanges that are under way are committed first; another signal stops at once, but for the first two seconds",
		"at_most", c.ShutdownTimeout)
	stopped := make(chan error, 1)
	go func() { stopped <- r.Stop(p.Context) }()
	for began := time.Now(); ; {
		select {
		case stopErr := <-stopped:
			return errors.Join(err, stopErr)
		case <-again:
			if time.Since(began) >= sameStop {
				return errors.New("stopped at once, at a second signal: exchanges that were under way are lost")
			}
		}
	}
}

// sameStop is for how long a second signal means the same as the first: timeout(1) sends it to the group as well as to the process.
const sameStop = 2 * time.Second

// reloadAt opens the audit log anew, and reads the definitions and the policy again, at each signal, until ctx ends.
func reloadAt(ctx context.Context, hup <-chan os.Signal, r *Running, log *slog.Logger) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-hup:
		}
		if r.audit != nil {
			if err := r.audit.Reopen(); err != nil {
				log.Error("audit log not reopened: the former file goes on", "error", err.Error())
			}
		}
		if r.policy != nil {
			_ = r.policy.Reload() // it says what is wrong
		}
		if err := r.catalog.Reload(); err != nil {
			log.Warn("definitions not reloaded", "error", err.Error())
			continue
		}
		log.Info("definitions reloaded")
	}
}
