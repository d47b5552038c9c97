package settings

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/tokenbroker/tokenbroker/broker/engine"
	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	"github.com/tokenbroker/tokenbroker/internal/yamldoc"
	"github.com/tokenbroker/tokenbroker/provider/transport"
	"github.com/tokenbroker/tokenbroker/server"
	"github.com/tokenbroker/tokenbroker/store/redis"
)

// Settings are the broker's. Each is a flag, an environment variable and a word of the settings file, where a dot or a nested
// mapping stands for the flag's first part: --upstream-ca-file is upstream.ca_file.
type Settings struct {
	// At is where in the settings file a value stands that came from there, by flag.
	At map[string]Position `kong:"-"`
	// File is the settings file; empty: there is none.
	File string `kong:"-"`
	// InFile is what is wrong with the settings file, beside what it sets.
	InFile []yamldoc.Problem `kong:"-"`
	// Unknown are sentences about environment variables that look like settings and are none.
	Unknown []string `kong:"-"`
	// Blank are sentences about environment variables that are set to nothing.
	Blank []string `kong:"-"`
	// Listeners are of the file only.
	Listeners `kong:"-"`
	// TokensInCache is how many tokens fit into memory; 0: the broker's own bound.
	TokensInCache int `kong:"-"`
	// Capacity is what is kept for those who are connected; zero: the server's own bounds.
	Capacity server.Capacity `kong:"-"`
	// Flights is how many tokens may be fetched at a time, by the memory there is; 0: the broker's own bound.
	Flights int `kong:"-"`

	DataDir         string        `type:"place" name:"data-dir" env:"TOKENBROKER_DATA_DIR" default:"${data_dir}" help:"Where the embedded store, its key and the sockets are. Made with mode 0700."`
	Listen          []string      `type:"given" off:"none" env:"TOKENBROKER_LISTEN" default:"${address}" help:"Addresses to answer gRPC on. Without authentication: loopback only. none: the socket only."`
	Socket          string        `type:"place" off:"none" env:"TOKENBROKER_SOCKET" default:"auto" help:"Unix socket to answer gRPC on, mode 0600. auto: tokenbroker.sock in the data directory; none: no socket."`
	MetricsListen   string        `type:"given" off:"none" name:"metrics-listen" env:"TOKENBROKER_METRICS_LISTEN" default:"${metrics_address}" help:"Where /metrics is; none: nowhere."`
	ProbesListen    string        `type:"given" off:"none" name:"probes-listen" env:"TOKENBROKER_PROBES_LISTEN" default:"none" help:"Where other machines, such as a kubelet or Prometheus, find /livez, /readyz and /metrics, and nothing else: any address, such as :7422. none: nowhere."`
	PolicyFile      string        `type:"place" name:"policy-file" env:"TOKENBROKER_POLICY_FILE" help:"Who may do what with which credential; reloaded on change. Without one, callers on this machine may do everything, and others nothing."`
	ProvidersDir    string        `type:"place" name:"providers-dir" env:"TOKENBROKER_PROVIDERS_DIR" help:"Directory with provider definitions of your own; reloaded on change."`
	KeyFile         string        `type:"place" name:"key-file" env:"TOKENBROKER_KEY_FILE" default:"auto" help:"The key that seals what is stored. auto: key.json in the data directory, made at the first start. Back it up, apart from the data. With keys.kek there is none."`
	LogLevel        string        `type:"given" name:"log-level" env:"TOKENBROKER_LOG_LEVEL" default:"info" enum:"debug,info,warn,error" help:"debug, info, warn or error."`
	LogFormat       string        `type:"given" name:"log-format" env:"TOKENBROKER_LOG_FORMAT" default:"auto" enum:"auto,json,text" help:"json, text, or auto: text on a terminal."`
	ShutdownTimeout time.Duration `name:"shutdown-timeout" env:"TOKENBROKER_SHUTDOWN_TIMEOUT" default:"25s" help:"How long a stop waits for exchanges to be committed, from ${shutdown_least} to ${shutdown_most}."`
	ShutdownGrace   time.Duration `name:"shutdown-grace" env:"TOKENBROKER_SHUTDOWN_GRACE" default:"0s" help:"How long a stop answers on after health says NOT_SERVING, at most ${shutdown_most}."`
	ExchangeTimeout time.Duration `name:"exchange-timeout" env:"TOKENBROKER_EXCHANGE_TIMEOUT" default:"${exchange_timeout}" help:"Bound of one exchange with an upstream, from ${exchange_least} to ${exchange_most}."`

	StoreSettings
	KeysSettings
	CacheBound  time.Duration `name:"cache-bound" env:"TOKENBROKER_CACHE_BOUND" default:"${cache_bound}" help:"With Redis: how long a token in the process is relied on before Redis is asked whether it is still good. What is asked for often is confirmed in the background. At most ${cache_bound_most}."`
	OutageGrace time.Duration `name:"outage-grace" env:"TOKENBROKER_OUTAGE_GRACE" default:"5m" help:"With Redis: for how long beyond that valid tokens go on being served while Redis cannot be reached. 0 turns this off, if you prefer no token to a revoked one. At most ${outage_grace_most}."`

	UpstreamConnectTo    map[string]string `type:"given" name:"upstream-connect-to" env:"TOKENBROKER_UPSTREAM_CONNECT_TO" mapsep:"," help:"host:port=ip:port: dial there when a definition asks host:port. The name stays what it is for TLS."`
	UpstreamCAFile       string            `type:"place" name:"upstream-ca-file" env:"TOKENBROKER_UPSTREAM_CA_FILE" help:"Roots in PEM to trust beside the system's."`
	UpstreamAllowHTTP    []string          `type:"given" name:"upstream-allow-http" env:"TOKENBROKER_UPSTREAM_ALLOW_HTTP" help:"Hosts that may be asked without TLS."`
	UpstreamAllowPrivate []netip.Prefix    `type:"given" name:"upstream-allow-private" env:"TOKENBROKER_UPSTREAM_ALLOW_PRIVATE" help:"Private ranges that may be dialled, such as 10.1.0.0/16."`
	UpstreamConcurrency  int               `name:"upstream-concurrency" env:"TOKENBROKER_UPSTREAM_CONCURRENCY" default:"${upstream_concurrency}" help:"Exchanges that one upstream may have at a time, from 1 to ${concurrency_most}."`

	AuditFile     string `type:"place" name:"audit-file" env:"TOKENBROKER_AUDIT_FILE" help:"File for the audit log, a line of JSON for each event; opened anew at SIGHUP. See docs/audit.md."`
	AuditStdout   bool   `name:"audit-stdout" env:"TOKENBROKER_AUDIT_STDOUT" help:"Write the audit log to standard output."`
	AuditSyslog   string `type:"given" name:"audit-syslog" env:"TOKENBROKER_AUDIT_SYSLOG" help:"Write the audit log to syslog: local, unix:///PATH or tcp://HOST:PORT."`
	AuditIssuance string `type:"given" name:"audit-issuance" env:"TOKENBROKER_AUDIT_ISSUANCE" default:"counted" enum:"counted,required" help:"counted: the first use of a token by a caller is written soon. required: before it is handed out."`

	TracesSettings

	LimitsConcurrentStreams uint32        `name:"limits-concurrent-streams" env:"TOKENBROKER_LIMITS_CONCURRENT_STREAMS" default:"${concurrent_streams}" help:"Calls that may run at a time on one connection, from 1 to ${streams_most}."`
	LimitsCallerRate        int           `name:"limits-caller-rate" env:"TOKENBROKER_LIMITS_CALLER_RATE" default:"${caller_rate}" help:"Calls a second, ten times as many at once, that one caller may make and the process alone cannot answer: new tokens, changes, questions to the store. At most ${caller_rate_most}; 0 is the default."`
	LimitsMessageBytes      int           `name:"limits-message-bytes" env:"TOKENBROKER_LIMITS_MESSAGE_BYTES" default:"${message_bytes}" help:"Size of a request, from 1024 to ${message_bytes_most}."`
	LimitsConnectionAge     time.Duration `name:"limits-connection-age" env:"TOKENBROKER_LIMITS_CONNECTION_AGE" default:"${connection_age}" help:"Maximum connection age; clients then reconnect, so balancers find new replicas. From ${connection_age_least} to ${connection_age_most}."`
}

// StoreSettings say where the data are, for whoever opens them.
type StoreSettings struct {
	Store string `type:"given" env:"TOKENBROKER_STORE" default:"embedded" help:"embedded: a file in the data directory, for one broker. Or the Redis that several brokers share: ${redis_forms}."`

	RedisUsername             string `type:"given" name:"redis-username" env:"TOKENBROKER_REDIS_USERNAME" help:"ACL user."`
	RedisPasswordFile         string `type:"place" name:"redis-password-file" env:"TOKENBROKER_REDIS_PASSWORD_FILE" help:"File with the password."`
	RedisSentinelUsername     string `type:"given" name:"redis-sentinel-username" env:"TOKENBROKER_REDIS_SENTINEL_USERNAME" help:"ACL user at the Sentinels."`
	RedisSentinelPasswordFile string `type:"place" name:"redis-sentinel-password-file" env:"TOKENBROKER_REDIS_SENTINEL_PASSWORD_FILE" help:"File with the password for the Sentinels."`
	RedisCAFile               string `type:"place" name:"redis-ca-file" env:"TOKENBROKER_REDIS_CA_FILE" help:"Roots in PEM to trust instead of the system's."`
	RedisCertFile             string `type:"place" name:"redis-cert-file" env:"TOKENBROKER_REDIS_CERT_FILE" help:"Client certificate in PEM; read again for each connection."`
	RedisKeyFile              string `type:"place" name:"redis-key-file" env:"TOKENBROKER_REDIS_KEY_FILE" help:"Its key in PEM."`
	RedisPrefix               string `type:"given" name:"redis-prefix" env:"TOKENBROKER_REDIS_PREFIX" default:"tokenbroker" help:"What every key and channel begins with."`
	RedisWaitReplicas         int    `name:"redis-wait-replicas" env:"TOKENBROKER_REDIS_WAIT_REPLICAS" default:"0" help:"Replicas that must have a refresh token before it is relied on, at most ${wait_replicas_most}; see docs/redis.md."`
	RedisAcceptLoss           bool   `name:"redis-accept-loss" env:"TOKENBROKER_REDIS_ACCEPT_LOSS" help:"Start although this Redis can lose what it has acknowledged when it crashes."`
}

// Where a broker answers, and a command asks, unless somebody says otherwise.
const (
	DefaultAddress = "127.0.0.1:7420"
	defaultMetrics = "127.0.0.1:7421"
)

// Options are for a parser of settings: what their help and defaults name, where a default is stated by what it is the default of, and how
// their values are read.
func Options(dataDir string) kong.Option {
	return kong.OptionFunc(func(k *kong.Kong) error {
		if err := readQuietly(k); err != nil {
			return err
		}
		return vars(dataDir).Apply(k)
	})
}

func vars(dataDir string) kong.Vars {
	return boundVars(kong.Vars{
		"data_dir": dataDir, "columns": strconv.Itoa(console.Columns), "redis_forms": redis.AddressForms, "address": DefaultAddress, "metrics_address": defaultMetrics,
		"exchange_timeout": written(engine.DefaultExchangeTimeout), "cache_bound": written(engine.DefaultCacheBound),
		"upstream_concurrency": strconv.Itoa(engine.DefaultUpstreamConcurrency), "concurrent_streams": strconv.Itoa(server.DefaultConcurrentStreams),
		"message_bytes": strconv.Itoa(server.DefaultMessageBytes), "connection_age": written(server.DefaultConnectionAge),
		"caller_rate": strconv.Itoa(engine.DefaultCallerRate), "timeout": written(server.DefaultDeadline), "timeout_help": "How long to wait for an answer",
	})
}

// written is a duration as people write it: 30m, and not 30m0s.
func written(d time.Duration) string {
	s := d.String()
	for _, none := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(s, none) {
			s = s[:len(s)-2]
		}
	}
	return s
}

// DefaultDataDir follows the XDG base directories.
func DefaultDataDir() string {
	if d := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(d) {
		return filepath.Join(d, "tokenbroker")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "tokenbroker-data"
	}
	return filepath.Join(home, ".local", "state", "tokenbroker")
}

// Default are the settings of a broker of which nobody has said anything.
func Default() (Settings, error) {
	var s struct{ Settings }
	k, err := kong.New(&s, Options(DefaultDataDir()), kong.Exit(func(int) {}))
	if err == nil {
		err = WithoutEnvironment(k, func(string) bool { return true })
	}
	if err == nil {
		_, err = k.Parse(nil)
	}
	return s.Settings, err
}

// KeyPath is where the key lies.
func (s *Settings) KeyPath() string { return OrIn(s.KeyFile, s.DataDir, "key.json") }

// SocketPath is where gRPC is answered on a Unix socket; empty: nowhere.
func (s *Settings) SocketPath() string {
	if s.Socket == "none" || s.Socket == "" {
		return ""
	}
	return OrIn(s.Socket, s.DataDir, "tokenbroker.sock")
}

// OrIn is the path v or, where that is empty or auto, the name in the directory.
func OrIn(v, dir, name string) string {
	if v == "auto" || v == "" {
		return filepath.Join(dir, name)
	}
	return v
}

// FlagOf is the flag of a setting as it is written in the file.
func FlagOf(word string) string { return strings.NewReplacer(".", "-", "_", "-").Replace(word) }

// Check finds everything that is wrong with the settings, and says where in the file it stands, if it stands there.
func (s *Settings) Check() error {
	if wrong := s.problems(); len(wrong) > 0 {
		return Together(wrong)
	}
	return nil
}

// Together are all problems as one error, which is the operator's to mend.
func Together(wrong []yamldoc.Problem) error { return console.WrongInput(yamldoc.Together(wrong)) }

// problems are what is wrong with the file and with what is set, in order: the one list of it. No value is quoted that is of no form: somebody
// may have put a secret there.
func (s *Settings) problems() []yamldoc.Problem {
	wrong := slices.Clone(s.InFile)
	bad := func(setting, format string, args ...any) {
		p := s.At[FlagOf(setting)].Problem("setting %s: %s", setting, fmt.Sprintf(format, args...))
		p.Word = setting
		wrong = append(wrong, p)
	}
	for _, sentence := range s.Blank {
		wrong = append(wrong, Position{}.Problem("%s", sentence))
	}
	if s.DataDir == "" {
		bad("data_dir", "must not be empty")
	}
	if i, err := os.Stat(s.KeyPath()); err == nil && !i.Mode().IsRegular() {
		bad("key_file", "what is there is not a regular file%s", from(s.KeyPath()))
	}
	s.auditProblems(bad)
	s.tracesProblems(bad)
	if len(s.Listen) == 0 && s.SocketPath() == "" {
		bad("listen", "there is nothing to answer on: neither an address nor a socket")
	}
	for i, a := range s.Listen {
		which := ""
		if len(s.Listen) > 1 {
			which = fmt.Sprintf("address %d: ", i+1)
		}
		checkListen("listen", which, a, bad)
	}
	if a := s.MetricsListen; a != "none" && a != "" {
		checkListen("metrics_listen", "", a, bad)
	}
	if a := s.ProbesListen; a != "none" && a != "" {
		checkAddress("probes_listen", a, bad)
	}
	s.listenerProblems(&wrong)
	s.boundProblems(bad)
	s.RedisProblems(bad)
	s.KeysProblems(bad)
	if s.ProvidersDir != "" {
		if i, err := os.Stat(s.ProvidersDir); err != nil || !i.IsDir() {
			bad("providers_dir", "there is no such directory%s", from(s.ProvidersDir))
		}
	}
	for _, part := range []transport.Settings{{CAFile: s.UpstreamCAFile}, {ConnectTo: s.UpstreamConnectTo}, {AllowHTTP: s.UpstreamAllowHTTP}, {AllowPrivate: s.UpstreamAllowPrivate}} {
		t, err := transport.New(part)
		var wrong *transport.SettingError
		if errors.As(err, &wrong) {
			bad(wrong.Setting, "%s", wrong.Err)
			continue
		}
		t.Close()
	}
	if path := filepath.Join(s.DataDir, AdminSocket); len(path) > socketPathMost {
		bad("data_dir", "%s", tooLong(path))
	}
	if strings.HasPrefix(s.Socket, "@") {
		bad("socket", "what begins with @ would be a socket without a file, and so without permissions: anybody on this machine could use every credential; write a path")
	}
	if path := s.SocketPath(); len(path) > socketPathMost && filepath.Dir(path) != filepath.Clean(s.DataDir) {
		bad("socket", "%s", tooLong(path))
	}
	s.socketProblems(bad)
	yamldoc.Sort(wrong)
	return wrong
}

// socketProblems hands to bad where a socket is to be and something else is.
func (s *Settings) socketProblems(bad func(setting, format string, args ...any)) {
	other := func(path string) bool {
		i, err := os.Lstat(path)
		return err == nil && i.Mode()&fs.ModeSocket == 0
	}
	path, admin := s.SocketPath(), filepath.Join(s.DataDir, AdminSocket)
	switch {
	case path == "" || !other(path):
	case s.Socket == "auto":
		bad("data_dir", "what is there as %s is not a socket: move it away", filepath.Base(path))
	default:
		bad("socket", "what is there is not a socket: move it away, or write another path%s", from(path))
	}
	if other(admin) {
		bad("data_dir", "what is there as %s is not a socket: move it away", AdminSocket)
	}
}

// from says from where a path is looked for that does not say it itself.
func from(path string) string {
	if here, err := os.Getwd(); err == nil && !filepath.IsAbs(path) {
		return ", looked for from " + here
	}
	return ""
}

func checkListen(setting, which, a string, bad func(setting, format string, args ...any)) {
	if err := server.CheckLocalName(a); err != nil {
		hint := ""
		if setting == "listen" && errors.Is(err, server.ErrNotLocal) {
			hint = ", or services and operators, whose callers prove who they are"
		}
		bad(setting, "%s%s%s", which, err, hint)
		return
	}
	if _, port, _ := net.SplitHostPort(a); !isPort(port) {
		bad(setting, "%sa port is a number up to 65535; 0 is one that is free", which)
	}
}

func isPort(s string) bool {
	_, err := strconv.ParseUint(s, 10, 16)
	return err == nil
}

// socketPathMost bounds the path of a Unix socket: what every supported system's sockaddr_un holds.
const socketPathMost = 103

func tooLong(path string) string {
	return fmt.Sprintf("the path of the socket has %d bytes, and the system allows %d; write a shorter one", len(path), socketPathMost)
}
