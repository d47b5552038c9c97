package manifests

import (
	"fmt"
	"maps"
	"net/url"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// selects is whether a selector, which is not of everything, has these labels.
func selects(s *metav1.LabelSelector, of map[string]string) bool {
	m, err := metav1.LabelSelectorAsSelector(s)
	return err == nil && !m.Empty() && m.Matches(labels.Set(of))
}

// reached: what selects the brokers, selects them and no Job, and leads to ports that they have.
func (c *checker) reached() {
	pods := c.template().Labels
	selectors := map[string]*metav1.LabelSelector{"the Deployment": c.deployments[name].Spec.Selector}
	for i, s := range c.template().Spec.TopologySpreadConstraints {
		selectors[fmt.Sprintf("the spread %d", i)] = s.LabelSelector
	}
	if c.budgets[name] == nil || c.scalers[name] == nil || c.policies[name] == nil || len(c.services) != 2 {
		c.errorf("want a budget, an autoscaler, a network policy and two Services")
		return
	}
	selectors["the budget"], selectors["the network policy"] = c.budgets[name].Spec.Selector, &c.policies[name].Spec.PodSelector
	if m := c.monitors[name]; m != nil {
		selectors["the PodMonitor"] = &m.Spec.Selector
		if e := m.Spec.PodMetricsEndpoints; len(e) != 1 || !is(e[0].Port, "probes") || e[0].Path != "/metrics" {
			c.errorf("the PodMonitor asks elsewhere than at the probes' port")
		}
	}
	for of, headless := range map[string]bool{"services": true, "operators": false} {
		s := c.services[map[string]string{"services": name, "operators": name + "-operators"}[of]]
		if s == nil {
			c.errorf("there is no Service for %s", of)
			continue
		}
		selectors["the Service "+s.Name] = &metav1.LabelSelector{MatchLabels: s.Spec.Selector}
		if p := s.Spec.Ports; len(p) != 1 || p[0].TargetPort != intstr.FromString(of) || p[0].Port != c.settings.ports()[of] {
			c.errorf("the Service %s leads to %+v", s.Name, p)
		}
		if (s.Spec.ClusterIP == corev1.ClusterIPNone) != headless || s.Spec.PublishNotReadyAddresses {
			c.errorf("the Service %s: headless: want %v", s.Name, headless)
		}
	}
	for what, s := range selectors {
		if !selects(s, pods) {
			c.errorf("%s does not select the brokers", what)
		}
		if j := c.jobs[applies]; j != nil && selects(s, j.Spec.Template.Labels) {
			c.errorf("%s selects the Job", what)
		}
	}
	if b := c.budgets[name].Spec; b.MinAvailable != nil || b.MaxUnavailable == nil || b.MaxUnavailable.IntValue() != 1 {
		c.errorf("the budget lets another number than one go")
	}
	h := c.scalers[name].Spec
	if h.ScaleTargetRef.APIVersion != "apps/v1" || h.ScaleTargetRef.Kind != "Deployment" || h.ScaleTargetRef.Name != name || !is(h.MinReplicas, 2) || h.MaxReplicas <= 2 {
		c.errorf("the autoscaler is of %+v", h.ScaleTargetRef)
	}
	if len(h.Metrics) != 1 || h.Metrics[0].Resource == nil || h.Metrics[0].Resource.Name != corev1.ResourceCPU {
		c.errorf("the autoscaler does not go by CPU")
	}
}

// network: each port is reached by those whom it is for, and nobody else, and brokers reach what they need.
func (c *checker) network() {
	p := c.policies[name]
	if p == nil || !slices.Equal(p.Spec.PolicyTypes, []networkingv1.PolicyType{"Ingress", "Egress"}) {
		c.errorf("there is no network policy, or it leaves a direction open")
		return
	}
	seen := map[string]bool{}
	for _, rule := range p.Spec.Ingress {
		if len(rule.Ports) != 1 || rule.Ports[0].Port == nil || len(rule.From) != 1 {
			c.errorf("a rule is for any port or for anybody: %+v", rule)
			continue
		}
		from, of := rule.From[0], rule.Ports[0].Port.StrVal
		seen[of] = true
		if from.IPBlock != nil || from.PodSelector == nil || len(from.PodSelector.MatchLabels) == 0 {
			c.errorf("%s are reached by pods without a label", of)
		}
		switch of {
		case "operators":
			if from.NamespaceSelector != nil {
				c.errorf("operators are let in from other namespaces")
			}
			if j := c.jobs[applies]; j != nil && !selects(from.PodSelector, j.Spec.Template.Labels) {
				c.errorf("the Job does not reach the operators' port")
			}
		case "probes":
			if from.NamespaceSelector == nil || len(from.NamespaceSelector.MatchLabels) == 0 {
				c.errorf("the probes' port is reached from everywhere")
			}
		case "services":
			if from.NamespaceSelector == nil {
				c.errorf("callers are in this namespace alone")
			}
		}
	}
	if want := c.settings.ports(); len(seen) != len(want) || !seen["services"] || !seen["operators"] || !seen["probes"] {
		c.errorf("the network reaches %v, and the settings listen on %v", slices.Sorted(maps.Keys(seen)), want)
	}
	store, err := url.Parse(c.settings.Store)
	if err != nil || store.Scheme != "rediss" {
		c.errorf("Redis is not asked over TLS: %s", c.settings.Store)
		return
	}
	out := map[int32]bool{}
	for _, p := range c.policies {
		for _, rule := range p.Spec.Egress {
			if len(rule.To) == 0 || len(rule.Ports) == 0 {
				c.errorf("%s reaches anything: %+v", p.Name, rule)
			}
			for _, to := range rule.To {
				if b := to.IPBlock; b != nil && !slices.Contains(b.Except, "169.254.0.0/16") && !slices.Contains(b.Except, "fe80::/10") {
					c.errorf("%s reaches the metadata service", p.Name)
				}
			}
			for _, at := range rule.Ports {
				if p.Name == name {
					out[at.Port.IntVal] = true
				}
			}
		}
	}
	for _, needed := range []int32{53, 443, int32(number(store.Port()))} {
		if !out[needed] {
			c.errorf("brokers do not reach port %d", needed)
		}
	}
}
