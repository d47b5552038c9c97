package transport

import (
	"crypto/x509"
	"os"
	"sync"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/readfile"
)

// roots are the connections that trust what CAFile says now. Safe for concurrent use.
type roots struct {
	mu      sync.Mutex
	current *connections
	seen    seen
}

// seen is how a file looked when it was read; certificates that rotate are put in another's place.
type seen struct {
	at   time.Time
	size int64
}

func seenOf(file string) seen {
	if file == "" {
		return seen{}
	}
	i, err := os.Stat(file)
	if err != nil {
		return seen{}
	}
	return seen{i.ModTime(), i.Size()}
}

// connections returns those that trust the CA file as it is. One that is gone, or became wrong, goes on being trusted as it was. Those
// who are asking finish on the connections that they have.
func (t *Transport) connections() *connections {
	t.roots.mu.Lock()
	defer t.roots.mu.Unlock()
	now := seenOf(t.settings.CAFile)
	if now == t.roots.seen || now == (seen{}) {
		return t.roots.current
	}
	t.roots.seen = now
	if trusted, err := rootsWith(t.settings.CAFile); err == nil {
		former := t.roots.current
		t.roots.current = t.make(trusted)
		former.close()
	}
	return t.roots.current
}

// pemMost is far more than all roots of the world are.
const pemMost = 16 << 20

func rootsWith(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil //nolint:nilnil // nil means the system's roots
	}
	pem, err := readfile.Read(file, pemMost)
	if err != nil {
		return nil, wrongSetting("upstream.ca_file", "its file cannot be read: %w", readfile.Why(err))
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if !roots.AppendCertsFromPEM(pem) {
		return nil, wrongSetting("upstream.ca_file", "its file has no certificate in PEM")
	}
	return roots, nil
}
