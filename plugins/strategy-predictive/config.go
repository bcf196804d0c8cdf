package main

import (
	"maps"
	"time"

	"github.com/gpupool/gpupool/internal/plan"
	"github.com/gpupool/gpupool/internal/pluginconfig"
	"github.com/gpupool/gpupool/internal/setting"
)

// readDefaults reads the plugin's own configuration, which holds defaults for
// all policies: nothing is required there.
func readDefaults(config map[string]string) error {
	r := pluginconfig.Read(pluginName, config)
	declare(r, false)
	return r.Err()
}

// readRules reads the rules of one check: its strategy block over the plugin's
// defaults.
func readRules(defaults, check map[string]string) (plan.Rules, error) {
	merged := maps.Clone(defaults)
	if merged == nil {
		merged = make(map[string]string)
	}
	maps.Copy(merged, check)
	r := pluginconfig.Read(pluginName, merged)
	rules := declare(r, true)
	if rules.Max < rules.Min {
		r.Reject("max", "is below min", "the autoscaler does not tell a strategy the policy's min and max: repeat both here")
	}
	return rules, r.Err()
}

// declare is every setting of the strategy, in the order of the reference page.
func declare(r pluginconfig.Reader, required bool) plan.Rules {
	units, most := 1.0, 0
	if required {
		units, most = 0, -1
	}
	duration := func(key string, def time.Duration, doc string) time.Duration {
		return r.Duration(key, def, doc, setting.Between(0, 30*24*time.Hour))
	}
	return plan.Rules{
		Units: r.Float("units", units, "GPUs of a host, or slots of an instance: what demand is counted in.", setting.Between(0.001, 1e6)),
		Min:   r.Int("min", 0, "Never fewer. Repeat the policy's min: the autoscaler does not tell a strategy.", setting.Between(0, 1_000_000)),
		Max:   r.Int("max", most, "Never more. Repeat the policy's max.", setting.Between(0, 1_000_000)),

		Lead:         duration("lead_time", 5*time.Minute, "From wanting one to its first work: power-on, boot and model load together."),
		Interval:     duration("interval", 10*time.Second, "Time between decisions: the policy's evaluation_interval."),
		ScaleInAfter: duration("scale_in_after", 0, "How long one must have been surplus before it goes. 0s means the longer of lead_time and 15m. The check's query_window must be at least as long."),
		StaleAfter:   duration("stale_after", 0, "Age from which the newest sample is too old to act on; the count is then held. 0s means 5m."),
		Utilization:  float64(r.Fraction("utilization", 1, "Share of the units that demand may fill; less leaves headroom.", setting.Between[setting.Fraction](0.01, 1))),
	}
}
