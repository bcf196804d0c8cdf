// Package strategy is how strategy-predictive is configured: a check's strategy
// block, which the plugin gets from the autoscaler, the simulator reads from a
// policy file, and the tuner writes.
package strategy

import (
	"maps"
	"time"

	"github.com/gpupool/gpupool/internal/plan"
	"github.com/gpupool/gpupool/internal/pluginconfig"
	"github.com/gpupool/gpupool/internal/record"
	"github.com/gpupool/gpupool/internal/setting"
)

// Plugin is the name of the plugin: its binary's, and its driver's in the
// autoscaler's configuration.
const Plugin = "strategy-predictive"

// Settings is what a check's strategy block, over the plugin's defaults, says.
type Settings struct {
	Rules plan.Rules
	Act   bool          // false: only say what would be done
	Pool  string        // its name in the decision log; may be empty
	Log   record.Config // no decision log where its path is empty
}

// CheckDefaults reports what is wrong with the plugin's own configuration,
// which holds defaults for all policies: nothing is required there.
func CheckDefaults(config map[string]string) error {
	r := pluginconfig.Read(Plugin, config)
	declare(r, false)
	return r.Err()
}

// Read reads the settings of one check: its strategy block over the plugin's
// defaults. The error has all mistakes.
func Read(defaults, check map[string]string) (Settings, error) {
	merged := maps.Clone(defaults)
	if merged == nil {
		merged = make(map[string]string)
	}
	maps.Copy(merged, check)
	r := pluginconfig.Read(Plugin, merged)
	s := Declare(r)
	return s, r.Err()
}

// Declare declares every setting, in the order of the reference page, and
// returns what r has for them.
func Declare(r pluginconfig.Reader) Settings {
	s := declare(r, true)
	if s.Rules.Max < s.Rules.Min {
		r.Reject("max", "is below min", "the autoscaler does not tell a strategy the policy's min and max: repeat both here")
	}
	return s
}

func declare(r pluginconfig.Reader, required bool) Settings {
	return Settings{Rules: declareRules(r, required), Act: declareMode(r), Pool: declarePool(r), Log: declareLog(r)}
}

func declareMode(r pluginconfig.Reader) bool {
	return r.OneOf("mode", "act", "act scales. shadow leaves the count as it is and says, in the reason and the decision log, what would have been done.", "act", "shadow") == "act"
}

func declarePool(r pluginconfig.Reader) string {
	return r.String("pool", "", "What is scaled, as the decision log and gpupool explain shall call it; without it they say the check's name.")
}

func declareLog(r pluginconfig.Reader) record.Config {
	c := record.Config{
		Path:     r.String("decision_log", "", "File to keep each decision in, with all that it rested on, for gpupool explain, advise and simulate. Its folder must be there. Empty: none is kept."),
		MaxBytes: int64(r.Size("decision_log_size", 64<<20, "Size from which on the next file is begun; the older ones are named .1, .2 and so on.", setting.Between[setting.Size](1<<20, 1<<40))),
		Keep:     r.Int("decision_log_keep", 4, "How many older files are kept. Five files of 64MiB hold about a month and a half of one decision in 10s.", setting.Between(0, 999)),
	}
	if c.Keep == 0 {
		c.Keep = -1
	}
	return c
}

// declareRules is what decides.
func declareRules(r pluginconfig.Reader, required bool) plan.Rules {
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
		ScaleInAfter: duration("scale_in_after", 0, "How long one must have been surplus before it goes. 0s lets the replay of the past choose between 5m, 15m and 30m, or means the longer of lead_time and 15m while there is too little of it. The check's query_window must be at least as long."),
		StaleAfter:   duration("stale_after", 0, "Age from which the newest sample is too old to act on; the count is then held. 0s means 5m."),
		Utilization:  float64(r.Fraction("utilization", 1, "Share of the units that demand may fill; less leaves headroom.", setting.Between[setting.Fraction](0.01, 1))),

		SLO:      float64(r.Fraction("slo", 0.99, "Share of work that shall be on time. More costs more: it decides how much is kept in reserve.", setting.Between[setting.Fraction](0.5, 0.9999))),
		Wait:     duration("slo_wait", time.Minute, "Longest that work may wait and still be on time."),
		LateCost: r.Float("late_cost", 0, "What work that is late beyond what slo allows costs, as so many times the capacity that serves it. 0 means 100 for each minute of lead_time, and at least 500. Less lets go sooner of the reserve that a jump left behind.", setting.Between(0, 1e6)),
		Wear:     duration("wear", 10*time.Minute, "What one start costs beyond the time it takes, as so much time of a running one. More means fewer power cycles and more idle time."),
	}
}
