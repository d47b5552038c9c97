package manifests

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	gatewayv1alpha1 "github.com/envoyproxy/gateway/api/v1alpha1"
	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	gwapiv1 "sigs.k8s.io/gateway-api/apis/v1"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// documents are those of a file, as JSON.
func documents(text string) (all [][]byte, err error) {
	r := utilyaml.NewYAMLReader(bufio.NewReader(strings.NewReader(text)))
	for {
		d, err := r.Read()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		j, err := yaml.YAMLToJSONStrict(d)
		if err != nil {
			return nil, err
		}
		if !bytes.Equal(j, []byte("null")) {
			all = append(all, j)
		}
	}
}

// mesh are the objects of an example.
type mesh struct {
	plain []metav1.Object
	// istio are the messages of Istio's objects, by kind and name.
	istio map[string]proto.Message
}

// readMesh decodes all objects of files.
func readMesh(tree map[string]string) (*mesh, error) {
	decode, err := decoder(corev1.AddToScheme, gatewayv1alpha1.AddToScheme, gwapiv1.Install)
	if err != nil {
		return nil, err
	}
	m := &mesh{istio: map[string]proto.Message{}}
	for _, file := range slices.Sorted(maps.Keys(tree)) {
		all, err := documents(tree[file])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		for _, d := range all {
			var o istio
			if strict, err := kjson.UnmarshalStrict(d, &o); err == nil && len(strict) == 0 {
				message, err := o.message()
				if err != nil {
					return nil, fmt.Errorf("%s: %s %s: %w", file, o.Kind, o.Name, err)
				}
				if message != nil {
					m.istio[o.Kind+" "+o.Name] = message
					continue
				}
			}
			object, _, err := decode.Decode(d, nil, nil)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", file, err)
			}
			m.plain = append(m.plain, object.(metav1.Object))
		}
	}
	return m, nil
}

// ofKind is the object of this type and name.
func ofKind[T metav1.Object](m *mesh, name string) (t T, err error) {
	for _, o := range m.plain {
		if it, ok := o.(T); ok && o.GetName() == name {
			return it, nil
		}
	}
	return t, fmt.Errorf("there is no %T %s", t, name)
}

// brokers is the Service of the base that services ask, and the address of its port.
func brokers(deploy map[string]string) (*built, int32, error) {
	b, err := build(deploy, "base")
	if err != nil {
		return nil, 0, err
	}
	s := b.services[name]
	if s == nil || len(s.Spec.Ports) != 1 {
		return nil, 0, errors.New("the base has no Service for services")
	}
	return b, s.Spec.Ports[0].Port, nil
}

// meshes are the examples, and what holds them.
var meshes = map[string]func(deploy, tree map[string]string) error{"examples/envoy-gateway": checkGateway, "examples/istio": checkIstio}

// TestTheExamplesOfMeshes are of the types that Istio, Envoy Gateway and Envoy have published, and lead to the broker of deploy/.
func TestTheExamplesOfMeshes(t *testing.T) {
	t.Parallel()
	deploy := files(t, "deploy")
	for dir, check := range meshes {
		if err := check(deploy, files(t, dir)); err != nil {
			t.Errorf("%s: %v", dir, err)
		}
	}
}

// TestWhatIsWrongWithAMeshIsSeen: each change of one text makes the check say what is wrong.
func TestWhatIsWrongWithAMeshIsSeen(t *testing.T) {
	t.Parallel()
	deploy := files(t, "deploy")
	for _, m := range []struct{ dir, file, was, now, says string }{
		{"examples/istio", "mesh-config.yaml", "failOpen: false", "failureModeAllow: false", `unknown field "failureModeAllow"`},
		{"examples/istio", "mesh-config.yaml", "failOpen: false", "failOpen: true", "the provider is"},
		{"examples/istio", "mesh-config.yaml", "port: 7430", "port: 7431", "the provider is"},
		{"examples/istio", "egress.yaml", "sni: app", "serverName: app", "unknown field"},
		{"examples/istio", "egress.yaml", "name: officernd # by", "name: api # by", "there is no route"},
		{"examples/istio", "tokens.yaml", "ISTIO_MUTUAL", "MUTUAL", "another broker is believed"},
		{"examples/istio", "tokens.yaml", "action: CUSTOM", "action: ALLOW", "the broker is not asked"},
		{"examples/istio", "tokens.yaml", "action: CUSTOM", "action: EXTERNAL", "invalid value for enum"},
		{"examples/istio", "tokens.yaml", "check_settings: {context_extensions:", "check_settings: {contextextensions:", "unknown field"},
		{"examples/istio", "tokens.yaml", "filters.http.ext_authz.v3.ExtAuthzPerRoute", "filters.http.ext_authz.v3.ExtAuthzRoute", "ExtAuthzRoute"},
		{"examples/istio", "tokens.yaml", "outbound|7430||", "outbound|7431||", "the broker is not at"},
		{"examples/istio", "tokens.yaml", "message_timeout: 6s", "message_timeout: 6000", "unexpected token 6000"},
		{"examples/istio", "tokens.yaml", "targetPort: services", "targetPort: operators", "the Service leads elsewhere"},
		{"examples/envoy-gateway", "tokens.yaml", "contextExtensions:", "contextExtension:", "unknown field"},
		{"examples/envoy-gateway", "tokens.yaml", "failOpen: false", "failOpen: true", "goes on without a token"},
		{"examples/envoy-gateway", "tokens.yaml", "name: tokenbroker, namespace: tokenbroker, port: 7430", "name: tokenbroker, namespace: tokenbroker, port: 7431", "the broker is not at"},
		{"examples/envoy-gateway", "tokens.yaml", "triggers: [connect-failure", "httpStatusCodes: [401], triggers: [retriable-status-codes", "a 401 is tried again"},
		{"examples/envoy-gateway", "tokens.yaml", "accessibleNamespaces", "forwardingNamespaces", "unknown field"},
		{"examples/envoy-gateway", "gateway.yaml", "tokenbroker-client", "client", "does not let in"},
		{"examples/envoy-gateway", "gateway.yaml", "caCertificateRefs", "caCertificates", "unknown field"},
		{"examples/envoy-gateway", "gateway.yaml", "kind: Backend\nmetadata", "kind: Backends\nmetadata", "Backends"},
	} {
		t.Run(m.dir+" "+m.now, func(t *testing.T) {
			t.Parallel()
			tree := files(t, m.dir)
			if !strings.Contains(tree[m.file], m.was) {
				t.Fatalf("there is no %q in it", m.was)
			}
			tree[m.file] = strings.Replace(tree[m.file], m.was, m.now, 1)
			if err := meshes[m.dir](deploy, tree); err == nil || !strings.Contains(err.Error(), m.says) {
				t.Errorf("got %v, want one that says %s", err, m.says)
			}
		})
	}
}
