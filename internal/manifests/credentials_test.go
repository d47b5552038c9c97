package manifests

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/yaml"
)

// credentials: the Job finds the broker, its files, and the secrets that the declarations name.
func (c *checker) credentials() {
	j := c.jobs[applies]
	if j == nil {
		return
	}
	c.pod("the Job", j.Spec.Template)
	if j.Spec.Template.Spec.RestartPolicy != corev1.RestartPolicyNever || len(j.Spec.Template.Spec.Containers) != 1 {
		c.errorf("the Job starts again, or has another number of containers than one")
		return
	}
	spec, in := j.Spec.Template.Spec, j.Spec.Template.Spec.Containers[0]
	if in.Image != c.container().Image {
		c.errorf("the Job is of another version than the broker")
	}
	flags := map[string]string{}
	for _, arg := range in.Args {
		flag, value, _ := strings.Cut(arg, "=")
		flags[flag] = value
		if strings.HasPrefix(value, "/") && mounted(spec, in, value) == nil {
			c.errorf("the Job: %s is not mounted", value)
		}
	}
	service := c.services[name+"-operators"]
	if service == nil || flags["--address"] != fmt.Sprintf("%s.%s.svc:%d", service.Name, service.Namespace, service.Spec.Ports[0].Port) {
		c.errorf("the Job asks %s", flags["--address"])
	}
	for _, flag := range []string{"--tls-ca-file", "--tls-cert-file", "--tls-key-file"} {
		if flags[flag] == "" {
			c.errorf("the Job has no %s", flag)
		}
	}
	text, err := c.file(spec, in, flags["--file"])
	if err != nil {
		c.errorf("the Job: %v", err)
		return
	}
	var declared []struct{ Secrets map[string]string }
	if err := yaml.Unmarshal([]byte(text), &declared); err != nil || len(declared) == 0 {
		c.errorf("the declarations: %d, %v", len(declared), err)
	}
	for _, d := range declared {
		for _, reference := range d.Secrets {
			at, ok := strings.CutPrefix(reference, "file:")
			if v := mounted(spec, in, at); !ok || v == nil || v.Secret == nil {
				c.errorf("%s is in no Secret that the Job mounts", reference)
			}
		}
	}
	p := c.policies[applies]
	if p == nil || !selects(&p.Spec.PodSelector, j.Spec.Template.Labels) || len(p.Spec.PolicyTypes) != 2 || len(p.Spec.Ingress) > 0 {
		c.errorf("the Job is reached by somebody")
		return
	}
	if !slices.ContainsFunc(p.Spec.Egress, func(rule networkingv1.NetworkPolicyEgressRule) bool {
		return len(rule.To) == 1 && rule.To[0].PodSelector != nil && selects(rule.To[0].PodSelector, c.template().Labels) && len(rule.Ports) == 1 && rule.Ports[0].Port.IntVal == c.settings.ports()["operators"]
	}) {
		c.errorf("the Job does not reach the operators' port")
	}
	policy, err := c.file(c.template().Spec, c.container(), c.settings.PolicyFile)
	if id := c.identity(spec.ServiceAccountName); err != nil || !strings.Contains(policy, `"`+id+`"`) {
		c.errorf("the policy does not know %s, who is the Job", id)
	}
}

// identity is the SPIFFE ID of a service account, as policies write it.
func (c *checker) identity(account string) string {
	for _, t := range c.settings.Trust {
		return t.TrustDomain + "/ns/" + name + "/sa/" + account
	}
	return ""
}

// certified: what cert-manager makes is what is mounted, and says who the pod is.
func (c *checker) certified() {
	if (len(c.certificates) > 0) != (c.overlay == "overlays/cert-manager") {
		c.errorf("there are %d certificates", len(c.certificates))
	}
	templates := map[string]corev1.PodTemplateSpec{name: c.template()}
	if j := c.jobs[applies]; j != nil {
		templates[applies] = j.Spec.Template
	}
	for what, t := range templates {
		spec := t.Spec
		v := mounted(spec, spec.Containers[0], "/etc/tokenbroker/tls")
		cert := c.certificates[what]
		if cert == nil {
			if c.overlay == "overlays/cert-manager" {
				c.errorf("there is no certificate %s", what)
			}
			if c.overlay == "overlays/spiffe" && v != nil && v.Secret != nil {
				c.errorf("%s has a Secret that nobody makes", what)
			}
			continue
		}
		if v == nil || v.Secret == nil || v.Secret.SecretName != cert.Spec.SecretName {
			c.errorf("the certificate %s is not mounted", what)
		}
		if !slices.Equal(cert.Spec.URIs, []string{"spiffe://" + c.identity(spec.ServiceAccountName)}) {
			c.errorf("the certificate %s is of %v", what, cert.Spec.URIs)
		}
		if what != name {
			continue
		}
		for _, s := range c.services {
			if host := s.Name + "." + s.Namespace + ".svc"; !slices.Contains(cert.Spec.DNSNames, host) || !slices.Contains(cert.Spec.DNSNames, host+".cluster.local") {
				c.errorf("the certificate is not for %s", host)
			}
		}
	}
}
