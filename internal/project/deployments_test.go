package project

import (
	"bytes"

	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/internal/installed"
)

const deployments = root + "/examples/deployments/"

// directives are those of a unit that confine a service, and the values that they have to have.
var directives = map[string]string{
	"Type": "exec", "User": "tokenbroker", "NoNewPrivileges": "yes", "ProtectSystem": "strict", "ProtectHome": "yes", "PrivateTmp": "yes", "PrivateDevices": "yes",
	"CapabilityBoundingSet": "", "AmbientCapabilities": "", "MemoryDenyWriteExecute": "yes", "RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX AF_NETLINK",
	"LimitCORE": "0", "UMask": "0077", "StateDirectory": "tokenbroker", "StateDirectoryMode": "0700", "LogsDirectory": "tokenbroker", "LogsDirectoryMode": "0700",
	"RestrictNamespaces": "yes", "RestrictSUIDSGID": "yes", "LockPersonality": "yes", "ProtectProc": "invisible", "ProtectKernelTunables": "yes", "MemorySwapMax": "0",
	"LoadCredential": "kek.json:/etc/tokenbroker/kek.json", "ExecStart": "/usr/local/bin/tokenbroker serve --config /etc/tokenbroker/settings.yaml",
}

// TestTheUnitIsConfined, and systemd itself finds nothing wrong with it.
func TestTheUnitIsConfined(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(deployments + "one-machine/tokenbroker.service")
	if err != nil {
		t.Fatal(err)
	}
	got, filters := map[string]string{}, []string{}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		name, value, ok := strings.Cut(line, "=")
		switch {
		case line == "", strings.HasPrefix(line, "#"), strings.HasPrefix(line, "["):
		case !ok:
			t.Errorf("%q is no directive", line)
		case name == "SystemCallFilter":
			filters = append(filters, value)
		default:
			if _, twice := got[name]; twice {
				t.Errorf("%s is there twice", name)
			}
			got[name] = value
		}
	}
	for name, want := range directives {
		if value, ok := got[name]; !ok || value != want {
			t.Errorf("%s is %q, want %q", name, value, want)
		}
	}
	if len(filters) == 0 || filters[0] != "@system-service" {
		t.Errorf("got system calls %q", filters)
	}
	settings, err := os.ReadFile(deployments + "one-machine/settings.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/run/credentials/tokenbroker.service/kek.json", "data_dir: /var/lib/tokenbroker ", "/var/log/tokenbroker/"} {
		if !bytes.Contains(settings, []byte(path)) {
			t.Errorf("the settings have no %s", path)
		}
	}

	analyze := installed.Tool(t, "systemd-analyze")
	verify := func(text []byte) (string, error) {
		unit := filepath.Join(t.TempDir(), "tokenbroker.service")
		if err := os.WriteFile(unit, bytes.Replace(text, []byte("/usr/local/bin/tokenbroker serve"), []byte("/bin/true serve"), 1), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), analyze, "verify", unit).CombinedOutput()
		if err != nil {
			return string(out), err
		}
		score, err := exec.CommandContext(t.Context(), analyze, "security", "--offline=true", "--threshold=20", "--no-pager", unit).CombinedOutput()
		return string(out) + string(score), err
	}
	if out, err := verify(text); err != nil || strings.Contains(out, "Unknown") {
		t.Errorf("%v\n%s", err, out)
	}
	for was, becomes := range map[string]string{"ProtectSystem=": "ProtectSistem=", "CapabilityBoundingSet=\n": "\n"} {
		out, err := verify(bytes.Replace(text, []byte(was), []byte(becomes), 1))
		if err == nil && !strings.Contains(out, "Unknown") {
			t.Errorf("with %q nothing is wrong", becomes)
		}
	}
}
