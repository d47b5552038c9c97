package suggest_test

import (
	"testing"

	"github.com/tokenbroker/tokenbroker/internal/suggest"
)

func TestNearest(t *testing.T) {
	words := []string{"listen", "data_dir", "upstream.ca_file", "lifetime"}
	for written, want := range map[string]string{
		"lsiten": "listen", "listne": "listen", "LISTEN": "listen", "datadir": "data_dir", "upstream.cafile": "upstream.ca_file",
		"lifetme": "lifetime", "colour": "", "": "", "x": "",
	} {
		if got := suggest.Nearest(written, words); got != want {
			t.Errorf("%q: got %q, want %q", written, got, want)
		}
	}
}
