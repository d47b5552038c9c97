package storetest

import "testing"

func runProtocol(t *testing.T, c Config) {}
