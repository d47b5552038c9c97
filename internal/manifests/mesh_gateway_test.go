package manifests

import (
	"errors"
	"fmt"
	"slices"

	gatewayv1alpha1 "github.com/envoyproxy/gateway/api/v1alpha1"
	gwapiv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// checkGateway returns what is wrong with the example for Envoy Gateway.
func checkGateway(deploy, tree map[string]string) error {
	b, port, err := brokers(deploy)
	if err != nil {
		return err
	}
	m, err := readMesh(tree)
	if err != nil {
		return err
	}
	security, err := ofKind[*gatewayv1alpha1.SecurityPolicy](m, "tokens")
	extension, err2 := ofKind[*gatewayv1alpha1.EnvoyExtensionPolicy](m, "tokens")
	traffic, err3 := ofKind[*gatewayv1alpha1.BackendTrafficPolicy](m, "officernd")
	route, err4 := ofKind[*gwapiv1.HTTPRoute](m, "officernd")
	proxy, err5 := ofKind[*gatewayv1alpha1.EnvoyProxy](m, "egress")
	trusted, err6 := ofKind[*gwapiv1.BackendTLSPolicy](m, name)
	grant, err7 := ofKind[*gwapiv1.ReferenceGrant](m, "egress")
	if err := errors.Join(err, err2, err3, err4, err5, err6, err7); err != nil {
		return err
	}
	auth := security.Spec.ExtAuth
	if auth == nil || auth.GRPC == nil || !is(auth.FailOpen, false) || !is(auth.StatusOnError, 503) || !is(auth.Timeout, "6s") || auth.RecomputeRoute != nil || !slices.Equal(auth.HeadersToExtAuth, []string{"cookie"}) {
		return fmt.Errorf("a request goes on without a token, or the broker sees more than it needs: %+v", auth)
	}
	if e := auth.ContextExtensions; len(e) != 1 || e[0].Name != "credential" || e[0].Type != gatewayv1alpha1.ContextExtensionValueTypeValue || e[0].Value == nil || *e[0].Value == "" {
		return fmt.Errorf("it does not say which token: %+v", e)
	}
	if len(extension.Spec.ExtProc) != 1 || len(auth.GRPC.BackendRefs) != 1 {
		return errors.New("want one processor, and one way to the broker")
	}
	proc := extension.Spec.ExtProc[0]
	for _, refs := range [][]gatewayv1alpha1.BackendRef{auth.GRPC.BackendRefs, proc.BackendRefs} {
		if len(refs) != 1 || b.services[string(refs[0].Name)] == nil || !is(refs[0].Namespace, name) || !is(refs[0].Port, port) {
			return fmt.Errorf("the broker is not at %+v", refs)
		}
	}
	if !is(proc.FailOpen, true) || !is(proc.MessageTimeout, "6s") || proc.ProcessingMode == nil || proc.ProcessingMode.Request != nil || proc.ProcessingMode.Response == nil ||
		!slices.Equal(proc.ProcessingMode.Response.Attributes, []string{"connection.uri_san_peer_certificate", "connection.mtls"}) || proc.Metadata == nil || !slices.Equal(proc.Metadata.AccessibleNamespaces, []string{"envoy.filters.http.ext_authz"}) {
		return fmt.Errorf("the broker does not hear of a token that was refused: %+v", proc)
	}
	for _, refs := range [][]gwapiv1.LocalPolicyTargetReferenceWithSectionName{security.Spec.TargetRefs, extension.Spec.TargetRefs, traffic.Spec.TargetRefs} {
		if len(refs) != 1 || refs[0].Kind != "HTTPRoute" || string(refs[0].Name) != route.Name {
			return fmt.Errorf("a policy is of %+v", refs)
		}
	}
	if r := traffic.Spec.Retry; r == nil || r.RetryOn == nil || len(r.RetryOn.HTTPStatusCodes) != 0 || slices.Contains(r.RetryOn.Triggers, gatewayv1alpha1.RetriableStatusCodes) {
		return errors.New("a 401 is tried again with the same token")
	}
	labels := proxy.Spec.Provider.Kubernetes.EnvoyDeployment.Pod.Labels
	if from := b.policies[name].Spec.Ingress[0].From[0]; !selects(from.PodSelector, labels) {
		return fmt.Errorf("the broker's network policy does not let in %v", labels)
	}
	if t := trusted.Spec; trusted.Namespace != name || len(t.TargetRefs) != 1 || b.services[string(t.TargetRefs[0].Name)] == nil || len(t.Validation.SubjectAltNames) != 1 || t.Validation.SubjectAltNames[0].URI != "spiffe://corp.example/ns/tokenbroker/sa/tokenbroker" {
		return fmt.Errorf("another broker is believed: %+v", t)
	}
	if grant.Namespace != name || len(grant.Spec.From) != 2 || string(grant.Spec.From[0].Namespace) != security.Namespace || string(grant.Spec.From[1].Namespace) != extension.Namespace {
		return fmt.Errorf("the broker may not be referred to: %+v", grant.Spec)
	}
	return nil
}
