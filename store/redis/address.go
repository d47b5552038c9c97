package redis

import (
	"errors"
	"math"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// An Address says where Redis is. It is made by ParseAddress.
type Address struct {
	// Hosts are host:port of the server, of the Sentinels, or of some nodes of the Cluster.
	Hosts []string
	// Master is the name under which the Sentinels know the master; empty: there are none.
	Master string
	// Cluster: it is a Cluster, also where Hosts names one node only.
	Cluster bool
	// TLS: it speaks TLS.
	TLS bool
	// Database is the number of the logical database; a Cluster has none but 0.
	Database int

	username, password string
}

// AddressForms are what ParseAddress reads, for help texts.
const AddressForms = "redis://HOST:PORT/DB, redis+sentinel://HOST:PORT,…/MASTER, redis+cluster://HOST:PORT,…; rediss for TLS"

const (
	defaultPort         = "6379"
	defaultSentinelPort = "26379"
)

// ParseAddress reads an address: redis://[user:password@]host[:port][/database], redis+sentinel://host[:port],…/master[/database],
// or redis+cluster://host[:port],…; rediss:// instead of redis:// for TLS. Its errors never quote the address, which may
// hold a password.
func ParseAddress(text string) (Address, error) {
	scheme, rest, ok := strings.Cut(text, "://")
	kind, plain := strings.CutPrefix(scheme, "redis")
	if !ok || !plain {
		return Address{}, errors.New("not an address of a Redis: write " + AddressForms)
	}
	var a Address
	kind, a.TLS = strings.CutPrefix(kind, "s")
	port := defaultPort
	switch kind {
	case "":
	case "+sentinel":
		port = defaultSentinelPort
	case "+cluster":
		a.Cluster = true
	default:
		return Address{}, errors.New("not an address of a Redis: write " + AddressForms)
	}
	if strings.ContainsAny(rest, "?#") {
		return Address{}, errors.New("an address of a Redis has no parameters: use the settings redis.*")
	}
	if i := strings.LastIndex(rest, "@"); i >= 0 {
		if err := a.user(rest[:i]); err != nil {
			return Address{}, err
		}
		rest = rest[i+1:]
	}
	hosts, path, _ := strings.Cut(rest, "/")
	for h := range strings.SplitSeq(hosts, ",") {
		host, err := hostPort(h, port)
		if err != nil {
			return Address{}, err
		}
		a.Hosts = append(a.Hosts, host)
	}
	if kind == "" && len(a.Hosts) > 1 {
		return Address{}, errors.New("several hosts: write redis+cluster:// for a Cluster, or redis+sentinel:// for Sentinels")
	}
	return a, a.path(kind, strings.TrimSuffix(path, "/"))
}

func (a *Address) user(text string) error {
	name, password, _ := strings.Cut(text, ":")
	var err1, err2 error
	a.username, err1 = url.PathUnescape(name)
	a.password, err2 = url.PathUnescape(password)
	if err1 != nil || err2 != nil {
		return errors.New("the user or password of the address is not well-formed: write % as %25, or use redis.password_file")
	}
	return nil
}

func hostPort(text, port string) (string, error) {
	if host, p, err := net.SplitHostPort(text); err == nil {
		if n, err := strconv.Atoi(p); host == "" || err != nil || n < 1 || n > 65535 {
			return "", errors.New("the address names a host that is not host:port, with a port from 1 to 65535")
		}
		return text, nil
	}
	host := text
	if inner, bracketed := strings.CutPrefix(text, "["); bracketed && strings.HasSuffix(inner, "]") {
		host = strings.TrimSuffix(inner, "]") // an IPv6 address (RFC 3986 section 3.2.2)
	}
	if host == "" || strings.ContainsAny(host, "[]@/ ") || strings.Count(host, ":") == 1 {
		return "", errors.New("the address names no host, or one that is not host:port")
	}
	return net.JoinHostPort(host, port), nil
}

func (a *Address) path(kind, path string) error {
	parts := slices.DeleteFunc(strings.Split(path, "/"), func(s string) bool { return s == "" })
	if kind == "+sentinel" {
		if len(parts) == 0 {
			return errors.New("the address does not name the master that the Sentinels watch: write redis+sentinel://HOST:PORT,…/MASTER")
		}
		a.Master, parts = parts[0], parts[1:]
	}
	switch {
	case len(parts) == 0:
		return nil
	case len(parts) > 1:
		return errors.New("the address has more after its host than a database")
	}
	n, err := strconv.Atoi(parts[0])
	if err != nil || n < 0 || n > math.MaxInt32 {
		return errors.New("the address's database is not a number that one can have")
	}
	if a.Cluster && n > 0 {
		return errors.New("a Redis Cluster has no database but 0")
	}
	a.Database = n
	return nil
}

// String is the address without user and password.
func (a Address) String() string {
	scheme := "redis"
	if a.TLS {
		scheme = "rediss"
	}
	path := ""
	switch {
	case a.Cluster:
		scheme += "+cluster"
	case a.Master != "":
		scheme += "+sentinel"
		path = "/" + a.Master
	}
	if a.Database > 0 {
		path += "/" + strconv.Itoa(a.Database)
	}
	return scheme + "://" + strings.Join(a.Hosts, ",") + path
}

// HasPassword reports whether the address has one in it.
func (a Address) HasPassword() bool { return a.password != "" }

// GoString keeps %#v from printing the password.
func (a Address) GoString() string { return a.String() }
