package redis

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"
)

// Exposed is what somebody could make use of, or lose, at a Redis as it runs. The zero value: nothing that could be seen.
type Exposed struct {
	// Addresses are where it is asked: those of the settings, and those of the masters to which they lead.
	Addresses []string
	// TLS: it is asked by TLS.
	TLS bool
	// Anybody: it shows this broker's rows to whoever connects, without a password and without a certificate.
	Anybody bool
	// Default: the broker is the user default.
	Default bool
	// May is what the user may do and need not, for people. It was tried, with commands that change nothing.
	May []string
	// Evicts and Loses are settings of masters by which rows get lost, as NAME VALUE; empty: none does.
	Evicts, Loses []string
	// Unseen is what may not be looked at, for people.
	Unseen []string
}

// Exposed looks at it, beside everything else, and changes nothing. It fails with StoreUnavailable.
func (db *DB) Exposed(ctx context.Context) (Exposed, error) {
	o := db.options
	e := Exposed{Addresses: slices.Clone(o.Address.Hosts), TLS: o.Address.TLS}
	user := o.Username
	if user == "" {
		user = o.Address.username
	}
	e.Default = user == "" || user == "default"
	var mu sync.Mutex
	err := db.eachMaster(ctx, func(ctx context.Context, c redis.Cmdable) error {
		d, err := db.durability(ctx, c)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		switch {
		case d == nil:
			e.Unseen = add(e.Unseen, "the configuration of Redis: CONFIG GET is not allowed")
		default:
			if d.evicts() {
				e.Evicts = add(e.Evicts, fmt.Sprintf("maxmemory-policy %.40s", d.policy))
			}
			if d.loses() {
				e.Loses = add(e.Loses, fmt.Sprintf("appendonly %.10s, appendfsync %.10s", d.only, d.sync))
			}
		}
		if one, ok := c.(*redis.Client); ok && db.cluster != nil {
			e.Addresses = add(e.Addresses, one.Options().Addr)
		}
		return nil
	})
	if err != nil {
		return e, failed(ctx, err)
	}
	if o.Address.Master != "" {
		if at := db.master(ctx); at != "" {
			e.Addresses = add(e.Addresses, at)
		}
	}
	for _, x := range []struct {
		what string
		ask  func() error
	}{
		{"commands of administrators (LASTSAVE)", func() error { return db.client.LastSave(ctx).Err() }},
		{"keys of others (GET of a key without the prefix)", func() error { return db.client.Get(ctx, "not-"+o.Prefix+":probe").Err() }},
	} {
		switch err := x.ask(); {
		case err == nil, errors.Is(err, redis.Nil):
			e.May = append(e.May, x.what)
		case !said(err):
			return e, failed(ctx, err)
		}
	}
	e.Anybody = db.showsAnybody(ctx)
	return e, nil
}

func add(to []string, s string) []string {
	if slices.Contains(to, s) {
		return to
	}
	return append(to, s)
}

// said reports whether it is Redis itself that has refused.
func said(err error) bool {
	var by redis.Error
	return errors.As(err, &by)
}

// master is the address at which a master has this connection, as it says; empty: it does not.
func (db *DB) master(ctx context.Context) string {
	info, err := db.client.Do(ctx, "CLIENT", "INFO").Text()
	if err != nil {
		return ""
	}
	for word := range strings.FieldsSeq(info) {
		if at, ok := strings.CutPrefix(word, "laddr="); ok {
			return at
		}
	}
	return ""
}

// showsAnybody tries to read as somebody who has nothing to show.
func (db *DB) showsAnybody(ctx context.Context) bool {
	o := db.options
	o.Username, o.Password, o.Address.username, o.Address.password, o.Connections = "", "", "", "", 1
	if o.TLS != nil {
		o.TLS = o.TLS.Clone()
		o.TLS.Certificates, o.TLS.GetClientCertificate = nil, nil
	} else if o.Address.TLS {
		o.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	u := o.universal()
	u.MinIdleConns = 0
	c := connect(u)
	defer func() { _ = c.Close() }()
	ctx, cancel := context.WithTimeout(ctx, 2*o.Timeout)
	defer cancel()
	err := c.Get(ctx, db.keys.sweep()).Err()
	return err == nil || errors.Is(err, redis.Nil)
}
