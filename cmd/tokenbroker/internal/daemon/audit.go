package daemon

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/audit"
	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	"github.com/tokenbroker/tokenbroker/server"
)

// auditor is who keeps the audit log; without one, nobody does.
func (r *Running) auditor(bg context.Context) (broker.Auditor, error) {
	s := r.settings
	if !s.Audited() {
		return broker.Unaudited{}, nil
	}
	of := audit.Settings{
		File: s.AuditFile, Syslog: s.AuditSyslog, Issuance: s.AuditIssuance, Log: r.log, Request: server.RequestIDs,
		Policy: func() string {
			if r.policy == nil {
				return ""
			}
			return r.policy.Status().Digest
		},
	}
	if s.AuditStdout {
		signal.Ignore(syscall.SIGPIPE) // whoever reads it may leave: that is no reason to end
		of.Stdout = os.Stdout
	}
	log, err := audit.New(of)
	if err != nil {
		return nil, console.WrongInput(err)
	}
	r.audit = log
	r.cleanup = append(r.cleanup, log.Close)
	r.background.Go(func() { log.Run(bg) })
	if r.policy != nil {
		r.background.Go(func() { r.auditPolicy(bg, log) })
	}
	return log, nil
}

// auditPolicy notes by which policy is decided, until ctx ends.
func (r *Running) auditPolicy(ctx context.Context, to broker.Auditor) {
	for {
		changed := r.policy.Changes()
		to.Note(ctx, broker.AuditRecord{Event: broker.AuditPolicy})
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}
