package manifests

import (
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

var (
	imagesUser = regexp.MustCompile(`(?m)^USER (\d+):(\d+)$`)
	fixedTag   = regexp.MustCompile(`^[a-z0-9./-]+:\d+\.\d+\.\d+$`)
)

// is whether a pointer leads to this value.
func is[T comparable](p *T, want T) bool { return p != nil && *p == want }

// pod holds a pod against the Pod Security Standard "restricted" (kubernetes.io/docs/concepts/security/pod-security-standards) and the rules of ours beyond it.
func (c *checker) pod(what string, t corev1.PodTemplateSpec) {
	spec := t.Spec
	dockerfile, err := os.ReadFile(filepath.Join(root, "Dockerfile"))
	user := imagesUser.FindStringSubmatch(string(dockerfile))
	if err != nil || user == nil {
		c.errorf("the Dockerfile has no user: %v", err)
		return
	}
	uid, gid := number(user[1]), number(user[2])
	s := spec.SecurityContext
	if s == nil || !is(s.RunAsNonRoot, true) || !is(s.RunAsUser, uid) || !is(s.RunAsGroup, gid) || !is(s.FSGroup, gid) || s.SeccompProfile == nil || s.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		c.errorf("%s: its user is not the image's, or it is not confined", what)
	}
	if !is(spec.AutomountServiceAccountToken, false) || !is(spec.EnableServiceLinks, false) || c.accounts[spec.ServiceAccountName] == nil || !is(c.accounts[spec.ServiceAccountName].AutomountServiceAccountToken, false) {
		c.errorf("%s: it has a token of the cluster's, or names of services in its environment, or no account of its own", what)
	}
	if spec.HostNetwork || spec.HostPID || spec.HostIPC || len(spec.EphemeralContainers) > 0 {
		c.errorf("%s: it shares what is the host's", what)
	}
	mounts := map[string]bool{}
	for _, in := range slices.Concat(spec.InitContainers, spec.Containers) {
		s := in.SecurityContext
		if s == nil || !is(s.AllowPrivilegeEscalation, false) || !is(s.ReadOnlyRootFilesystem, true) || s.Capabilities == nil || !slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) || len(s.Capabilities.Add) > 0 || s.Privileged != nil || s.RunAsUser != nil || s.SeccompProfile != nil {
			c.errorf("%s: container %s is not confined", what, in.Name)
		}
		if in.Resources.Limits.Memory().IsZero() || in.Resources.Requests.Memory().IsZero() || in.Resources.Requests.Cpu().IsZero() {
			c.errorf("%s: container %s has no bound of memory, or asks for nothing", what, in.Name)
		}
		if !fixedTag.MatchString(in.Image) {
			c.errorf("%s: image %s: want NAME:MAJOR.MINOR.PATCH", what, in.Image)
		}
		if len(in.EnvFrom) > 0 {
			c.errorf("%s: secrets are in files, and not in the environment", what)
		}
		for _, e := range in.Env {
			if e.ValueFrom != nil || !slices.Contains([]string{"TOKENBROKER_DATA_DIR", "TOKENBROKER_ADDRESS"}, e.Name) {
				c.errorf("%s: %s: secrets are in files, and not in the environment", what, e.Name)
			}
		}
		for _, m := range in.VolumeMounts {
			mounts[m.Name] = true
			i := slices.IndexFunc(spec.Volumes, func(v corev1.Volume) bool { return v.Name == m.Name })
			if i < 0 {
				c.errorf("%s: there is no volume %s", what, m.Name)
				continue
			}
			if m.SubPath != "" || m.SubPathExpr != "" {
				c.errorf("%s: of %s no change is ever seen", what, m.MountPath)
			}
			if !m.ReadOnly && spec.Volumes[i].EmptyDir == nil {
				c.errorf("%s: %s can be written", what, m.MountPath)
			}
		}
	}
	for _, v := range spec.Volumes {
		if !mounts[v.Name] {
			c.errorf("%s: nobody mounts %s", what, v.Name)
		}
		kinds := 0
		source := reflect.ValueOf(v.VolumeSource)
		for i := range source.NumField() {
			if !source.Field(i).IsNil() {
				kinds++
			}
		}
		switch {
		case kinds != 1:
			c.errorf("%s: volume %s is of %d kinds", what, v.Name, kinds)
		case v.EmptyDir != nil && (v.EmptyDir.SizeLimit == nil || v.EmptyDir.Medium != corev1.StorageMediumMemory):
			c.errorf("%s: volume %s has no bound, or lies on a disk", what, v.Name)
		case v.Secret != nil && !is(v.Secret.DefaultMode, 0o400):
			c.errorf("%s: the Secret %s can be read by others", what, v.Secret.SecretName)
		case v.CSI != nil && (v.CSI.Driver != "csi.spiffe.io" || !is(v.CSI.ReadOnly, true)):
			c.errorf("%s: volume %s: want the Workload API, to be read", what, v.Name)
		case v.ConfigMap != nil && c.configs[v.ConfigMap.Name] == nil:
			c.errorf("%s: there is no ConfigMap %s", what, v.ConfigMap.Name)
		case v.Projected != nil && (!is(v.Projected.DefaultMode, 0o400) || slices.ContainsFunc(v.Projected.Sources, func(p corev1.VolumeProjection) bool {
			return p.ServiceAccountToken == nil && p.ConfigMap == nil || p.ServiceAccountToken != nil && p.ServiceAccountToken.Audience == ""
		})):
			c.errorf("%s: volume %s has a token of the cluster's, or can be read by others", what, v.Name)
		case v.EmptyDir == nil && v.Secret == nil && v.CSI == nil && v.ConfigMap == nil && v.Projected == nil:
			c.errorf("%s: volume %s is of a kind that it needs not", what, v.Name)
		}
	}
}

func number(text string) int64 {
	n, _ := strconv.ParseInt(text, 10, 64) // digits, by the expression that found them
	return n
}

// broker: the pod is as the settings want it.
func (c *checker) broker() {
	d, in := c.deployments[name].Spec, c.container()
	ports := map[string]int32{}
	for _, p := range in.Ports {
		ports[p.Name] = p.ContainerPort
	}
	if want := c.settings.ports(); !maps.Equal(ports, want) || len(want) != 3 {
		c.errorf("the container has the ports %v, and the settings listen on %v", ports, want)
	}
	for path, p := range map[string]*corev1.Probe{"/livez": in.LivenessProbe, "/readyz": in.ReadinessProbe} {
		if p == nil || p.HTTPGet == nil || p.HTTPGet.Path != path || p.HTTPGet.Port != intstr.FromString("probes") {
			c.errorf("the probe is not of %s", path)
		}
	}
	named := paths(c.settings.all)
	if len(named) < 6 {
		c.errorf("the settings name %v only", named)
	}
	for _, file := range named {
		if mounted(d.Template.Spec, in, file) == nil {
			c.errorf("%s is not mounted", file)
		}
	}
	if _, err := c.file(d.Template.Spec, in, c.settings.PolicyFile); err != nil {
		c.errorf("the policy: %v", err)
	}
	for _, e := range in.Env {
		if want := map[string]string{"TOKENBROKER_DATA_DIR": c.settings.DataDir, "TOKENBROKER_ADDRESS": "unix:" + c.settings.DataDir + "/tokenbroker.sock"}[e.Name]; e.Value != want {
			c.errorf("%s is %s, want %s", e.Name, e.Value, want)
		}
	}
	if len(in.Env) != 2 {
		c.errorf("the image's environment, which is for /data, is not replaced")
	}
	timeout, err := time.ParseDuration(c.settings.ShutdownTimeout)
	grace, err2 := time.ParseDuration(c.settings.ShutdownGrace)
	if seconds := d.Template.Spec.TerminationGracePeriodSeconds; err != nil || err2 != nil || seconds == nil || time.Duration(*seconds)*time.Second <= timeout || grace <= 0 || grace >= timeout {
		c.errorf("it is killed before it has stopped")
	}
	if d.Replicas != nil {
		c.errorf("the Deployment and the autoscaler both say how many")
	}
	if s := d.Strategy.RollingUpdate; s == nil || s.MaxUnavailable.IntValue() != 0 || s.MaxSurge.IntValue() < 1 {
		c.errorf("a rollout takes a broker away before there is another")
	}
	if len(d.Template.Spec.TopologySpreadConstraints) != 2 {
		c.errorf("brokers are not spread over zones and nodes")
	}
}
