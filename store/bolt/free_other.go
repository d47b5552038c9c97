//go:build !(darwin || linux)

package bolt

// freeAt does not know.
func freeAt(string) (uint64, bool) { return 0, false }
