// Package strategy is how strategy-predictive is configured: a check's strategy
// block, which the plugin gets from the autoscaler, the simulator reads from a
// policy file, and the tuner writes.
package strategy

import (
	"maps"
	"time"

	"github.com/gpupool/gpupool/internal/calendar"
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

	Schedule *calendar.Schedule // floors and ceilings at their times; never nil
	Lead     LeadSource         // where the lead time is learned from
}

// LeadSource is where the target plugin keeps how long hosts of a pool took to
// boot. Without a pool nothing is learned.
type LeadSource struct {
	Pool, ConsulAddress, ConsulPrefix string
}

// Bound writes what the schedule says at the time of a decision into what the
// decision knows. The lead time is the one that it is made with.
func (s Settings) Bound(in *plan.Input, lead time.Duration) {
	b := s.Schedule.At(in.Now, lead)
	in.Floor, in.FloorWhy, in.CeilingWhy = b.Floor, b.FloorWhy, b.CeilingWhy
	in.Ceiling = max(b.Ceiling, 0)
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
	if s.Rules.RequestCost > 0 && (s.Rules.ReplicaPrice == 0 || s.Rules.Service == 0) {
		r.Reject("cost_per_late_request", "has nothing to be weighed against", "give replica_price and service_time too")
	}
	if s.Rules.Piece > s.Rules.Units {
		r.Reject("units_per_instance", "is more than units", "give the units that one instance takes on one host")
	}
	if s.Rules.Max < s.Rules.Min {
		r.Reject("max", "is below min", "the autoscaler does not tell a strategy the policy's min and max: repeat both here")
	}
	return s
}

func declare(r pluginconfig.Reader, required bool) Settings {
	s := Settings{Rules: declareRules(r, required), Act: declareMode(r), Pool: declarePool(r), Log: declareLog(r)}
	s.Schedule, s.Rules.Zone = declareSchedule(r)
	s.Lead = LeadSource{
		Pool:          r.String("learn_lead_from", "", "A pool of target-gpupool: how long its hosts really took to boot (the 95th percentile of the last ones, as the target writes it to Consul) is taken for the lead time once five are known, within half and four times lead_time."),
		ConsulAddress: r.String("consul_address", "", "Consul's address, for learn_lead_from. Empty means CONSUL_HTTP_ADDR, or 127.0.0.1:8500; a token comes from CONSUL_HTTP_TOKEN."),
		ConsulPrefix:  r.String("consul_prefix", "gpupool/v1/", "Where in Consul's KV store the pools' records are, for learn_lead_from."),
	}
	return s
}

// declareSchedule is what the operator knows of the calendar.
func declareSchedule(r pluginconfig.Reader) (*calendar.Schedule, string) {
	schedule := r.String("schedule", "", "Floors and ceilings at times, with semicolons between: 30 7 * * 1-5 for 10h: min 6, not on holidays; 0 22 * * * for 8h: max 2. Each begins by a cron expression (minute, hour, day, month, weekday) in time_zone. A floor is there when its time begins: it is asked for one lead_time before. A floor is stronger than a ceiling, min and max are stronger than both.")
	zone := r.String("time_zone", "", "IANA name, such as Europe/Berlin, of the time that the schedule is in and that demand follows: the day before is compared by its clock, also where the clocks were changed, unless season is another. Empty: UTC.")
	holidays := r.String("holidays", "", "Dates, such as 2026-12-25 2026-12-26, for entries of the schedule that end with \"on holidays\" or \"not on holidays\".")
	s, err := calendar.Parse(schedule, zone, holidays)
	if err != nil {
		for _, e := range apart(err) {
			r.Reject("schedule", e.Error(), "see the example in the reference")
		}
		return &calendar.Schedule{}, ""
	}
	return s, zone
}

// apart is the errors that were joined in err.
func apart(err error) []error {
	if all, ok := err.(interface{ Unwrap() []error }); ok {
		return all.Unwrap()
	}
	return []error{err}
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
	rules := plan.Rules{
		Units: r.Float("units", units, "GPUs of a host, or slots of an instance: what demand is counted in.", setting.Between(0.001, 1e6)),
		Min:   r.Int("min", 0, "Never fewer. Repeat the policy's min: the autoscaler does not tell a strategy.", setting.Between(0, 1_000_000)),
		Max:   r.Int("max", most, "Never more. Repeat the policy's max.", setting.Between(0, 1_000_000)),

		Piece:    r.Float("units_per_instance", 0, "Where hosts are counted: the GPUs that one instance takes, all on one host. Only as many GPUs of a host count as whole instances fill. 0: work can be split at will.", setting.Between(0, 1e6)),
		Spare:    r.Int("spare", 0, "How many are kept beyond what is needed, warm.", setting.Between(0, 1_000_000)),
		StepUp:   r.Int("max_step_up", 0, "Most that one decision adds; 0: any number. For power circuits and image stores that cannot take many starts at once.", setting.Between(0, 1_000_000)),
		StepDown: r.Int("max_step_down", 0, "Most that one decision lets go; 0: any number.", setting.Between(0, 1_000_000)),

		Lead:         duration("lead_time", 5*time.Minute, "From wanting one to its first work: power-on, boot and model load together."),
		Interval:     duration("interval", 10*time.Second, "Time between decisions: the policy's evaluation_interval."),
		Season:       r.Duration("season", day, "Length of one cycle of demand; seven of them are the longer one, as a week is of days. Touch it where demand repeats with something shorter than a day: the shifts of a plant, a batch each hour, a day that is played back faster. What is measured in parts of a day is the same part of it: demand is looked at in 2880 steps of a season, of 30s for a day, and forecast from the eighth part of one on. The defaults of scale_in_after and stale_after are no more than an eighth of it. Samples should come at least 150 times a season.", setting.Between(time.Minute, day)),
		ScaleInAfter: duration("scale_in_after", 0, "How long one must have been surplus before it goes. 0s lets the replay of the past choose between 5m, 15m, 45m and 2h15m, none longer than 27 lead times (or 30m, if that is more), or means the longer of lead_time and 15m while there is too little of it. The check's query_window must be at least as long."),
		StaleAfter:   duration("stale_after", 0, "Age from which the newest sample is too old to act on; the count is then held. 0s means 5m."),
		Utilization:  float64(r.Fraction("utilization", 1, "Share of the units that demand may fill; less leaves headroom.", setting.Between[setting.Fraction](0.01, 1))),

		SLO:      float64(r.Fraction("slo", 0.99, "Share of work that shall be on time. More costs more: it decides how much is kept in reserve.", setting.Between[setting.Fraction](0.5, 0.9999))),
		Wait:     duration("slo_wait", time.Minute, "Longest that work may wait and still be on time."),
		LateCost: r.Float("late_cost", 0, "What work that is late beyond what slo allows costs, as so many times the capacity that serves it. 0 means 120 for each minute of lead_time, and at least 500. Less lets go sooner of the reserve that a jump left behind.", setting.Between(0, 1e6)),
		Wear:     duration("wear", 10*time.Minute, "What one start costs beyond the time it takes, as so much time of a running one. More means fewer power cycles and more idle time."),

		RequestCost:  r.Float("cost_per_late_request", 0, "What one request that is late costs, in the money of replica_price. With it the newsvendor's quantile decides how much is kept in reserve, instead of slo: more cost never means less capacity.", setting.Between(0, 1e9)),
		ReplicaPrice: r.Float("replica_price", 0, "What one of them costs an hour. Only for cost_per_late_request.", setting.Between(0, 1e9)),
		Service:      duration("service_time", 0, "Mean time that one request holds one unit, where the series is requests, running and waiting ones: a queue is then drained instead of taken for load. 0: work that holds its unit until it ends, as jobs do. Also for cost_per_late_request."),
	}
	if rules.Season == day { // the default, which decision logs leave out
		rules.Season = 0
	}
	return rules
}

const day = 24 * time.Hour
