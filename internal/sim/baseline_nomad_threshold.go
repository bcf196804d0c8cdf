package sim

// newThreshold returns Nomad Autoscaler's own threshold strategy on the
// utilization of the ready replicas: from the knob up the pool grows, from 20
// points below it down the pool shrinks, where within_bounds_trigger points of
// the query, 5 by default, say so.
//
// The example of its page goes by single replicas (delta = 1 and -1), which no
// pool of forty can live with. In its favor the steps are those that did best,
// of a dozen tried, for one setting over several traces.
func newThreshold(s Setup) Policy {
	check := func(name string, config map[string]string) nomadCheck {
		return newNomadCheck(name, nomadStrategies["threshold"](), config)
	}
	return &nomadAgent{name: "nomad-threshold", setup: s, metric: utilization, checks: []nomadCheck{
		check("high", map[string]string{"lower_bound": decimal(100 * s.Knob), "percentage": "30"}),
		check("low", map[string]string{"upper_bound": decimal(100*s.Knob - 20), "percentage": "-10"}),
	}}
}
