// Package audit keeps the audit log: who was given what, who was refused, and what was changed, a line of JSON each (docs/audit.md).
package audit
