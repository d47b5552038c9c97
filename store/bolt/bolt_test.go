package bolt_test

import (
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/bolt"
	"github.com/tokenbroker/tokenbroker/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t testing.TB, path string) *bolt.DB {
	t.Helper()
	d, err := bolt.Open(path, bolt.Options{})
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return d
}

func newPath(t testing.TB) string { return filepath.Join(t.TempDir(), "data", "tokenbroker.db") }

func TestSuite(t *testing.T) {
	storetest.Run(t, storetest.Config{Open: func(t *testing.T) store.Backend { return open(t, newPath(t)) }})
}
