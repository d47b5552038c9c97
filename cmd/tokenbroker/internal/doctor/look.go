package doctor

import (
	"context"
	"crypto/x509"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/tokenbroker/tokenbroker/broker/policy"
	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/settings"
	"github.com/tokenbroker/tokenbroker/store/redis"
)

// A Broker is one that runs, as it is now.
type Broker struct {
	Settings settings.Settings
	// Alone: it is the first process of a container. Nobody else is in there, and volumes come with directories that all may write to.
	Alone bool
	// TCP are the addresses on which it answers callers who prove nothing.
	TCP []string
	// Policy is nil where there is none.
	Policy *Policy
	Doors  []Door
	// Audit is nil where there is none.
	Audit *Audit
	// Redis looks at it; nil: the store is a file.
	Redis func(ctx context.Context) (redis.Exposed, error)
}

// A Policy is what is in force.
type Policy struct {
	Status policy.Status
	Grants []policy.Grant
}

// A Door is what a listener shows and believes.
type Door struct {
	Name    string
	Own     *x509.Certificate
	Trusted map[string][]*x509.Certificate
	Stale   bool
	// ListBegan and ListEnds are the life of the revocation list that is to be followed by another first; zero: there is none.
	ListBegan, ListEnds time.Time
}

// Audit is how the audit log is doing.
type Audit struct {
	Away    bool
	Lost    int64
	Problem string
}

// most bounds a look: a Redis that hangs, and names that are looked up.
const most = 15 * time.Second

// Look looks at a broker by which it is called: at its files, its process, and what it says of itself.
func Look(ctx context.Context, b Broker, now time.Time) Report {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	r := Report{Findings: []Finding{}, Looked: []string{}, Unseen: []Unseen{}, alone: b.Alone}
	r.files(&b.Settings)
	r.beside(&b.Settings)
	r.redis(ctx, b)
	r.policy(b)
	r.certificates(b, now)
	r.audit(ctx, b)
	r.upstreams(ctx, &b.Settings)
	r.room(&b.Settings)
	r.process(&b.Settings)
	r.sort()
	return r
}

// isHere reports whether a host is this machine by loopback: what goes there is on no network.
func isHere(ctx context.Context, host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if ip, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return ip.Unmap().IsLoopback()
	}
	all, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	for _, ip := range all {
		if !ip.Unmap().IsLoopback() {
			return false
		}
	}
	return err == nil && len(all) > 0
}

// redis looks at it as it runs.
func (r *Report) redis(ctx context.Context, b Broker) {
	if b.Redis == nil {
		return
	}
	e, err := b.Redis(ctx)
	if !e.TLS {
		for _, a := range e.Addresses {
			if !isHere(ctx, a) {
				r.found(RedisPlain, "Redis at %s is asked without TLS", a)
			}
		}
	}
	at := strings.Join(e.Addresses, ", ")
	if err != nil {
		r.unseen(true, "Redis at "+at, err.Error())
		return
	}
	switch {
	case e.Anybody:
		r.found(RedisNoPassword, "Redis at %s shows the broker's rows to whoever connects, without a password", at)
	case e.Default:
		r.found(RedisDefaultUser, "the broker is the user default at the Redis at %s", at)
	}
	if len(e.May) > 0 && !e.Default {
		r.found(RedisUserWide, "the broker's user at the Redis at %s may use %s, and needs none of it", at, strings.Join(e.May, " and "))
	}
	for _, s := range e.Loses {
		r.found(RedisLoses, "a master of the Redis at %s can lose what it has acknowledged: %s", at, s)
	}
	for _, s := range e.Evicts {
		r.found(RedisEvicts, "a master of the Redis at %s throws rows away when memory is short: %s", at, s)
	}
	for _, u := range e.Unseen {
		r.unseen(false, u, "see docs/redis.md for the rights of the broker's user")
	}
	r.looked("Redis at %s: TLS, password, the user's rights, what it keeps", at)
}

// upstreams looks at what is sent without TLS.
func (r *Report) upstreams(ctx context.Context, s *settings.Settings) {
	if s.Collected() {
		if address, tls, err := s.Collector(); err == nil && tls == nil && !isHere(ctx, address) {
			r.found(TracesPlain, "traces go to %s without TLS", address)
		}
	}
	for _, host := range s.UpstreamAllowHTTP {
		if !isHere(ctx, host) {
			r.found(UpstreamPlain, "upstream.allow_http lets %s be asked without TLS", host)
		}
	}
}

// audit looks at where it goes, and how it is doing.
func (r *Report) audit(ctx context.Context, b Broker) {
	s := &b.Settings
	if b.Audit == nil {
		r.found(AuditOff, "there is no audit log")
		return
	}
	if b.Audit.Away {
		r.found(AuditLost, "no sink of the audit log can be written: %s", b.Audit.Problem)
	} else if b.Audit.Lost > 0 {
		r.found(AuditLost, "no sink of the audit log has %d of its lines", b.Audit.Lost)
	}
	host, remote := strings.CutPrefix(s.AuditSyslog, "tcp://")
	if remote && !isHere(ctx, host) {
		r.found(AuditPlain, "the audit log goes to %s over plain TCP", s.AuditSyslog)
	}
	if remote && s.AuditFile == "" && !s.AuditStdout {
		r.found(AuditUnconfirmed, "the only sink of the audit log is %s, which acknowledges nothing", s.AuditSyslog)
	}
	r.looked("audit log")
}
