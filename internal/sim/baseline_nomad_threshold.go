package sim

import (
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad-autoscaler/plugins/builtin/strategy/threshold/plugin"
)

// newThreshold returns Nomad Autoscaler's own threshold strategy on the
// utilization of the ready replicas: above the knob the pool grows by 20 %,
// below nine tenths less 20 points of it the pool shrinks by 10 %.
func newThreshold(s Setup) Policy {
	check := func(name string, config map[string]string) nomadCheck {
		return newNomadCheck(name, plugin.NewThresholdPlugin(hclog.NewNullLogger()), config)
	}
	return &nomadAgent{name: "nomad-threshold", setup: s, metric: percentBusy(s), checks: []nomadCheck{
		check("high", map[string]string{"lower_bound": decimal(100 * s.Knob), "percentage": "20"}),
		check("low", map[string]string{"upper_bound": decimal(100 * (s.Knob - 0.2)), "percentage": "-10"}),
	}}
}
