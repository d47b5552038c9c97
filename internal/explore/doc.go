// Package explore runs two or three brokers on one store in virtual time, and decides at each of their steps who goes on and
// what happens: a crash, a stop, a lost answer, a failover, a caller who invalidates. It holds what came of it against what the
// life of a token promises, and shrinks what breaks a promise to a few lines that can be run again.
// A promise that is broken is excused by what has happened in the schedule, never by what could have: by a marker that a failover did
// undo, say, and not by the failover.
//
// A step is a call of the store, a request to the upstream, or its answer. By itself a schedule lets every step go on at once, one
// broker until it waits, then the next. A Deviation says what happens at one step instead, which it names by broker, kind and
// number: "0 commit#2 = failover 1 1s". So a schedule is a scenario and a few deviations, and stays the same where the code between
// the steps changes. Random says by a hash of a seed and a step's name whether there is a deviation; the others are listed.
//
// It knows the brokers' public surface, the store's backends, and nothing of how either works within: what a Backend is stands
// in backend.go, and what an upstream is in upstream.go. It is a tool for tests and imports testing.
package explore
