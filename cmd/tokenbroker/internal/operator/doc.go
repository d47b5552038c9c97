// Package operator is the commands of whoever looks after a broker: they ask one that runs, or open what it stores. It decides what
// an operator is asked for and shown, and that no secret stands on a command line or is printed. It knows nothing of how a broker is
// made.
package operator
