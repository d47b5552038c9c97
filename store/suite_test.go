package store_test

import (
	"testing"

	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/storetest"
)

// TestSuite runs what every backend has to pass on the one in memory.
func TestSuite(t *testing.T) {
	storetest.Run(t, storetest.Config{Open: func(t *testing.T) store.Backend {
		m := storetest.NewMemory()
		t.Cleanup(func() {
			if err := m.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		})
		return m
	}})
}

// TestSuiteShared runs it on a memory that several brokers share.
func TestSuiteShared(t *testing.T) {
	storetest.Run(t, storetest.Config{Open: func(*testing.T) store.Backend { return storetest.NewReplicas(1)[0] }})
}
