// Package storetest has what every backend of the store is tested with: a suite (Run), a working backend in memory
// (Memory), and one that can be made to fail at each step (Faults).
//
// The suite decides what a backend promises; it knows nothing of any particular one. What a backend cannot do is data in
// its Config.
package storetest
