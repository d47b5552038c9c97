package manifests

import (
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// The names that everything has.
const (
	name       = "tokenbroker"
	applies    = "tokenbroker-credentials"
	configFlag = "--config"
)

// A checker finds what is wrong with an overlay: what its objects say of each other, and of the settings in them.
type checker struct {
	*built
	overlay  string
	settings settings
	wrong    []string
}

// settings are those of the broker's that the cluster has to know of. Whether all of them are good says tokenbroker config check, in cmd/tokenbroker.
type settings struct {
	DataDir             string   `json:"data_dir"`
	Store               string   `json:"store"`
	ProbesListen        string   `json:"probes_listen"`
	ShutdownGrace       string   `json:"shutdown_grace"`
	ShutdownTimeout     string   `json:"shutdown_timeout"`
	PolicyFile          string   `json:"policy_file"`
	Services, Operators listener `json:",omitempty"`
	Trust               map[string]struct {
		TrustDomain string `json:"trust_domain"`
	}
	all map[string]any
}

type listener struct{ Listen []string }

// check builds an overlay, and returns what is wrong with it.
func check(tree map[string]string, overlay string) []string {
	b, err := build(tree, overlay)
	if err != nil {
		return []string{err.Error()}
	}
	c := &checker{built: b, overlay: overlay}
	if len(b.deployments) != 1 || b.deployments[name] == nil || len(b.deployments[name].Spec.Template.Spec.Containers) != 1 {
		return []string{"want one Deployment, with one container"}
	}
	if err := c.read(); err != nil {
		return []string{err.Error()}
	}
	c.whole()
	c.pod("the Deployment", b.deployments[name].Spec.Template)
	c.broker()
	c.reached()
	c.network()
	c.credentials()
	c.certified()
	c.alike(tree)
	return c.wrong
}

func (c *checker) errorf(format string, args ...any) {
	c.wrong = append(c.wrong, fmt.Sprintf(format, args...))
}

func (c *checker) template() corev1.PodTemplateSpec { return c.deployments[name].Spec.Template }

func (c *checker) container() corev1.Container { return c.template().Spec.Containers[0] }

// read finds the settings that the broker is started with: by its arguments, the mount, the volume and the ConfigMap.
func (c *checker) read() error {
	args := c.container().Args
	i := slices.Index(args, configFlag)
	if i < 0 || i+1 == len(args) {
		return fmt.Errorf("there is no %s in %v", configFlag, args)
	}
	text, err := c.file(c.template().Spec, c.container(), args[i+1])
	if err != nil {
		return err
	}
	if err := yaml.Unmarshal([]byte(text), &c.settings.all); err != nil {
		return err
	}
	return yaml.Unmarshal([]byte(text), &c.settings)
}

// mounted is the volume in which a path of a container lies; nil: it is in the image.
func mounted(pod corev1.PodSpec, in corev1.Container, file string) *corev1.Volume {
	for _, m := range in.VolumeMounts {
		if file != m.MountPath && !strings.HasPrefix(file, m.MountPath+"/") {
			continue
		}
		for _, v := range pod.Volumes {
			if v.Name == m.Name {
				return &v
			}
		}
	}
	return nil
}

// file is what a ConfigMap has at a path of a container.
func (c *checker) file(pod corev1.PodSpec, in corev1.Container, at string) (string, error) {
	v := mounted(pod, in, at)
	if v == nil || v.ConfigMap == nil || c.configs[v.ConfigMap.Name] == nil {
		return "", fmt.Errorf("%s is in no ConfigMap of these", at)
	}
	text, ok := c.configs[v.ConfigMap.Name].Data[filepath.Base(at)]
	if !ok {
		return "", fmt.Errorf("ConfigMap %s has no %s", v.ConfigMap.Name, filepath.Base(at))
	}
	return text, nil
}

// whole: everything is there, and in one namespace that is restricted.
func (c *checker) whole() {
	for _, o := range c.all {
		if ns := o.GetNamespace(); ns != name && o.GetName() != name {
			c.errorf("%s is in the namespace %q", o.GetName(), ns)
		}
	}
	if ns := c.namespaces[name]; ns == nil || ns.Labels["pod-security.kubernetes.io/enforce"] != "restricted" {
		c.errorf("the namespace is not restricted")
	}
	if c.overlay != "base" && (c.monitors[name] == nil || c.jobs[applies] == nil) {
		c.errorf("there is no PodMonitor, or no Job of credentials")
	}
	for generated, hashed := range map[string]bool{"settings": true, "policy": false, "providers": false} {
		for _, v := range c.template().Spec.Volumes {
			if v.Name == generated && (v.ConfigMap == nil || (v.ConfigMap.Name != name+"-"+generated) != hashed) {
				c.errorf("%s: a hash in the name of its ConfigMap: want %v", generated, hashed) // with one, a change replaces the pods
			}
		}
	}
}

// port is that of an address to listen on.
func port(address string) int32 {
	_, p, err := net.SplitHostPort(address)
	if err != nil {
		return 0
	}
	return int32(number(p))
}

// ports are where the settings listen for other machines, by name.
func (s settings) ports() map[string]int32 {
	all := map[string]int32{"probes": port(s.ProbesListen)}
	for what, l := range map[string]listener{"services": s.Services, "operators": s.Operators} {
		for _, address := range l.Listen {
			all[what] = port(address)
		}
	}
	return all
}

// paths are those that a document of settings names, whatever they are of.
func paths(of any) (all []string) {
	switch v := of.(type) {
	case string:
		for _, prefix := range []string{"unix://", "file://", ""} {
			if rest, ok := strings.CutPrefix(v, prefix); ok {
				if strings.HasPrefix(rest, "/") {
					all = append(all, rest)
				}
				break
			}
		}
	case []any:
		for _, e := range v {
			all = append(all, paths(e)...)
		}
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(v)) {
			all = append(all, paths(v[k])...)
		}
	}
	return all
}

// alike: the settings of an overlay are the base's, but for where certificates come from.
func (c *checker) alike(tree map[string]string) {
	if c.overlay == "base" || !slices.Contains(overlays, c.overlay) { // of one's own they are what one likes
		return
	}
	var base map[string]any
	if err := yaml.Unmarshal([]byte(tree["base/settings.yaml"]), &base); err != nil {
		c.errorf("%v", err)
		return
	}
	without := func(all map[string]any) map[string]any {
		for _, l := range []string{"services", "operators"} {
			m, _ := all[l].(map[string]any)
			for _, word := range []string{"cert_file", "key_file", "workload_api"} {
				delete(m, word)
			}
		}
		trust, _ := all["trust"].(map[string]any)
		for _, t := range trust {
			m, _ := t.(map[string]any)
			delete(m, "ca_file")
		}
		return all
	}
	if !reflect.DeepEqual(without(base), without(c.settings.all)) {
		c.errorf("the settings are others than the base's")
	}
}
