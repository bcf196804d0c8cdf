package sim

// newTargetValue returns Nomad Autoscaler's own target-value strategy, with its
// dead band of 1 %. The knob is the target, as a share of the ready replicas'
// slots.
//
// The plugin multiplies the count by the newest value over the target. The
// count includes replicas that start and the value does not, so what is
// starting is ordered again after each cooldown that is shorter than the start.
//
// Two metrics are offered. Utilization is what exporters of GPUs and the
// autoscaler's documentation lead to; it saturates, so a pool that is
// overloaded many times grows by 1/target in five minutes. Requests a replica
// do not, and of the metrics that do not they are the best: one that also
// counts who waits orders a queue again while its replicas start.
func newTargetValue(name string, metric nomadMetric) func(Setup) Policy {
	return func(s Setup) Policy {
		plugin := nomadStrategies["target-value"]()
		return &nomadAgent{name: name, setup: s, metric: metric, checks: []nomadCheck{
			newNomadCheck("target-value", plugin, map[string]string{"target": decimal(100 * s.Knob)}),
		}}
	}
}
