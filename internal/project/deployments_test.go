package project

import (
	"bytes"
	"errors"
	"io"

	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
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

	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("systemd-analyze is not installed: make test-deps")
		}
		t.Skip("systemd-analyze is not installed: make test-deps")
	}
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

// The objects of Kubernetes, as far as the manifest has them: what is not here is refused.
type (
	object struct {
		APIVersion string `yaml:"apiVersion"`
		Kind       string
		Metadata   metadata
		Automount  *bool `yaml:"automountServiceAccountToken"`
		Spec       yaml.Node
	}
	metadata struct {
		Name, Namespace string
		Labels          map[string]string
	}
	selector struct {
		MatchLabels map[string]string `yaml:"matchLabels"`
	}
	deploymentSpec struct {
		Replicas int
		Selector selector
		Template struct {
			Metadata metadata
			Spec     podSpec
		}
	}
	podSpec struct {
		ServiceAccountName            string `yaml:"serviceAccountName"`
		AutomountServiceAccountToken  *bool  `yaml:"automountServiceAccountToken"`
		EnableServiceLinks            *bool  `yaml:"enableServiceLinks"`
		TerminationGracePeriodSeconds int    `yaml:"terminationGracePeriodSeconds"`
		SecurityContext               struct {
			RunAsNonRoot   bool                  `yaml:"runAsNonRoot"`
			RunAsUser      int                   `yaml:"runAsUser"`
			RunAsGroup     int                   `yaml:"runAsGroup"`
			FSGroup        int                   `yaml:"fsGroup"`
			SeccompProfile struct{ Type string } `yaml:"seccompProfile"`
		} `yaml:"securityContext"`
		Containers []container
		Volumes    []volume
	}
	container struct {
		Name, Image string
		Args        []string
		Env         []struct{ Name, Value string }
		Ports       []struct {
			Name          string
			ContainerPort int `yaml:"containerPort"`
		}
		LivenessProbe   probe `yaml:"livenessProbe"`
		ReadinessProbe  probe `yaml:"readinessProbe"`
		Resources       struct{ Requests, Limits map[string]string }
		SecurityContext struct {
			AllowPrivilegeEscalation *bool `yaml:"allowPrivilegeEscalation"`
			ReadOnlyRootFilesystem   bool  `yaml:"readOnlyRootFilesystem"`
			Capabilities             struct{ Drop []string }
		} `yaml:"securityContext"`
		VolumeMounts []struct {
			Name      string
			MountPath string `yaml:"mountPath"`
			ReadOnly  bool   `yaml:"readOnly"`
		} `yaml:"volumeMounts"`
	}
	probe struct {
		HTTPGet        struct{ Path, Port string } `yaml:"httpGet"`
		PeriodSeconds  int                         `yaml:"periodSeconds"`
		TimeoutSeconds int                         `yaml:"timeoutSeconds"`
	}
	volume struct {
		Name     string
		EmptyDir *struct {
			Medium    string
			SizeLimit string `yaml:"sizeLimit"`
		} `yaml:"emptyDir"`
		ConfigMap *struct{ Name string } `yaml:"configMap"`
		Secret    *struct {
			SecretName  string `yaml:"secretName"`
			DefaultMode int    `yaml:"defaultMode"`
		}
		CSI *struct {
			Driver   string
			ReadOnly bool `yaml:"readOnly"`
		} `yaml:"csi"`
	}
	serviceSpec struct {
		Selector map[string]string
		Ports    []struct {
			Name       string
			Port       int
			TargetPort string `yaml:"targetPort"`
		}
	}
	networkPolicySpec struct {
		PodSelector     selector `yaml:"podSelector"`
		PolicyTypes     []string `yaml:"policyTypes"`
		Ingress, Egress []struct {
			From, To []struct {
				NamespaceSelector *selector `yaml:"namespaceSelector"`
				PodSelector       *selector `yaml:"podSelector"`
				IPBlock           *struct {
					CIDR   string
					Except []string
				} `yaml:"ipBlock"`
			}
			Ports []struct {
				Protocol string
				Port     int
			}
		}
	}
)

// strictly reads one, and refuses what is not of it.
func strictly(t *testing.T, n *yaml.Node, into any) {
	t.Helper()
	text, err := yaml.Marshal(n)
	if err != nil {
		t.Fatal(err)
	}
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(into); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
}

// manifest reads the objects, by kind.
func manifest(t *testing.T) map[string]object {
	t.Helper()
	text, err := os.ReadFile(deployments + "kubernetes/tokenbroker.yaml")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]object{}
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	for {
		var o object
		err := d.Decode(&o)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if o.Metadata.Name != "tokenbroker" || o.Metadata.Namespace != "tokenbroker" {
			t.Errorf("%s is %+v", o.Kind, o.Metadata)
		}
		all[o.APIVersion+" "+o.Kind] = o
	}
	for _, want := range []string{"v1 ServiceAccount", "apps/v1 Deployment", "v1 Service", "networking.k8s.io/v1 NetworkPolicy"} {
		if _, ok := all[want]; !ok {
			t.Fatalf("there is no %s", want)
		}
	}
	return all
}

// TestTheManifestIsRestricted: by the rules of the Pod Security Standard "restricted" (kubernetes.io/docs/concepts/security/pod-security-standards), and those
// of ours beyond it.
func TestTheManifestIsRestricted(t *testing.T) {
	t.Parallel()
	all := manifest(t)
	var d deploymentSpec
	spec := all["apps/v1 Deployment"].Spec
	strictly(t, &spec, &d)
	pod := d.Template.Spec
	no := func(b *bool) bool { return b != nil && !*b }
	if s := pod.SecurityContext; !s.RunAsNonRoot || s.RunAsUser == 0 || s.RunAsGroup == 0 || s.FSGroup != s.RunAsGroup || s.SeccompProfile.Type != "RuntimeDefault" {
		t.Errorf("got %+v", s)
	}
	if !no(pod.AutomountServiceAccountToken) || !no(all["v1 ServiceAccount"].Automount) || pod.ServiceAccountName != "tokenbroker" {
		t.Error("the pod has a token of the cluster's")
	}
	if len(pod.Containers) != 1 {
		t.Fatalf("got %d containers", len(pod.Containers))
	}
	c := pod.Containers[0]
	if s := c.SecurityContext; !no(s.AllowPrivilegeEscalation) || !s.ReadOnlyRootFilesystem || !slices.Equal(s.Capabilities.Drop, []string{"ALL"}) {
		t.Errorf("got %+v", s)
	}
	if c.Resources.Limits["memory"] == "" || c.Resources.Requests["memory"] == "" {
		t.Errorf("got %+v", c.Resources)
	}
	if !fixedTag.MatchString(c.Image) {
		t.Errorf("image %s: want NAME:MAJOR.MINOR.PATCH", c.Image)
	}
	for path, p := range map[string]probe{"/livez": c.LivenessProbe, "/readyz": c.ReadinessProbe} {
		if p.HTTPGet.Path != path || p.HTTPGet.Port != "probes" {
			t.Errorf("got %+v", p)
		}
	}
	for _, v := range pod.Volumes { // of restricted: these kinds, and no others; of a hostPath the decoder would know nothing
		kinds := 0
		for _, is := range []bool{v.EmptyDir != nil, v.ConfigMap != nil, v.Secret != nil, v.CSI != nil} {
			if is {
				kinds++
			}
		}
		if kinds != 1 || v.Secret != nil && v.Secret.DefaultMode != 0o400 || v.CSI != nil && !v.CSI.ReadOnly {
			t.Errorf("got %+v", v)
		}
		for _, m := range c.VolumeMounts {
			if m.Name == v.Name && m.ReadOnly != (v.EmptyDir == nil) {
				t.Errorf("%s: read only %v", m.Name, m.ReadOnly)
			}
		}
	}
}

// TestTheManifestFitsTheSettings: what they name is mounted, and where they listen is who reaches it.
func TestTheManifestFitsTheSettings(t *testing.T) {
	t.Parallel()
	all := manifest(t)
	var d deploymentSpec
	var s serviceSpec
	var n networkPolicySpec
	for kind, into := range map[string]any{"apps/v1 Deployment": &d, "v1 Service": &s, "networking.k8s.io/v1 NetworkPolicy": &n} {
		spec := all[kind].Spec
		strictly(t, &spec, into)
	}
	text, err := os.ReadFile(deployments + "kubernetes/settings.yaml")
	if err != nil {
		t.Fatal(err)
	}
	pod := d.Template.Spec
	c := pod.Containers[0]
	var mounts []string
	for _, m := range c.VolumeMounts {
		mounts = append(mounts, m.MountPath)
		if !slices.ContainsFunc(pod.Volumes, func(v volume) bool { return v.Name == m.Name }) {
			t.Errorf("there is no volume %s", m.Name)
		}
	}
	paths := regexp.MustCompile(`(?::|unix://) *(/[\w.-][\w./-]*)`).FindAllStringSubmatch(string(text), -1)
	for _, m := range append(paths, []string{"", c.Args[len(c.Args)-1]}) {
		if !slices.ContainsFunc(mounts, func(at string) bool { return m[1] == at || strings.HasPrefix(m[1], at+"/") }) {
			t.Errorf("%s is not mounted", m[1])
		}
	}
	if len(paths) < 7 {
		t.Errorf("found %v only", paths)
	}
	data := regexp.MustCompile(`data_dir: (\S+)`).FindStringSubmatch(string(text))[1]
	for _, e := range c.Env {
		if want := map[string]string{"TOKENBROKER_DATA_DIR": data, "TOKENBROKER_ADDRESS": "unix:" + data + "/tokenbroker.sock"}[e.Name]; e.Value != want {
			t.Errorf("%s is %s, want %s", e.Name, e.Value, want)
		}
	}
	ports := map[int]string{}
	for _, p := range c.Ports {
		ports[p.ContainerPort] = p.Name
		if !bytes.Contains(text, []byte(`":`+strconv.Itoa(p.ContainerPort)+`"`)) {
			t.Errorf("nothing listens on %d", p.ContainerPort)
		}
	}
	for _, p := range s.Ports {
		if ports[p.Port] != p.TargetPort || p.TargetPort == "probes" {
			t.Errorf("the service has %+v", p)
		}
	}
	labels := d.Template.Metadata.Labels
	for what, of := range map[string]map[string]string{"the deployment": d.Selector.MatchLabels, "the service": s.Selector, "the network policy": n.PodSelector.MatchLabels} {
		if len(of) != 1 || of["app"] != labels["app"] || of["app"] == "" {
			t.Errorf("%s selects %v", what, of)
		}
	}
	if !slices.Equal(n.PolicyTypes, []string{"Ingress", "Egress"}) || len(n.Ingress) != len(ports) {
		t.Errorf("got %+v", n)
	}
	for _, in := range n.Ingress {
		if len(in.From) == 0 || len(in.Ports) != 1 || ports[in.Ports[0].Port] == "" {
			t.Errorf("anybody reaches %+v", in)
		}
	}
	for _, out := range n.Egress {
		if len(out.To) == 0 || len(out.Ports) == 0 {
			t.Errorf("it reaches anything: %+v", out)
		}
		for _, to := range out.To {
			if b := to.IPBlock; b != nil && !slices.Contains(b.Except, "169.254.0.0/16") {
				t.Errorf("it reaches the metadata service: %+v", b)
			}
		}
	}
}
