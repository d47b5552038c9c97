package manifests

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	authzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	procv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
	meshv1alpha1 "istio.io/api/mesh/v1alpha1"
	networkingv1alpha3 "istio.io/api/networking/v1alpha3"
	securityv1beta1 "istio.io/api/security/v1beta1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// istio is an object of Istio's. Its own types let unknown fields pass, so that the messages in it are read here.
type istio struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              any `json:"spec"`
}

// message is the spec of an object, strictly; nil: it is none of Istio's.
func (o istio) message() (proto.Message, error) {
	m := map[string]proto.Message{
		"networking.istio.io/v1 ServiceEntry":      &networkingv1alpha3.ServiceEntry{}, // v1 is v1alpha3 by another name
		"networking.istio.io/v1 Gateway":           &networkingv1alpha3.Gateway{},
		"networking.istio.io/v1 VirtualService":    &networkingv1alpha3.VirtualService{},
		"networking.istio.io/v1 DestinationRule":   &networkingv1alpha3.DestinationRule{},
		"networking.istio.io/v1alpha3 EnvoyFilter": &networkingv1alpha3.EnvoyFilter{},
		"security.istio.io/v1 AuthorizationPolicy": &securityv1beta1.AuthorizationPolicy{},
	}[o.APIVersion+" "+o.Kind]
	if m == nil {
		return nil, nil
	}
	text, err := yaml.Marshal(o.Spec)
	if err != nil {
		return nil, err
	}
	return m, fromYAML(string(text), m)
}

// fromYAML reads a message, strictly.
func fromYAML(text string, m proto.Message) error {
	j, err := yaml.YAMLToJSONStrict([]byte(text))
	if err != nil {
		return err
	}
	return protojson.Unmarshal(j, m)
}

// ofEnvoy reads a part of Envoy's configuration into its type, with all that is in it, and has it validated as Envoy does.
func ofEnvoy(value *structpb.Struct, m interface {
	proto.Message
	ValidateAll() error
}) error {
	j, err := value.MarshalJSON()
	if err != nil {
		return err
	}
	if err := protojson.Unmarshal(j, m); err != nil {
		return err
	}
	return m.ValidateAll()
}

// unpacked is what is in an Any, validated.
func unpacked[M interface {
	proto.Message
	ValidateAll() error
}](a *anypb.Any, m M) (M, error) {
	if err := a.UnmarshalTo(m); err != nil {
		return m, err
	}
	return m, m.ValidateAll()
}

// checkIstio returns what is wrong with the example for Istio.
func checkIstio(deploy, tree map[string]string) error {
	b, port, err := brokers(deploy)
	if err != nil {
		return err
	}
	tree = maps.Clone(tree)
	var config meshv1alpha1.MeshConfig
	if err := fromYAML(tree["mesh-config.yaml"], &config); err != nil {
		return err
	}
	delete(tree, "mesh-config.yaml")
	m, err := readMesh(tree)
	if err != nil {
		return err
	}
	if len(config.ExtensionProviders) != 1 {
		return errors.New("want one provider")
	}
	service, err := ofKind[*corev1.Service](m, "tokenbroker-mesh")
	if err != nil {
		return err
	}
	host := service.Name + "." + service.Namespace + ".svc.cluster.local"
	if s := service.Spec; !selects(&metav1.LabelSelector{MatchLabels: s.Selector}, b.deployments[name].Spec.Template.Labels) || s.ClusterIP == corev1.ClusterIPNone || len(s.Ports) != 1 || s.Ports[0].Port != port || s.Ports[0].TargetPort.StrVal != "services" || !is(s.Ports[0].AppProtocol, "grpc") {
		return fmt.Errorf("the Service leads elsewhere: %+v", s)
	}
	provider := config.ExtensionProviders[0].GetEnvoyExtAuthzGrpc()
	if provider.GetService() != service.Namespace+"/"+host || provider.GetPort() != uint32(port) || provider.GetFailOpen() || provider.GetStatusOnError() != "503" || provider.GetTimeout().GetSeconds() != 6 || provider.GetClearRouteCache() {
		return fmt.Errorf("the provider is %v", provider)
	}
	trusted, _ := m.istio["DestinationRule tokenbroker-mesh"].(*networkingv1alpha3.DestinationRule)
	if tls := trusted.GetTrafficPolicy().GetTls(); trusted.GetHost() != host || tls.GetMode() != networkingv1alpha3.ClientTLSSettings_ISTIO_MUTUAL || !slices.Equal(tls.GetSubjectAltNames(), []string{"spiffe://corp.example/ns/tokenbroker/sa/tokenbroker"}) {
		return fmt.Errorf("another broker is believed: %v", trusted)
	}
	policy, _ := m.istio["AuthorizationPolicy tokens"].(*securityv1beta1.AuthorizationPolicy)
	if policy.GetAction() != securityv1beta1.AuthorizationPolicy_CUSTOM || policy.GetProvider().GetName() != config.ExtensionProviders[0].Name || len(policy.GetRules()) != 1 {
		return fmt.Errorf("the broker is not asked: %v", policy)
	}
	routes, _ := m.istio["VirtualService officernd"].(*networkingv1alpha3.VirtualService)
	var hosts []string // a client may say the port, too
	for _, h := range routes.GetHosts() {
		hosts = append(hosts, h, h+":*")
	}
	if !slices.Equal(hosts, policy.GetRules()[0].GetTo()[0].GetOperation().GetHosts()) {
		return errors.New("the broker is asked for other hosts than the route's")
	}
	filter, _ := m.istio["EnvoyFilter tokens"].(*networkingv1alpha3.EnvoyFilter)
	if len(filter.GetConfigPatches()) != 2 || !maps.Equal(filter.GetWorkloadSelector().GetLabels(), policy.GetSelector().GetMatchLabels()) {
		return errors.New("want two patches, of the workload that asks the broker")
	}
	return patches(filter.GetConfigPatches(), routes, fmt.Sprintf("outbound|%d||%s", port, host))
}

// patches are those of Envoy's configuration: which token a route has, and that the broker is told of one that was refused.
func patches(all []*networkingv1alpha3.EnvoyFilter_EnvoyConfigObjectPatch, routes *networkingv1alpha3.VirtualService, cluster string) error {
	at := all[0].GetMatch().GetRouteConfiguration()
	if all[0].GetApplyTo() != networkingv1alpha3.EnvoyFilter_HTTP_ROUTE || !slices.ContainsFunc(routes.GetHttp(), func(r *networkingv1alpha3.HTTPRoute) bool { return r.GetName() == at.GetVhost().GetRoute().GetName() }) || at.GetGateway() != "egress/egress" {
		return fmt.Errorf("there is no route %v", at)
	}
	var route routev3.Route // with a match and an action, which are those of the route that this is merged into
	value := proto.CloneOf(all[0].GetPatch().GetValue())
	for field, text := range map[string]string{"match": `{prefix: /}`, "route": `{cluster: x}`} {
		s := &structpb.Struct{}
		if err := fromYAML(text, s); err != nil {
			return err
		}
		value.Fields[field] = structpb.NewStructValue(s)
	}
	if err := ofEnvoy(value, &route); err != nil {
		return err
	}
	per, err := unpacked(route.GetTypedPerFilterConfig()["envoy.filters.http.ext_authz"], &authzv3.ExtAuthzPerRoute{})
	if err != nil {
		return err
	}
	if words := per.GetCheckSettings().GetContextExtensions(); len(words) != 1 || words["credential"] == "" {
		return fmt.Errorf("it does not say which token: %v", words)
	}
	var tells hcmv3.HttpFilter
	if err := ofEnvoy(all[1].GetPatch().GetValue(), &tells); err != nil {
		return err
	}
	proc, err := unpacked(tells.GetTypedConfig(), &procv3.ExternalProcessor{})
	if err != nil {
		return err
	}
	if grpc := proc.GetGrpcService().GetEnvoyGrpc(); grpc.GetClusterName() != cluster || strings.Contains(grpc.GetAuthority(), "|") || grpc.GetAuthority() == "" {
		return fmt.Errorf("the broker is not at %v", grpc)
	}
	if !proc.GetFailureModeAllow() || proc.GetMessageTimeout().GetSeconds() != 6 || len(proc.GetResponseAttributes()) != 2 || !slices.Equal(proc.GetMetadataOptions().GetForwardingNamespaces().GetUntyped(), []string{"envoy.filters.http.ext_authz"}) ||
		proc.GetProcessingMode().GetRequestHeaderMode() != procv3.ProcessingMode_SKIP || proc.GetProcessingMode().GetResponseHeaderMode() != procv3.ProcessingMode_SEND {
		return fmt.Errorf("the broker does not hear of a token that was refused: %v", proc)
	}
	return nil
}
