package settings

import (
	"cmp"
	"errors"
	"os"
	"path/filepath"
	"strings"

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
		network, address, err := audit.SyslogAt(s.AuditSyslog)
		switch {
		case err != nil:
			bad("audit.syslog", "%s", err)
		case s.answersAt(network, address):
			bad("audit.syslog", "the broker itself answers there: write where a syslog is")
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
	if s.isOwn(s.AuditFile) {
		bad("audit.file", "the broker has something else there: write another path%s", from(s.AuditFile))
	}
}

// settled is a path without links, as far as it leads to something, and where a link leads to that leads to nothing yet. What is before .. may be a link, so that
// nothing is shortened before.
func settled(path string) string {
	const slash = string(filepath.Separator)
	if here, err := os.Getwd(); err == nil && !filepath.IsAbs(path) {
		path = here + slash + path
	}
	rest := ""
	for range 256 { // more than any system follows
		path = cmp.Or(strings.TrimRight(path, slash), slash)
		if to, err := filepath.EvalSymlinks(path); err == nil {
			return filepath.Join(to, rest)
		}
		dir, name := filepath.Split(path)
		if to, err := os.Readlink(path); err != nil {
			path, rest = dir, filepath.Join(name, rest)
		} else if path = to; !filepath.IsAbs(to) {
			path = dir + to
		}
	}
	return filepath.Join(path, rest)
}

// within reports whether a path is a directory's, or below it.
func within(path, dir string) bool {
	below, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(below)
}
