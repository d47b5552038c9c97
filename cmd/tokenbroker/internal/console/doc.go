// Package console is what a command works with. It decides how errors are told and with which code a command ends, how what is
// typed or piped in is read, and how values are shown on a terminal. It knows no command.
package console
