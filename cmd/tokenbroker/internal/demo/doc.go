// Package demo shows the main job on one machine: a broker, the simulated upstreams and many callers. It decides what is shown and
// what is promised, and knows nothing of the operators' commands.
package demo
