// Package manifests has the tests of what is applied to a cluster: deploy/, as kustomize builds it, and the examples for Istio and Envoy Gateway. Each object is decoded into its published
// type, where a field that the type does not have is an error, and then held against the others, and against the settings that are in it. No cluster is asked.
package manifests
