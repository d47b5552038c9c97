// Package bolt keeps the store's sealed rows in one file, for a broker that runs alone on its machine.
//
// It decides how rows lie in a bbolt file, when they are on the disk (before Apply returns), who may have the file open (one
// process), and when rows whose time is over make room. It knows nothing of what is in a row.
//
// Rows end by the wall clock, because they outlive the process; a clock that is set back makes leases last longer until the
// next start, which releases them.
package bolt
