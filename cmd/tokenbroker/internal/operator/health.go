package operator

import (
	"context"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

// HealthCommand is for people, for scripts that start a broker, and for containers without a shell.
type HealthCommand struct {
	remote
	Wait time.Duration `help:"Keep asking until SERVING, for at most this long."`
}

// healthPause is between two questions of --wait.
const healthPause = 100 * time.Millisecond

// Run asks a broker for its health.
func (c *HealthCommand) Run(p *console.Process) error {
	if c.Wait < 0 {
		return console.BadInput("--wait: must not be negative")
	}
	waited := ""
	if c.Wait > 0 {
		waited = fmt.Sprintf(", after %s of asking", c.Wait)
		if err := c.appears(p.Context); err != nil {
			return err
		}
	}
	var res, changes *healthv1.HealthCheckResponse
	err := c.with(p.Context, func(ctx context.Context, on *client) (err error) {
		if res, err = c.ask(ctx, on); err == nil {
			changes, _ = healthv1.NewHealthClient(on.conn).Check(ctx, &healthv1.HealthCheckRequest{Service: tokenbrokerv1.CredentialService_ServiceDesc.ServiceName})
		}
		return err
	})
	switch {
	case p.Context.Err() != nil:
		return console.ErrInterrupted
	case status.Code(err) == codes.DeadlineExceeded, status.Code(err) == codes.Canceled: // by --timeout, or by --wait
		return fmt.Errorf("%w; something may be listening, but it did not answer in time", console.Unreachable(c.Address))
	case status.Code(err) == codes.Unimplemented:
		return status.Errorf(codes.Unimplemented, "%s has no gRPC health service: it is not a tokenbroker", c.Address)
	case err != nil:
		return err
	case res.GetStatus() != healthv1.HealthCheckResponse_SERVING:
		return status.Errorf(codes.Unavailable, "the broker at %s answers, and says that it is %s%s: it is stopping, or its log says why not", c.Address, res.GetStatus(), waited)
	}
	if changes.GetStatus() == healthv1.HealthCheckResponse_NOT_SERVING {
		console.Warn(p, c.Output, "its store takes no changes: tokens that it has are served, and no others; its log says why")
	}
	if c.JSON() {
		return printJSON(p.Stdout, res)
	}
	console.Println(p.Stdout, res.GetStatus())
	return nil
}

// appears waits, for as long as --wait says, until there is somebody to be asked: a broker that is about to start has no socket yet. What is left
// of the wait is for asking.
func (c *HealthCommand) appears(ctx context.Context) error {
	again := time.NewTicker(healthPause)
	defer again.Stop()
	for until := time.Now().Add(c.Wait); c.Address == ""; {
		at, err := c.find(ctx)
		if err != nil || at.sure {
			return err
		}
		if conn, err := (&net.Dialer{Timeout: healthPause}).DialContext(ctx, "tcp", at.address); err == nil {
			return conn.Close()
		}
		if c.Wait = time.Until(until); c.Wait < healthPause {
			c.Wait = healthPause
			return nil
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return nil // who asks next says it
		}
	}
	return nil
}

// ask asks once or, with --wait, until the broker is serving or the wait is over; then what it heard last counts.
func (c *HealthCommand) ask(ctx context.Context, on *client) (*healthv1.HealthCheckResponse, error) {
	health := healthv1.NewHealthClient(on.conn)
	if c.Wait == 0 {
		return health.Check(ctx, &healthv1.HealthCheckRequest{})
	}
	ctx, cancel := context.WithCancel(ctx) // without a deadline, which the broker would hear of and might act upon first
	defer cancel()
	defer time.AfterFunc(c.Wait, cancel).Stop()
	again := time.NewTicker(healthPause)
	defer again.Stop()
	res, err := health.Check(ctx, &healthv1.HealthCheckRequest{})
	for {
		if err == nil && res.GetStatus() == healthv1.HealthCheckResponse_SERVING || status.Code(err) == codes.Unimplemented {
			return res, err
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return res, err
		}
		on.conn.ResetConnectBackoff() // somebody waits, and it is one connection
		nextRes, nextErr := health.Check(ctx, &healthv1.HealthCheckRequest{})
		if nextErr != nil && ctx.Err() != nil {
			return res, err // cut short: it says nothing
		}
		res, err = nextRes, nextErr
	}
}
