package manifests

const (
	pods      = "base/deployment.yaml"
	doors     = "base/network-policy.yaml"
	job       = "components/credentials/job.yaml"
	certs     = "overlays/cert-manager/certificates.yaml"
	settled   = "base/settings.yaml"
	withFiles = "overlays/cert-manager"
	workload  = "overlays/spiffe"
)

// mutations are changes of one text, the overlay that they are in, and what is said of them.
var mutations = []struct{ file, was, now, overlay, says string }{
	// fields that are none
	{pods, "terminationGracePeriodSeconds:", "terminationGracePeriod:", "base", `unknown field "spec.template.spec.terminationGracePeriod"`},
	{pods, "readOnlyRootFilesystem:", "readonlyRootFilesystem:", "base", "unknown field"},
	{"base/autoscaler.yaml", "averageUtilization", "averageUtilisation", "base", "unknown field"},
	{"base/disruption-budget.yaml", "maxUnavailable", "maxUnavailble", "base", "unknown field"},
	{doors, "policyTypes", "policytypes", "base", "unknown field"},
	{certs, "dnsNames", "dnsnames", withFiles, "unknown field"},
	{"components/prometheus/pod-monitor.yaml", "podMetricsEndpoints", "endpoints", withFiles, "unknown field"},
	{job, "backoffLimit", "backOffLimit", withFiles, "unknown field"},
	{"base/namespace.yaml", "kind: Namespace", "kind: Secret", "base", "nothing is known of this kind"},
	// ports
	{pods, "containerPort: 7422", "containerPort: 7423", "base", "the container has the ports"},
	{settled, `":7430"`, `":7440"`, "base", "the container has the ports"},
	{settled, `":7422"`, `"127.0.0.1:7425"`, withFiles, "the container has the ports"},
	{"base/services.yaml", "targetPort: services", "targetPort: probes", "base", "the Service tokenbroker leads to"},
	{"base/services.yaml", "port: 7431", "port: 7430", "base", "the Service tokenbroker-operators leads to"},
	{pods, "path: /readyz", "path: /livez", "base", "the probe is not of /readyz"},
	{pods, "path: /livez, port: probes", "path: /livez, port: services", "base", "the probe is not of /livez"},
	{"components/prometheus/pod-monitor.yaml", "port: probes", "port: services", workload, "the PodMonitor asks elsewhere"},
	// the network
	{doors, "        - podSelector: {matchLabels: {tokenbroker-operator: \"true\"}}", "        - namespaceSelector: {}\n          podSelector: {matchLabels: {tokenbroker-operator: \"true\"}}", "base", "operators are let in from other namespaces"},
	{doors, "podSelector: {matchLabels: {tokenbroker-client: \"true\"}}", "podSelector: {}", "base", "services are reached by pods without a label"},
	{doors, "port: probes", "port: operators", "base", "the network reaches"},
	{doors, "namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}", "namespaceSelector: {}", "base", "the probes' port is reached from everywhere"},
	{doors, "[Ingress, Egress]", "[Ingress]", "base", "leaves a direction open"},
	{doors, "podSelector: {matchLabels: {app.kubernetes.io/name: tokenbroker}}", "podSelector: {}", "base", "the network policy does not select"},
	{doors, "169.254.0.0/16, ", "", "base", "reaches the metadata service"},
	{doors, "port: 6379", "port: 6380", "base", "brokers do not reach port 6379"},
	{job, "port: 7431}", "port: 7430}", withFiles, "the Job does not reach the operators' port"},
	{job, `tokenbroker-operator: "true"`, `tokenbroker-operator: "yes"`, withFiles, "the Job does not reach the operators' port"},
	// selectors and names
	{"base/services.yaml", "app.kubernetes.io/name: tokenbroker", "app.kubernetes.io/name: tokenbrokers", "base", "the Service tokenbroker does not select"},
	{"base/services.yaml", "clusterIP: None", "publishNotReadyAddresses: false", "base", "headless"},
	{"base/disruption-budget.yaml", "app.kubernetes.io/name: tokenbroker", "app: tokenbroker", "base", "the budget does not select"},
	{"base/autoscaler.yaml", "kind: Deployment, name: tokenbroker", "kind: Deployment, name: broker", "base", "the autoscaler is of"},
	{pods, "matchLabels: {app.kubernetes.io/name: tokenbroker}", "matchLabels: {app.kubernetes.io/name: broker}", "base", "the Deployment does not select"},
	{pods, "  # The autoscaler says", "  replicas: 2\n  # The autoscaler says", "base", "both say how many"},
	{job, "app.kubernetes.io/name: tokenbroker-credentials, tokenbroker-operator", "app.kubernetes.io/name: tokenbroker, tokenbroker-operator", withFiles, "selects the Job"},
	{job, "tokenbroker-operators.tokenbroker.svc", "tokenbroker.tokenbroker.svc", workload, "the Job asks"},
	// who it is, and what it may
	{pods, "runAsUser: 65532", "runAsUser: 65531", "base", "its user is not the image's"},
	{pods, "type: RuntimeDefault", "type: Unconfined", "base", "it is not confined"},
	{pods, "drop: [ALL]", "drop: [NET_RAW]", "base", "is not confined"},
	{pods, "readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", "base", "is not confined"},
	{"overlays/spiffe/job.yaml", "readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", workload, "container spiffe-helper is not confined"},
	{pods, "automountServiceAccountToken: false", "automountServiceAccountToken: true", "base", "a token of the cluster's"},
	{pods, "limits: {memory: 256Mi}", "limits: {cpu: 1}", "base", "no bound of memory"},
	{pods, "tokenbroker:1.0.0", "tokenbroker:latest", "base", "want NAME:MAJOR.MINOR.PATCH"},
	{pods, "          ports:\n", "            - {name: TOKENBROKER_REDIS_PASSWORD, valueFrom: {secretKeyRef: {name: tokenbroker-redis, key: password}}}\n          ports:\n", "base", "secrets are in files"},
	{pods, "          ports:\n", "          envFrom: [{secretRef: {name: tokenbroker-redis}}]\n          ports:\n", "base", "secrets are in files"},
	{pods, "emptyDir: {medium: Memory, sizeLimit: 16Mi}", "hostPath: {path: /var/lib/tokenbroker}", "base", "volume data is of a kind"},
	{pods, "secretName: tokenbroker-kek, defaultMode: 0400", "secretName: tokenbroker-kek", "base", "can be read by others"},
	{"overlays/spiffe/deployment.yaml", "csi: {driver: csi.spiffe.io, readOnly: true}", "csi: {driver: csi.spiffe.io}", workload, "the Workload API, to be read"},
	// what settings name
	{pods, "mountPath: /etc/tokenbroker/kek", "mountPath: /etc/tokenbroker/keys", "base", "/etc/tokenbroker/kek/kek.json is not mounted"},
	{pods, "mountPath: /etc/tokenbroker/policy, readOnly: true", "mountPath: /etc/tokenbroker/policy, subPath: policy.yaml, readOnly: true", "base", "no change is ever seen"},
	{settled, "policy/policy.yaml", "policy/rules.yaml", "base", "the policy: ConfigMap tokenbroker-policy has no rules.yaml"},
	{settled, "data_dir: /var/lib/tokenbroker/data", "data_dir: /var/lib/tokenbroker", "base", "TOKENBROKER_DATA_DIR is"},
	{settled, "shutdown_timeout: 25s", "shutdown_timeout: 35s", "base", "it is killed before it has stopped"},
	{settled, "store: rediss:", "store: redis:", "base", "Redis is not asked over TLS"},
	{settled, "log_format: json", "log_format: text", workload, "the settings are others than the base's"},
	{"overlays/spiffe/settings.yaml", "unix:///run/spire/agent.sock", "unix:///run/spiffe/agent.sock", workload, "/run/spiffe/agent.sock is not mounted"},
	{"base/kustomization.yaml", "files: [policy.yaml]\n    options: {disableNameSuffixHash: true}", "files: [policy.yaml]", "base", "policy: a hash"},
	// credentials and certificates
	{job, "--tls-key-file=/etc/tokenbroker/tls", "--tls-key-file=/etc/tokenbroker/certs", withFiles, "the Job: /etc/tokenbroker/certs/tls.key is not mounted"},
	{"components/credentials/credentials.yaml", "file:/etc/tokenbroker/secrets/officernd", "env:OFFICERND", withFiles, "is in no Secret"},
	{"base/policy.yaml", `"corp.example/ns/tokenbroker/sa/tokenbroker-credentials", proof`, `"corp.example/ns/tokenbroker/sa/credentials", proof`, workload, "who is the Job"},
	{certs, "secretName: tokenbroker-tls", "secretName: tokenbroker-certificate", withFiles, "the certificate tokenbroker is not mounted"},
	{certs, "    - tokenbroker-operators.tokenbroker.svc\n", "", withFiles, "the certificate is not for tokenbroker-operators"},
	{certs, "sa/tokenbroker\"", "sa/broker\"", withFiles, "the certificate tokenbroker is of"},
	{"overlays/cert-manager/kustomization.yaml", "  - certificates.yaml\n", "", withFiles, "there are 0 certificates"},
	{"overlays/spiffe/kustomization.yaml", "  - path: deployment.yaml\n", "", workload, "is not mounted"},
}
