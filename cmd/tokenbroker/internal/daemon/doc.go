// Package daemon is a broker as a process. It decides of which parts a broker is made, in which order they begin and end, on which
// addresses it answers, and how it uses memory. It knows nothing of the commands that ask one.
package daemon
