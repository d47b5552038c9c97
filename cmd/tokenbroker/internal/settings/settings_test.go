package settings

import (
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/google/go-cmp/cmp"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	"github.com/tokenbroker/tokenbroker/internal/yamldoc"
)

// goodSettings are settings that have nothing wrong with them.
func goodSettings(t testing.TB) Settings {
	t.Helper()
	return Settings{
		DataDir: t.TempDir(), Listen: []string{"127.0.0.1:0"}, Socket: "auto", MetricsListen: "none", KeyFile: "auto", LogLevel: "info", LogFormat: "json",
		ShutdownTimeout: time.Second, ExchangeTimeout: time.Second, UpstreamConcurrency: 1, LimitsConcurrentStreams: 1, LimitsMessageBytes: 1024, LimitsConnectionAge: time.Hour,
		StoreSettings: StoreSettings{RedisPrefix: "tokenbroker"},
	}
}

func TestSettingsCheck(t *testing.T) {
	if err := ptr(goodSettings(t)).Check(); err != nil {
		t.Fatalf("got %v, want nothing wrong", err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, x := range []struct {
		name   string
		change func(*Settings)
		want   string
	}{
		{"no data directory", func(s *Settings) { s.DataDir = "" }, "setting data_dir: must not be empty"},
		{"IPv6 loopback", func(s *Settings) { s.Listen = []string{"[::1]:1", "localhost:2", "127.9.9.9:3"} }, ""},
		{"everywhere", func(s *Settings) { s.Listen = []string{":1"} }, "setting listen: without authentication"},
		{"everywhere, IPv6", func(s *Settings) { s.Listen = []string{"[::]:1"} }, "setting listen: without authentication"},
		{"a name", func(s *Settings) { s.Listen = []string{"example.com:1"} }, "setting listen: without authentication"},
		{"no port", func(s *Settings) { s.Listen = []string{"127.0.0.1"} }, "is not host:port"},
		{"nothing to answer on", func(s *Settings) { s.Listen, s.Socket = nil, "none" }, "setting listen: there is nothing to answer on"},
		{"no socket either", func(s *Settings) { s.Listen, s.Socket = nil, "" }, "setting listen: there is nothing to answer on"},
		{"the socket only", func(s *Settings) { s.Listen = nil }, ""},
		{"metrics everywhere", func(s *Settings) { s.MetricsListen = "0.0.0.0:1" }, "setting metrics_listen: "},
		{"metrics nonsense", func(s *Settings) { s.MetricsListen = "x" }, "setting metrics_listen: it is not host:port"},
		{"probes everywhere", func(s *Settings) { s.ProbesListen = ":7422" }, ""},
		{"probes at another address", func(s *Settings) { s.ProbesListen = "192.0.2.1:7422" }, ""},
		{"no probes", func(s *Settings) { s.ProbesListen = "none" }, ""},
		{"probes nonsense", func(s *Settings) { s.ProbesListen = "x" }, "setting probes_listen: it is not host:port"},
		{"probes at a name", func(s *Settings) { s.ProbesListen = "broker.example.com:7422" }, "setting probes_listen: a name may stand for any address"},
		{"probes at no port", func(s *Settings) { s.ProbesListen = ":http" }, "setting probes_listen: a port is a number"},
		{"no metrics", func(s *Settings) { s.MetricsListen = "" }, ""},
		{"no shutdown", func(s *Settings) { s.ShutdownTimeout = 0 }, "setting shutdown_timeout: must be 1ms or more, and at most 1h: write"},
		{"no exchange", func(s *Settings) { s.ExchangeTimeout = -1 }, "setting exchange_timeout: must be 100ms or more"},
		{"no age", func(s *Settings) { s.LimitsConnectionAge = 0 }, "setting limits.connection_age: must be 1s or more"},
		{"negative grace", func(s *Settings) { s.ShutdownGrace = -1 }, "setting shutdown_grace: "},
		{"no concurrency", func(s *Settings) { s.UpstreamConcurrency = 0 }, "setting upstream.concurrency: "},
		{"a caller's rate that cannot be counted", func(s *Settings) { s.LimitsCallerRate = 1e18 }, "setting limits.caller_rate: must be from 0 to 1000000"},
		{"small messages", func(s *Settings) { s.LimitsMessageBytes = 1023 }, "setting limits.message_bytes: "},
		{"huge messages", func(s *Settings) { s.LimitsMessageBytes = 9e18 }, "setting limits.message_bytes: must be from 1024 to 67108864"},
		{"no providers", func(s *Settings) { s.ProvidersDir = "/nowhere" }, "setting providers_dir: "},
		{"no CA", func(s *Settings) { s.UpstreamCAFile = "/nowhere" }, "setting upstream.ca_file: its file cannot be read: no such file"},
		{"no certificate", func(s *Settings) { s.UpstreamCAFile = "settings_test.go" }, "setting upstream.ca_file: its file has no certificate in PEM"},
		{"connect from nowhere", func(s *Settings) { s.UpstreamConnectTo = map[string]string{"a": "127.0.0.1:1"} }, "setting upstream.connect_to: a name is not host:port"},
		{"connect to nowhere", func(s *Settings) { s.UpstreamConnectTo = map[string]string{"a:1": "b"} }, "setting upstream.connect_to: a:1: what it is to be dialled at is not"},
		{"connect from no port", func(s *Settings) { s.UpstreamConnectTo = map[string]string{"a:999999": "127.0.0.1:1"} }, "setting upstream.connect_to: a name is not"},
		{"connect to no port", func(s *Settings) { s.UpstreamConnectTo = map[string]string{"a:1": "127.0.0.1:0"} }, "setting upstream.connect_to: a:1: what it is to be dialled at is not"},
		{"connect to no host", func(s *Settings) { s.UpstreamConnectTo = map[string]string{"a:1": ":1"} }, "setting upstream.connect_to: a:1: what it is to be dialled at is not"},
		{"ipv4 as ipv6", func(s *Settings) {
			s.UpstreamAllowPrivate = []netip.Prefix{netip.MustParsePrefix("::ffff:169.254.0.0/112")}
		}, "setting upstream.allow_private: ::ffff:169.254.0.0/112 is a range of IPv4 addresses in the form of IPv6"},
		{"a name twice", func(s *Settings) {
			s.UpstreamConnectTo = map[string]string{"a.example.com:443": "127.0.0.1:1", "A.example.com:443": "127.0.0.1:2"}
		}, "setting upstream.connect_to: a.example.com:443 is there twice"},
		{"a short life", func(s *Settings) { s.LimitsConnectionAge = 1 }, "setting limits.connection_age: must be 1s or more, and at most 720h"},
		{"a short exchange", func(s *Settings) { s.ExchangeTimeout = 1 }, "setting exchange_timeout: must be 100ms or more, and at most 10m"},
		{"a short stop", func(s *Settings) { s.ShutdownTimeout = 1 }, "setting shutdown_timeout: must be 1ms or more, and at most 1h"},
		{"metadata", func(s *Settings) { s.UpstreamAllowPrivate = []netip.Prefix{netip.MustParsePrefix("169.254.0.0/16")} }, "setting upstream.allow_private: 169.254.0.0/16 "},
		{"HTTP", func(s *Settings) { s.UpstreamAllowHTTP = []string{"localhost", "vendor.example:8080"} }, ""},
		{"HTTP by address", func(s *Settings) { s.UpstreamAllowHTTP = []string{"127.0.0.1", "[::1]:80", "::1", "[::1]"} }, ""},
		{"HTTP everywhere", func(s *Settings) { s.UpstreamAllowHTTP = []string{"*"} }, "setting upstream.allow_http: entry 1 is neither a host nor host:port; name each host"},
		{"HTTP by URL", func(s *Settings) { s.UpstreamAllowHTTP = []string{"http://localhost"} }, "setting upstream.allow_http: entry 1 is neither"},
		{"HTTP nowhere", func(s *Settings) { s.UpstreamAllowHTTP = []string{""} }, "setting upstream.allow_http: entry 1 is neither"},
		{"highest port", func(s *Settings) { s.Listen = []string{"127.0.0.1:65535"} }, ""},
		{"no such port", func(s *Settings) { s.Listen = []string{"127.0.0.1:65536"} }, "setting listen: a port is a number up to 65535"},
		{"a port's name", func(s *Settings) { s.MetricsListen = "localhost:http" }, "setting metrics_listen: a port is a number"},
		{"long data directory", func(s *Settings) { s.DataDir = "/" + strings.Repeat("d", socketPathMost) }, "setting data_dir: the path of the socket"},
		{"a key that is none", func(s *Settings) { s.KeyFile = os.DevNull }, "setting key_file: what is there is not a regular file"},
		{"an audit log", func(s *Settings) {
			s.AuditFile, s.AuditSyslog = filepath.Join(s.DataDir, "audit.log"), "tcp://127.0.0.1:514"
		}, ""},
		{"an audit log in a data directory that is to be made", func(s *Settings) {
			s.DataDir = filepath.Join(s.DataDir, "a", "b")
			s.AuditFile = filepath.Join(s.DataDir, "audit.log")
		}, ""},
		{"an audit log beside a data directory that is to be made", func(s *Settings) {
			s.AuditFile, s.DataDir = filepath.Join(s.DataDir, "a", "audit.log"), filepath.Join(s.DataDir, "a", "b")
		}, ""},
		{"an audit log by a link into a data directory that is to be made", func(s *Settings) {
			s.AuditFile, s.DataDir = filepath.Join(s.DataDir, "link"), filepath.Join(s.DataDir, "a", "b")
			must(os.Symlink(filepath.Join(s.DataDir, "audit.log"), s.AuditFile))
		}, ""},
		{"an audit log in a directory below a data directory", func(s *Settings) {
			s.DataDir = filepath.Join(s.DataDir, "a")
			s.AuditFile = filepath.Join(s.DataDir, "log", "audit.log")
		}, "setting audit.file: it cannot be opened for appending: its directory is not there: make that first"},
		{"an audit log in no directory", func(s *Settings) { s.AuditFile = "missing/log" }, "or name another file, looked for from /"},
		{"an audit log that is none", func(s *Settings) { s.AuditFile = os.DevNull }, "setting audit.file: it cannot be opened for appending: it is not a regular file"},
		{"an audit log in the place of the data directory", func(s *Settings) {
			s.DataDir = filepath.Join(s.DataDir, "a")
			s.AuditFile = s.DataDir
		}, "setting audit.file: the broker has something else there: write another path"},
		{"an audit log above the data directory", func(s *Settings) {
			s.AuditFile, s.DataDir = filepath.Join(s.DataDir, "a"), filepath.Join(s.DataDir, "a", "b")
		}, "setting audit.file: the broker has something else there"},
		{"an audit log in the place of the key", func(s *Settings) { s.AuditFile = filepath.Join(s.DataDir, "key.json") }, "setting audit.file: the broker has something else there"},
		{"an audit log in the place of the data", func(s *Settings) { s.AuditFile = filepath.Join(s.DataDir, DataFile) }, "setting audit.file: the broker has something else there"},
		{"an audit log in the place of a socket", func(s *Settings) { s.AuditFile = filepath.Join(s.DataDir, AdminSocket) }, "setting audit.file: the broker has something else there"},
		{"an audit log with a NUL", func(s *Settings) { s.AuditFile = "a\x00b" }, "setting audit.file: it cannot be opened for appending: invalid argument"},
		{"a syslog with a secret", func(s *Settings) { s.AuditSyslog = "tcp://user:secret@host:1" }, "setting audit.syslog: it is no address of a syslog: say local, tcp://HOST:PORT or unix:///PATH"},
		{"a syslog without a port", func(s *Settings) { s.AuditSyslog = "tcp://host:0" }, "setting audit.syslog: its port is none"},
		{"a syslog that is no socket", func(s *Settings) { s.AuditSyslog = "unix://" + s.DataDir }, "setting audit.syslog: what is at its path is no socket"},
		{"an audit log that is required and nowhere", func(s *Settings) { s.AuditIssuance = "required" }, "setting audit.issuance: there is no audit log"},
		{"a variable that is empty", func(s *Settings) { s.Blank = []string{"the environment variable A: it is empty"} }, "the environment variable A: it is empty"},
		{"a directory for a socket", func(s *Settings) { s.Socket = s.DataDir }, "setting socket: what is there is not a socket: move it away, or write another path"},
		{"a file for a socket", func(s *Settings) { s.Socket = "settings_test.go" }, "write another path, looked for from /"},
		{"a directory for the socket of the data directory", func(s *Settings) { must(os.Mkdir(filepath.Join(s.DataDir, "tokenbroker.sock"), 0o700)) }, "setting data_dir: what is there as tokenbroker.sock is not a socket: move it away"},
		{"a directory for the socket of backups", func(s *Settings) { must(os.Mkdir(filepath.Join(s.DataDir, AdminSocket), 0o700)) }, "setting data_dir: what is there as admin.sock is not a socket: move it away"},
		{"no streams", func(s *Settings) { s.LimitsConcurrentStreams = 0 }, "setting limits.concurrent_streams: must be from 1 to 100000"},
		{"a prefix that is not used", func(s *Settings) { s.RedisPrefix = "" }, "setting redis.prefix: must not be empty"},
		{"a prefix with a line break", func(s *Settings) { s.RedisPrefix = "a\r" }, "setting redis.prefix: must not be empty, nor have blanks, control"},
		{"a database", func(s *Settings) { s.Store = "redis://h:1/2147483647" }, ""},
		{"no database", func(s *Settings) { s.Store = "redis://h:1/2147483648" }, "the address's database is not a number that one can have"},
		{"longest socket", func(s *Settings) { s.Socket = "/" + strings.Repeat("s", socketPathMost-1) }, ""},
		{"long socket", func(s *Settings) { s.Socket = "/" + strings.Repeat("s", socketPathMost) }, "setting socket: the path of the socket"},
	} {
		t.Run(x.name, func(t *testing.T) {
			s := goodSettings(t)
			x.change(&s)
			got := ""
			if err := s.Check(); err != nil {
				if got = err.Error(); console.ExitCode(err) != console.ExitUsage {
					t.Errorf("got exit code %d, want %d", console.ExitCode(err), console.ExitUsage)
				}
			}
			if strings.Contains(got, "secret") {
				t.Errorf("it is quoted: %q", got)
			}
			if x.want == "" && got != "" || !strings.Contains(got, x.want) || strings.Contains(got, "\n") {
				t.Errorf("got %q, want %q", got, x.want)
			}
		})
	}
	s := goodSettings(t)
	s.UpstreamConcurrency, s.ShutdownTimeout = 0, 0
	s.At = map[string]Position{"upstream-concurrency": {"f.yaml", yamldoc.Position{Line: 3, Column: 7}}}
	want := "setting shutdown_timeout: must be 1ms or more, and at most 1h: write how long, as 30s or 5m\nf.yaml:3:7: setting upstream.concurrency: must be from 1 to 10000"
	if err := s.Check(); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// TestNoDurationAndNoNumberIsWithoutBound: each setting that is one refuses the largest that there is, and says what may be written.
func TestNoDurationAndNoNumberIsWithoutBound(t *testing.T) {
	seen := 0
	var each func(in reflect.Value, at []int)
	each = func(in reflect.Value, at []int) {
		for i := range in.NumField() {
			f, at := in.Type().Field(i), append(slices.Clone(at), i)
			switch kind := f.Type.Kind(); {
			case f.Anonymous:
				each(in.Field(i), at)
			case f.Tag.Get("kong") == "-":
			case in.Field(i).CanInt(), in.Field(i).CanUint():
				seen++
				s := goodSettings(t)
				v := reflect.ValueOf(&s).Elem().FieldByIndex(at)
				if kind == reflect.Uint32 {
					v.SetUint(math.MaxUint32)
				} else {
					v.SetInt(math.MaxInt64)
				}
				err := s.Check()
				if err == nil || !strings.Contains(err.Error(), "must be") || !strings.Contains(err.Error(), " at most ") && !strings.Contains(err.Error(), " to ") {
					t.Errorf("%s: got %v", f.Name, err)
				}
				if help := f.Tag.Get("help"); !strings.Contains(help, "_most}") {
					t.Errorf("%s: its help does not say what it may be at most", f.Name)
				}
			}
		}
	}
	each(reflect.ValueOf(Settings{}), nil)
	if seen < 11 {
		t.Errorf("found %d settings", seen)
	}
}

func ptr[T any](v T) *T { return &v }

func TestSettingsPaths(t *testing.T) {
	s := Settings{DataDir: "/d", KeyFile: "auto", Socket: "auto"}
	if s.KeyPath() != "/d/key.json" || s.SocketPath() != "/d/tokenbroker.sock" {
		t.Errorf("got %s and %s", s.KeyPath(), s.SocketPath())
	}
	s = Settings{DataDir: "/d", KeyFile: "/k", Socket: "none"}
	if s.KeyPath() != "/k" || s.SocketPath() != "" {
		t.Errorf("got %s and %s", s.KeyPath(), s.SocketPath())
	}
	t.Setenv("XDG_STATE_HOME", "/x")
	if got := DefaultDataDir(); got != "/x/tokenbroker" {
		t.Errorf("got %s", got)
	}
	t.Setenv("XDG_STATE_HOME", "relative") // is to be ignored, says the specification
	t.Setenv("HOME", "/h")
	if got := DefaultDataDir(); got != "/h/.local/state/tokenbroker" {
		t.Errorf("got %s", got)
	}
}

// TestSettingsFile reads every setting, in all the forms that it may have.
func TestSettingsFile(t *testing.T) {
	for name, text := range map[string]string{
		"nested": "listen: [127.0.0.1:1, '127.0.0.1:2']\nlog: {level: debug}\nshutdown_grace: 3s\nupstream:\n  concurrency: 5\n  allow_private: [10.0.0.0/8]\n" +
			"  connect_to: {'a:443': '127.0.0.1:4'}\nlimits: {concurrent_streams: 6}\n",
		"flat": "listen: 127.0.0.1:1,127.0.0.1:2\nlog.level: debug\nshutdown_grace: 3s\nupstream.concurrency: 5\nupstream.allow_private: 10.0.0.0/8\n" +
			"upstream.connect_to: {'a:443': '127.0.0.1:4'}\nlimits.concurrent_streams: 6\n",
		"underscores": "listen: [127.0.0.1:1, 127.0.0.1:2]\nlog_level: debug\nshutdown_grace: 3s\nupstream_concurrency: '5'\nupstream_allow_private: [10.0.0.0/8]\n" +
			"upstream_connect_to: {'a:443': '127.0.0.1:4'}\nlimits_concurrent_streams: 6\n",
	} {
		t.Run(name, func(t *testing.T) {
			const file = "settings.yaml"
			f, wrong, err := readSettings(file, []byte(text), nil)
			if err != nil || len(wrong) > 0 {
				t.Fatal(err, wrong)
			}
			used := map[string]Position{}
			var got struct{ Settings }
			k := kong.Must(&got, Options("d"), kong.Resolvers(f.Resolver(used)))
			if _, err := k.Parse(nil); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]string{"127.0.0.1:1", "127.0.0.1:2"}, got.Listen); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(map[string]string{"a:443": "127.0.0.1:4"}, got.UpstreamConnectTo); diff != "" {
				t.Error(diff)
			}
			if len(got.UpstreamAllowPrivate) != 1 || got.UpstreamAllowPrivate[0] != netip.MustParsePrefix("10.0.0.0/8") {
				t.Errorf("got %v", got.UpstreamAllowPrivate)
			}
			if got.LogLevel != "debug" || got.ShutdownGrace != 3*time.Second || got.UpstreamConcurrency != 5 || got.LimitsConcurrentStreams != 6 {
				t.Errorf("got %+v", got.Settings)
			}
			if got.ExchangeTimeout != 20*time.Second || len(used) != 7 || used["shutdown-grace"] != (Position{file, yamldoc.Position{Line: 3, Column: 17}}) {
				t.Errorf("got used %v", used)
			}
		})
	}
}

// FuzzSettings: whatever a file says, it is read or refused, and what is refused has a place in the file.
func FuzzSettings(f *testing.F) {
	for _, s := range []string{
		"", "listen: [127.0.0.1:1]", "upstream: {ca_file: x, nope: y}", "log: {level: {a: b}}", "a: &x 1\nlisten: *x", "- a", "listen: [", "? [a]\n: b",
		"upstream.connect_to: {a: [b]}", "shutdown_timeout: 1e99s", "limits:\n", "<<: {listen: x}", "--- a\n--- b",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		const file = "settings.yaml"
		got, wrong, err := parseSettings(file, []byte(text))
		if err != nil && (got.set != nil || wrong != nil || console.ExitCode(err) != console.ExitUsage) {
			t.Errorf("got %v, %v with %v", got, wrong, err)
		}
		for _, w := range wrong {
			if !strings.HasPrefix(w.Error(), file+":") {
				t.Errorf("got %v, want where it stands", w)
			}
		}
	})
}
