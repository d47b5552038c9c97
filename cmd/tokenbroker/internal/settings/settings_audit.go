package settings

import (
	"errors"
	"path/filepath"

	"github.com/tokenbroker/tokenbroker/broker/audit"
)

// Audited reports whether there is an audit log.
func (s *Settings) Audited() bool { return s.AuditFile != "" || s.AuditStdout || s.AuditSyslog != "" }

// auditProblems hands everything that is wrong with the audit log to bad that can be known without making or opening anything, or connecting to it.
func (s *Settings) auditProblems(bad func(setting, format string, args ...any)) {
	if s.AuditIssuance == audit.Required && !s.Audited() {
		bad("audit.issuance", "there is no audit log: set audit.file, audit.stdout or audit.syslog")
	}
	if s.AuditFile != "" {
		s.auditFileProblem(bad)
	}
	if s.AuditSyslog != "" {
		if err := audit.CheckSyslog(s.AuditSyslog); err != nil {
			bad("audit.syslog", "%s", err)
		}
	}
}

func (s *Settings) auditFileProblem(bad func(setting, format string, args ...any)) {
	err := audit.CheckFile(s.AuditFile)
	var missing *audit.NoDirectoryError
	if errors.As(err, &missing) && within(settled(s.DataDir), settled(missing.Path)) {
		err = nil // it is made with the data directory
	}
	if err != nil {
		bad("audit.file", "it cannot be opened for appending: %s%s", err, from(s.AuditFile))
		return
	}
	at := settled(s.AuditFile)
	for _, own := range []string{s.DataDir, s.KeyPath(), s.SocketPath(), filepath.Join(s.DataDir, DataFile), filepath.Join(s.DataDir, AdminSocket)} {
		if own != "" && within(settled(own), at) {
			bad("audit.file", "the broker has something else there: write another path%s", from(s.AuditFile))
			return
		}
	}
}

// settled is a path without links, as far as it leads to something.
func settled(path string) string {
	if whole, err := filepath.Abs(path); err == nil {
		path = whole
	}
	rest := ""
	for {
		if to, err := filepath.EvalSymlinks(path); err == nil {
			return filepath.Join(to, rest)
		}
		dir := filepath.Dir(path)
		if dir == path {
			return filepath.Join(path, rest)
		}
		path, rest = dir, filepath.Join(filepath.Base(path), rest)
	}
}

// within reports whether a path is a directory's, or below it.
func within(path, dir string) bool {
	below, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(below)
}
