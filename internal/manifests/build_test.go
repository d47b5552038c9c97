package manifests

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	certmanagerv1 "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

const root = "../.."

// overlays are what people apply; the base is what they have in common.
var overlays = []string{"base", "overlays/cert-manager", "overlays/spiffe"}

// files are the tree below a directory of the project, by path from there.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := fs.WalkDir(os.DirFS(filepath.Join(root, dir)), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(filepath.Join(root, dir, name))
		all[name] = string(text)
		return err
	})
	if err != nil || len(all) == 0 {
		t.Fatalf("%s: %d files, %v", dir, len(all), err)
	}
	return all
}

// decoder reads objects into the types that add puts into a scheme, strictly.
func decoder(add ...func(*runtime.Scheme) error) (runtime.Decoder, error) {
	scheme := runtime.NewScheme()
	for _, f := range add {
		if err := f(scheme); err != nil {
			return nil, err
		}
	}
	return serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer(), nil
}

// built are the objects of an overlay, by kind and then by name.
type built struct {
	all          []metav1.Object
	namespaces   map[string]*corev1.Namespace
	deployments  map[string]*appsv1.Deployment
	jobs         map[string]*batchv1.Job
	services     map[string]*corev1.Service
	accounts     map[string]*corev1.ServiceAccount
	configs      map[string]*corev1.ConfigMap
	policies     map[string]*networkingv1.NetworkPolicy
	budgets      map[string]*policyv1.PodDisruptionBudget
	scalers      map[string]*autoscalingv2.HorizontalPodAutoscaler
	monitors     map[string]*monitoringv1.PodMonitor
	certificates map[string]*certmanagerv1.Certificate
}

// build has kustomize build an overlay of the tree, and decodes what comes of it.
func build(tree map[string]string, overlay string) (*built, error) {
	memory := filesys.MakeFsInMemory()
	for _, name := range slices.Sorted(maps.Keys(tree)) {
		if err := memory.WriteFile(path.Join("/deploy", name), []byte(tree[name])); err != nil {
			return nil, err
		}
	}
	resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(memory, path.Join("/deploy", overlay))
	if err != nil {
		return nil, err
	}
	decode, err := decoder(corev1.AddToScheme, appsv1.AddToScheme, autoscalingv2.AddToScheme, batchv1.AddToScheme, networkingv1.AddToScheme, policyv1.AddToScheme, monitoringv1.AddToScheme, certmanagerv1.AddToScheme)
	if err != nil {
		return nil, err
	}
	b := &built{
		namespaces: map[string]*corev1.Namespace{}, deployments: map[string]*appsv1.Deployment{}, jobs: map[string]*batchv1.Job{}, services: map[string]*corev1.Service{},
		accounts: map[string]*corev1.ServiceAccount{}, configs: map[string]*corev1.ConfigMap{}, policies: map[string]*networkingv1.NetworkPolicy{}, budgets: map[string]*policyv1.PodDisruptionBudget{},
		scalers: map[string]*autoscalingv2.HorizontalPodAutoscaler{}, monitors: map[string]*monitoringv1.PodMonitor{}, certificates: map[string]*certmanagerv1.Certificate{},
	}
	for _, r := range resources.Resources() {
		text, err := r.AsYAML()
		if err != nil {
			return nil, err
		}
		object, _, err := decode.Decode(text, nil, nil)
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w", r.GetKind(), r.GetName(), err)
		}
		switch o := object.(type) {
		case *corev1.Namespace:
			b.namespaces[o.Name] = o
		case *appsv1.Deployment:
			b.deployments[o.Name] = o
		case *batchv1.Job:
			b.jobs[o.Name] = o
		case *corev1.Service:
			b.services[o.Name] = o
		case *corev1.ServiceAccount:
			b.accounts[o.Name] = o
		case *corev1.ConfigMap:
			b.configs[o.Name] = o
		case *networkingv1.NetworkPolicy:
			b.policies[o.Name] = o
		case *policyv1.PodDisruptionBudget:
			b.budgets[o.Name] = o
		case *autoscalingv2.HorizontalPodAutoscaler:
			b.scalers[o.Name] = o
		case *monitoringv1.PodMonitor:
			b.monitors[o.Name] = o
		case *certmanagerv1.Certificate:
			b.certificates[o.Name] = o
		default: // a Secret, too: none is of ours to have
			return nil, fmt.Errorf("%s %s: nothing is known of this kind", r.GetKind(), r.GetName())
		}
		b.all = append(b.all, object.(metav1.Object))
	}
	return b, nil
}

// TestWhatIsApplied: nothing is wrong with any overlay.
func TestWhatIsApplied(t *testing.T) {
	t.Parallel()
	tree := files(t, "deploy")
	for _, overlay := range overlays {
		for _, wrong := range check(tree, overlay) {
			t.Errorf("%s: %s", overlay, wrong)
		}
	}
}

// TestWhatIsWrongIsSeen: each change of one text makes the check say what is wrong.
func TestWhatIsWrongIsSeen(t *testing.T) {
	t.Parallel()
	tree := files(t, "deploy")
	for _, m := range mutations {
		t.Run(m.file+" "+m.now, func(t *testing.T) {
			t.Parallel()
			if strings.Count(tree[m.file], m.was) == 0 {
				t.Fatalf("there is no %q in it", m.was)
			}
			mutated := maps.Clone(tree)
			mutated[m.file] = strings.Replace(tree[m.file], m.was, m.now, 1)
			wrong := check(mutated, m.overlay)
			if !slices.ContainsFunc(wrong, func(s string) bool { return strings.Contains(s, m.says) }) {
				t.Errorf("got %q, want one that says %s", wrong, m.says)
			}
		})
	}
}

// kekFile is the setting of the base that Transit replaces.
const kekFile = `keys: {kek: "file:///etc/tokenbroker/kek/kek.json"}`

// shown are the settings that the comment of a kustomization shows: its lines that are indented.
func shown(kustomization string) string {
	var lines []string
	for line := range strings.Lines(kustomization) {
		if rest, ok := strings.CutPrefix(line, "#   "); ok {
			lines = append(lines, rest)
		}
	}
	return strings.Join(lines, "") + "#"
}

// TestAnOverlayOfOnesOwn: what docs/kubernetes.md shows is built, and is as good as what it refers to.
func TestAnOverlayOfOnesOwn(t *testing.T) {
	t.Parallel()
	tree := files(t, "deploy")
	document := files(t, "docs")["kubernetes.md"]
	_, own, _ := strings.Cut(document, "```yaml\n")
	own, _, ok := strings.Cut(own, "```")
	if !ok {
		t.Fatal("docs/kubernetes.md has no kustomization")
	}
	tree["overlays/own/kustomization.yaml"] = own
	tree["overlays/own/settings.yaml"] = tree["overlays/spiffe/settings.yaml"]
	tree["overlays/own/policy.yaml"] = strings.Replace(tree["base/policy.yaml"], "rate: 100/s", "rate: 50/s", 1)
	tree["overlays/own/billing.yaml"] = "name: billing\n"
	tree["overlays/own/credentials.yaml"] = strings.ReplaceAll(tree["components/credentials/credentials.yaml"], "shop-officernd", "shop-rooms")
	for _, wrong := range check(tree, "overlays/own") {
		t.Error(wrong)
	}
	transit := tree["components/transit/kustomization.yaml"]
	tree["overlays/kms/kustomization.yaml"] = own + "components: [../../components/transit]\n"
	for _, file := range []string{"policy.yaml", "credentials.yaml", "billing.yaml"} {
		tree["overlays/kms/"+file] = tree["overlays/own/"+file]
	}
	tree["overlays/kms/settings.yaml"] = strings.Replace(tree["overlays/own/settings.yaml"], kekFile, shown(transit), 1)
	if !strings.Contains(tree["overlays/kms/settings.yaml"], "transit_role") {
		t.Fatalf("got %s", tree["overlays/kms/settings.yaml"])
	}
	for _, wrong := range check(tree, "overlays/kms") {
		t.Errorf("with Transit: %s", wrong)
	}
	kms, err := build(tree, "overlays/kms")
	if err != nil {
		t.Fatal(err)
	}
	pod := kms.deployments[name].Spec.Template.Spec
	for _, file := range []string{"token", "ca.crt"} {
		v := mounted(pod, pod.Containers[0], "/etc/tokenbroker/kek/"+file)
		if v == nil || v.Projected == nil || !slices.ContainsFunc(v.Projected.Sources, func(p corev1.VolumeProjection) bool {
			return p.ServiceAccountToken != nil && p.ServiceAccountToken.Path == file || p.ConfigMap != nil && len(p.ConfigMap.Items) == 1 && p.ConfigMap.Items[0].Path == file
		}) {
			t.Errorf("with Transit: nothing brings %s", file)
		}
	}
	if !slices.ContainsFunc(kms.policies[name].Spec.Egress, func(rule networkingv1.NetworkPolicyEgressRule) bool {
		return len(rule.Ports) == 1 && rule.Ports[0].Port.IntVal == 8200 && strings.Contains(tree["overlays/kms/settings.yaml"], ":8200/")
	}) {
		t.Error("with Transit: the network does not let it through")
	}
	b, err := build(tree, "overlays/own")
	if err != nil {
		t.Fatal(err)
	}
	if image := b.deployments[name].Spec.Template.Spec.Containers[0].Image; image != "registry.corp.example/infra/tokenbroker:1.0.0" {
		t.Errorf("the image is %s", image)
	}
	if !strings.Contains(b.configs["tokenbroker-policy"].Data["policy.yaml"], "rate: 50/s") {
		t.Error("the policy is not one's own")
	}
	if b.configs["tokenbroker-providers"].Data["billing.yaml"] == "" {
		t.Error("there is no definition of one's own")
	}
}

// TestTheAlertsAsAnObject: what docs/kubernetes.md makes of the rules for the Prometheus Operator is one that it takes.
func TestTheAlertsAsAnObject(t *testing.T) {
	_, line, found := strings.Cut(files(t, "docs")["kubernetes.md"], "\n{ printf ")
	line, _, piped := strings.Cut("{ printf "+line, " | kubectl ")
	if !found || !piped {
		t.Fatal("docs/kubernetes.md does not make one")
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-c", line)
	cmd.Dir = root
	text, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	decode, err := decoder(monitoringv1.AddToScheme)
	if err != nil {
		t.Fatal(err)
	}
	object, _, err := decode.Decode(text, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	rule, ok := object.(*monitoringv1.PrometheusRule)
	if !ok || len(rule.Spec.Groups) == 0 || len(rule.Spec.Groups[0].Rules) < 20 {
		t.Errorf("got %T with %d groups", object, len(rule.Spec.Groups))
	}
}
