// Package gate bounds what upstreams are asked: so many exchanges at a time, a declared rate, and nothing while an upstream is known to be failing, but
// for one exchange that finds out whether it is well again. Credentials that wait take turns.
//
// Whoever wants to make an exchange takes a Place, waits until it is in, and leaves it with what became of the exchange. It knows no store: what other
// brokers know of an upstream comes in as Advice, and what all are to know goes out as a Finding.
package gate
