package provider

import (
	"testing"

	"github.com/tokenbroker/tokenbroker/provider/transport"
)

func TestEveryBuiltinLoads(t *testing.T) {
	tr, err := transport.New(transport.Settings{})
	if err != nil {
		t.Fatal(err)
	}
	c, err := Load(tr, "")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, e := range c.List() {
		n++
		for _, p := range e.Problems {
			t.Error(p)
		}
		if d, err := c.Definition(e.Name); err != nil || d.Facts().Digest == "" {
			t.Errorf("%s: %v", e.Name, err)
		}
	}
	if n != 11 {
		t.Errorf("got %d definitions, want 11", n)
	}
}
