package settings

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"strings"
	"unicode"

	"github.com/tokenbroker/tokenbroker/internal/readfile"
	"github.com/tokenbroker/tokenbroker/store/redis"
)

// DataFile is the embedded store's file in the data directory, adminSocket where a running broker hands out backups.
const (
	DataFile    = "tokenbroker.db"
	AdminSocket = "admin.sock"
)

// BackupComplete is the trailer of a backup that is whole: a copy without it counts as broken.
const BackupComplete = "X-Backup-Complete"

// embedded is the store that needs no other process.
const embedded = "embedded"

// IsEmbedded reports whether it is the store that needs no other process.
func (s *StoreSettings) IsEmbedded() bool { return s.Store == "" || s.Store == embedded }

// RedisProblems hands everything that is wrong with them to bad.
func (s *StoreSettings) RedisProblems(bad func(setting, format string, args ...any)) {
	if s.RedisWaitReplicas < 0 || s.RedisWaitReplicas > waitReplicasMost {
		bad("redis.wait_replicas", "must be from 0 to %d", waitReplicasMost)
	}
	if strings.ContainsFunc(s.RedisPrefix, func(r rune) bool { return r <= ' ' || !unicode.IsPrint(r) || strings.ContainsRune("{}*?[]", r) }) || s.RedisPrefix == "" {
		bad("redis.prefix", "must not be empty, nor have blanks, control characters, braces or wildcards in it")
	}
	if s.IsEmbedded() {
		return
	}
	a, err := redis.ParseAddress(s.Store)
	if err != nil {
		bad("store", "neither %s nor a Redis: %s", embedded, err)
		return
	}
	if (s.RedisCertFile == "") != (s.RedisKeyFile == "") {
		bad("redis.cert_file", "a certificate needs its key (redis.key_file), and the key its certificate")
	}
	if !a.TLS && (s.RedisCAFile != "" || s.RedisCertFile != "") {
		bad("redis.ca_file", "the address of the store says no TLS: write rediss:// instead of redis://")
	}
	var wrong *wrongFile
	if _, err := s.RedisOptions(); errors.As(err, &wrong) {
		bad(wrong.setting, "%s", wrong.why)
	}
}

// A wrongFile says which setting names a file that cannot be used, and why, and not which file: somebody may have put a secret there.
type wrongFile struct{ setting, why string }

func (e *wrongFile) Error() string { return "setting " + e.setting + ": " + e.why }

func unread(setting string, err error) error {
	return &wrongFile{setting, "its file cannot be read: " + readfile.Why(err).Error()}
}

// RedisOptions are those of the Redis that the settings name.
func (s *StoreSettings) RedisOptions() (o redis.Options, err error) {
	if o.Address, err = redis.ParseAddress(s.Store); err != nil {
		return o, err
	}
	o.Username, o.SentinelUsername = s.RedisUsername, s.RedisSentinelUsername
	o.Prefix, o.WaitReplicas, o.AcceptLoss = s.RedisPrefix, s.RedisWaitReplicas, s.RedisAcceptLoss
	if o.Password, err = secretFile("redis.password_file", s.RedisPasswordFile); err != nil {
		return o, err
	}
	if o.SentinelPassword, err = secretFile("redis.sentinel_password_file", s.RedisSentinelPasswordFile); err != nil {
		return o, err
	}
	if o.Address.TLS {
		o.TLS, err = s.redisTLS()
	}
	return o, err
}

func (s *StoreSettings) redisTLS() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if s.RedisCAFile != "" {
		pem, err := readfile.Read(s.RedisCAFile, pemMost)
		if err != nil {
			return nil, unread("redis.ca_file", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, &wrongFile{"redis.ca_file", "its file has no certificate in PEM"}
		}
	}
	if s.RedisCertFile != "" {
		if _, err := tls.LoadX509KeyPair(s.RedisCertFile, s.RedisKeyFile); err != nil {
			return nil, &wrongFile{"redis.cert_file", "its file and that of redis.key_file cannot be used together: " + readfile.Why(err).Error()}
		}
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(s.RedisCertFile, s.RedisKeyFile) // it may have been renewed
			return &pair, err
		}
	}
	return c, nil
}

// The most that these files may have: far more than any that is right.
const (
	pemMost    = 16 << 20
	secretMost = 64 << 10
)

// secretFile is the first line of a file; empty: none is named.
func secretFile(setting, name string) (string, error) {
	if name == "" {
		return "", nil
	}
	data, err := readfile.Read(name, secretMost)
	if err != nil {
		return "", unread(setting, err)
	}
	line, _, _ := strings.Cut(string(data), "\n")
	if line = strings.TrimSuffix(line, "\r"); line == "" {
		return "", &wrongFile{setting, "its file is empty"}
	}
	return line, nil
}
