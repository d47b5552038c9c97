//go:build !unix

package daemon

import "log/slog"

func noCoreDumps(*slog.Logger) {}
