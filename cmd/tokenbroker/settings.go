package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"go.yaml.in/yaml/v4"

	"github.com/tokenbroker/tokenbroker/internal/suggest"
)

// settings are the broker's. Each is a flag, an environment variable and a word of the settings file, where a dot or a nested
// mapping stands for the flag's first part: --upstream-ca-file is upstream.ca_file.
type settings struct {
	DataDir         string        `name:"data-dir" env:"TOKENBROKER_DATA_DIR" default:"${data_dir}" help:"Where the embedded store, its key and the sockets are. Made with mode 0700."`
	Listen          []string      `env:"TOKENBROKER_LISTEN" default:"127.0.0.1:7420" help:"Addresses to answer gRPC on. Without authentication: loopback only."`
	Socket          string        `env:"TOKENBROKER_SOCKET" default:"auto" help:"Unix socket to answer gRPC on, mode 0600. auto: tokenbroker.sock in the data directory; none: no socket."`
	MetricsListen   string        `name:"metrics-listen" env:"TOKENBROKER_METRICS_LISTEN" default:"127.0.0.1:7421" help:"Where /metrics is; none: nowhere."`
	ProvidersDir    string        `name:"providers-dir" env:"TOKENBROKER_PROVIDERS_DIR" help:"Directory with provider definitions of your own; reloaded on change."`
	KeyFile         string        `name:"key-file" env:"TOKENBROKER_KEY_FILE" default:"auto" help:"The key that seals what is stored. auto: key.json in the data directory, made at the first start. Back it up, apart from the data."`
	LogLevel        string        `name:"log-level" env:"TOKENBROKER_LOG_LEVEL" default:"info" enum:"debug,info,warn,error" help:"debug, info, warn or error."`
	LogFormat       string        `name:"log-format" env:"TOKENBROKER_LOG_FORMAT" default:"auto" enum:"auto,json,text" help:"json, text, or auto: text on a terminal."`
	ShutdownTimeout time.Duration `name:"shutdown-timeout" env:"TOKENBROKER_SHUTDOWN_TIMEOUT" default:"25s" help:"How long a stop waits for exchanges to be committed."`
	ShutdownGrace   time.Duration `name:"shutdown-grace" env:"TOKENBROKER_SHUTDOWN_GRACE" default:"0s" help:"How long a stop answers on after health says NOT_SERVING."`
	ExchangeTimeout time.Duration `name:"exchange-timeout" env:"TOKENBROKER_EXCHANGE_TIMEOUT" default:"20s" help:"Bound of one exchange with an upstream."`

	UpstreamConnectTo    map[string]string `name:"upstream-connect-to" env:"TOKENBROKER_UPSTREAM_CONNECT_TO" mapsep:"," help:"host:port=ip:port: dial there when a definition asks host:port. The name stays what it is for TLS."`
	UpstreamCAFile       string            `name:"upstream-ca-file" env:"TOKENBROKER_UPSTREAM_CA_FILE" help:"Roots in PEM to trust beside the system's."`
	UpstreamAllowHTTP    []string          `name:"upstream-allow-http" env:"TOKENBROKER_UPSTREAM_ALLOW_HTTP" help:"Hosts that may be asked without TLS."`
	UpstreamAllowPrivate []netip.Prefix    `name:"upstream-allow-private" env:"TOKENBROKER_UPSTREAM_ALLOW_PRIVATE" help:"Private ranges that may be dialled, such as 10.1.0.0/16."`
	UpstreamConcurrency  int               `name:"upstream-concurrency" env:"TOKENBROKER_UPSTREAM_CONCURRENCY" default:"16" help:"Exchanges that one upstream may have at a time."`

	LimitsConcurrentStreams uint32        `name:"limits-concurrent-streams" env:"TOKENBROKER_LIMITS_CONCURRENT_STREAMS" default:"1000" help:"Calls that may run at a time on one connection."`
	LimitsMessageBytes      int           `name:"limits-message-bytes" env:"TOKENBROKER_LIMITS_MESSAGE_BYTES" default:"1048576" help:"Size of a request."`
	LimitsConnectionAge     time.Duration `name:"limits-connection-age" env:"TOKENBROKER_LIMITS_CONNECTION_AGE" default:"30m" help:"After this a connection is asked to be made anew, so that balancers find new replicas."`
}

// defaultDataDir follows the XDG base directories.
func defaultDataDir() string {
	if d := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(d) {
		return filepath.Join(d, "tokenbroker")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "tokenbroker-data"
	}
	return filepath.Join(home, ".local", "state", "tokenbroker")
}

func (s *settings) keyFile() string { return orIn(s.KeyFile, s.DataDir, "key.json") }
func (s *settings) socket() string {
	if s.Socket == "none" {
		return ""
	}
	return orIn(s.Socket, s.DataDir, "tokenbroker.sock")
}

func orIn(v, dir, name string) string {
	if v == "auto" || v == "" {
		return filepath.Join(dir, name)
	}
	return v
}

// check finds everything that is wrong with the settings.
func (s *settings) check() error {
	var wrong []error
	bad := func(setting, format string, args ...any) {
		wrong = append(wrong, fmt.Errorf("setting %s: %s", setting, fmt.Sprintf(format, args...)))
	}
	for _, a := range s.Listen {
		if host, _, err := net.SplitHostPort(a); err != nil {
			bad("listen", "%q is not host:port", a)
		} else if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			bad("listen", "%q: without authentication the broker listens on loopback addresses only; use 127.0.0.1", a)
		}
	}
	if a := s.MetricsListen; a != "none" && a != "" {
		if _, _, err := net.SplitHostPort(a); err != nil {
			bad("metrics_listen", "%q is not host:port", a)
		}
	}
	for name, d := range map[string]time.Duration{"shutdown_timeout": s.ShutdownTimeout, "exchange_timeout": s.ExchangeTimeout, "limits.connection_age": s.LimitsConnectionAge} {
		if d <= 0 {
			bad(name, "must be longer than nothing")
		}
	}
	if s.ShutdownGrace < 0 {
		bad("shutdown_grace", "must not be negative")
	}
	if s.UpstreamConcurrency < 1 {
		bad("upstream.concurrency", "must be 1 or more")
	}
	if s.LimitsMessageBytes < 1024 {
		bad("limits.message_bytes", "must be 1024 or more")
	}
	if s.ProvidersDir != "" {
		if i, err := os.Stat(s.ProvidersDir); err != nil || !i.IsDir() {
			bad("providers_dir", "%s is no directory", s.ProvidersDir)
		}
	}
	if s.UpstreamCAFile != "" {
		if _, err := os.Stat(s.UpstreamCAFile); err != nil {
			bad("upstream.ca_file", "%s cannot be read", s.UpstreamCAFile)
		}
	}
	slices.SortFunc(wrong, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	if len(wrong) > 0 {
		return &inputError{errors.Join(wrong...)}
	}
	return nil
}

// A fileSetting is one value of the settings file, by its flag's name.
type fileSetting struct {
	value any
	at    string // file:line:column
}

// settingsFile reads the file that --config or TOKENBROKER_CONFIG names; nil: none is named. Everything that is wrong with it
// is said at once.
func settingsFile(parser *kong.Kong, args []string) (kong.Resolver, error) {
	file := os.Getenv("TOKENBROKER_CONFIG")
	for i, a := range args {
		if v, ok := strings.CutPrefix(a, "--config="); ok {
			file = v
		} else if a == "--config" && i+1 < len(args) {
			file = args[i+1]
		}
	}
	if file == "" || len(args) == 0 || args[0] != "serve" {
		return nil, nil //nolint:nilnil // no file, no resolver
	}
	values, err := readSettings(file)
	if err != nil {
		return nil, err
	}
	_ = parser
	return kong.ResolverFunc(func(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
		if v, ok := values[flag.Name]; ok {
			if len(flag.Envs) > 0 && os.Getenv(flag.Envs[0]) != "" {
				return nil, nil //nolint:nilnil // the environment wins
			}
			return v.value, nil
		}
		return nil, nil //nolint:nilnil // nothing is said about it
	}), nil
}

// knownSettings are the words of the settings file, with what kind of value each has.
func knownSettings() map[string]kong.Value {
	var s struct {
		settings
	}
	k := kong.Must(&s, kong.Vars{"data_dir": "d"}, kong.Exit(func(int) {}))
	out := map[string]kong.Value{}
	for _, f := range k.Model.Flags {
		if f.Name != "help" {
			out[f.Name] = *f.Value
		}
	}
	return out
}

// readSettings reads a settings file into values by flag.
func readSettings(file string) (map[string]fileSetting, error) {
	data, err := os.ReadFile(file) //nolint:gosec // the operator names it
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &inputError{fmt.Errorf("settings file %s does not exist", file)}
	}
	if err != nil {
		return nil, err
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return nil, &inputError{fmt.Errorf("%s: not YAML: %s", file, strings.TrimPrefix(err.Error(), "yaml: "))}
	}
	out := map[string]fileSetting{}
	if len(doc.Content) == 0 {
		return out, nil
	}
	r := &settingsReader{file: file, known: knownSettings(), out: out}
	r.mapping(doc.Content[0], "")
	if len(r.wrong) > 0 {
		return nil, &inputError{errors.Join(r.wrong...)}
	}
	return out, nil
}

type settingsReader struct {
	file  string
	known map[string]kong.Value
	out   map[string]fileSetting
	wrong []error
}

func (r *settingsReader) bad(n *yaml.Node, format string, args ...any) {
	r.wrong = append(r.wrong, fmt.Errorf("%s:%d:%d: %s", r.file, n.Line, n.Column, fmt.Sprintf(format, args...)))
}

func (r *settingsReader) mapping(n *yaml.Node, prefix string) {
	if n.Kind != yaml.MappingNode {
		r.bad(n, "settings are names with values")
		return
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		word := k.Value
		if prefix != "" {
			word = prefix + "." + k.Value
		}
		flag := strings.NewReplacer(".", "-", "_", "-").Replace(word)
		if known, ok := r.known[flag]; ok && !strings.Contains(k.Value, "-") {
			if _, twice := r.out[flag]; twice {
				r.bad(k, "setting %q is there twice", word)
			}
			r.out[flag] = fileSetting{value: r.value(v, word, known), at: fmt.Sprintf("%s:%d:%d", r.file, k.Line, k.Column)}
			continue
		}
		if v.Kind == yaml.MappingNode && r.isGroup(flag) {
			r.mapping(v, word)
			continue
		}
		hint := ""
		if near := suggest.Nearest(word, r.words()); near != "" {
			hint = fmt.Sprintf("; did you mean %q?", near)
		}
		r.bad(k, "unknown setting %q%s", word, hint)
	}
}

func (r *settingsReader) isGroup(flag string) bool {
	for name := range r.known {
		if strings.HasPrefix(name, flag+"-") && (flag == "upstream" || flag == "limits" || flag == "log") {
			return true
		}
	}
	return false
}

// words are the settings as they are written in the file.
func (r *settingsReader) words() []string {
	var out []string
	for name := range r.known {
		word := strings.ReplaceAll(name, "-", "_")
		for _, g := range []string{"upstream", "limits", "log"} {
			if rest, ok := strings.CutPrefix(word, g+"_"); ok {
				word = g + "." + rest
			}
		}
		out = append(out, word)
	}
	slices.Sort(out)
	return out
}

// value makes of a node what kong reads.
func (r *settingsReader) value(n *yaml.Node, word string, known kong.Value) any {
	switch n.Kind {
	case yaml.SequenceNode:
		if !known.IsSlice() {
			r.bad(n, "setting %s: one value is wanted, not a list", word)
			return ""
		}
		var out []any
		for _, c := range n.Content {
			out = append(out, c.Value)
		}
		return out
	case yaml.MappingNode:
		if !known.IsMap() {
			r.bad(n, "setting %s: one value is wanted, not a mapping", word)
			return ""
		}
		out := map[string]any{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			out[n.Content[i].Value] = n.Content[i+1].Value
		}
		return out
	case yaml.ScalarNode:
		if known.IsMap() {
			r.bad(n, "setting %s: names with values are wanted", word)
		}
		return n.Value
	}
	r.bad(n, "setting %s: aliases are not allowed", word)
	return ""
}
