package provider

import (
	"slices"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/provider/transport"
)

// Host implements broker.Definition.
func (d *definition) Host(c broker.Credential, sel broker.Selection) string {
	v := newValues(d.let)
	d.give(v, c, sel)
	qs := slices.Concat(d.obtain, d.refresh)
	if len(qs) == 0 {
		return ""
	}
	for _, q := range qs {
		if u, err := d.url(q.target().place(), v); err == nil {
			return transport.HostPort(u)
		}
	}
	return "unknown"
}
