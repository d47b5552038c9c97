// Package audit keeps the audit log: who was given what, who was refused, and what was changed, a line of JSON each (docs/audit.md). It decides when a
// line counts as written, what is counted instead of written, and what becomes of lines while nothing can be written. It knows nothing of who may do
// what, of stores, and of how anybody came here.
//
//	Log ── a line, its number ──▶ queue ── batches ──▶ sink: a file, standard output, or a syslog
//
// Each sink has a queue, and each queue a goroutine, so that one that hangs holds up no other.
package audit
