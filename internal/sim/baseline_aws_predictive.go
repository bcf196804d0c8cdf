package sim

import (
	"fmt"
	"math"
	"time"

	"github.com/gpupool/gpupool/internal/plan"
)

// Documented figures of Amazon EC2 Auto Scaling.
const (
	awsHistory = 14 * 24         // hours that the forecast looks back
	awsMinimum = 24              // hours before there is a forecast
	awsAhead   = 48              // hours that are forecast
	awsRefresh = 6               // hours between forecasts
	awsBuffer  = 5 * time.Minute // SchedulingBufferTime
	awsOut     = 3               // minutes above the target before scaling out
	awsIn      = 15              // minutes below awsInside of it before scaling in
	awsInside  = 0.9
)

// awsPredictive is Amazon EC2 Auto Scaling with a predictive policy in the mode
// ForecastAndScale and a target tracking policy beside it, both on requests a
// replica (the predefined pair ALBRequestCount), at one target. It follows the
// EC2 Auto Scaling User Guide, "How predictive scaling works" and "Target
// tracking scaling policies", and the API's PredictiveScalingConfiguration.
//
// Predictive: from up to 14 days of hourly load, at least 24 hours, a forecast
// of each of the next 48 hours, made anew every six. The capacity that an hour
// needs is the least that there is from SchedulingBufferTime before it to its
// end; it never scales in. Tracking: after three minutes above the target
// capacity in proportion, what starts being counted; after 15 minutes below
// nine tenths of it, and with nothing starting, down in proportion. The larger
// of both counts.
//
// The service is closed, so some of this is taken on trust: that model is
// replaced by a seasonal mean ([awsForecast]); the number of minutes and the
// nine tenths are what its alarms are seen to have, not documented.
//
// In its favor: the metric does not saturate, as CPU does; the requests that a
// replica can take are known from how long they hold a slot, by Little's law,
// and follow when that changes; the buffer is the lead time where this is
// longer than five minutes; scale-in is as large as it can be, where the guide
// only says that it is more gradual.
type awsPredictive struct {
	setup  Setup
	target float64 // requests in service of a replica
	buffer time.Duration

	load     []float64 // requests a second in each hour since start, NaN where not seen
	sum      float64   // of the samples of the hour that is not yet complete
	n        int
	seen     int       // samples taken in
	forecast []float64 // requests a second, from hour made on
	made     int
	alarms   periodic
	minutes  []float64 // load over what the target allows, of each minute; newest last
}

func newAWSPredictive(s Setup) Policy {
	return &awsPredictive{
		setup: s, target: s.Knob * float64(s.Slots), buffer: min(max(awsBuffer, s.Lead), time.Hour-time.Second),
		alarms: periodic{period: time.Minute},
	}
}

func (a *awsPredictive) Name() string { return "aws-predictive" }

func (a *awsPredictive) Decide(now time.Time, o Observation) plan.Decision {
	a.record(o)
	service, ok := meanService(o, now)
	if !ok {
		return plan.Decision{Count: o.Wanted, Rule: plan.RuleHold, Reason: "no samples"}
	}
	track := a.track(now, o, service)
	ahead := 0
	if rate, ok := a.expected(now); ok {
		ahead = ceil(rate * service / a.target)
	}
	return plan.Decision{Count: max(track, ahead), Rule: "aws", Reason: fmt.Sprintf("tracking %d, forecast %d", track, ahead)}
}

// hour counts hours of the clock from the one that the trace begins in.
func (a *awsPredictive) hour(t time.Time) int {
	return int(t.Sub(a.setup.Start.Truncate(time.Hour)) / time.Hour)
}

// record adds the new samples up to hours.
func (a *awsPredictive) record(o Observation) {
	for ; a.seen < len(o.Arrivals); a.seen++ {
		p := o.Arrivals[a.seen]
		for h := a.hour(p.At.Add(-time.Nanosecond)); len(a.load) < h; {
			a.load = append(a.load, a.sum/float64(a.n)) // NaN of none
			a.sum, a.n = 0, 0
		}
		a.sum += p.Value
		a.n++
	}
}

// expected is the request rate that there is to be capacity for.
func (a *awsPredictive) expected(now time.Time) (rate float64, ok bool) {
	if full := len(a.load); full >= awsMinimum && (a.forecast == nil || full >= a.made+awsRefresh) {
		a.made, a.forecast = full, awsForecast(a.load[max(0, full-awsHistory):])
	}
	for _, t := range []time.Time{now, now.Add(a.buffer)} {
		if i := a.hour(t) - a.made; i >= 0 && i < len(a.forecast) {
			rate, ok = max(rate, a.forecast[i]), true
		}
	}
	return rate, ok
}

// awsForecast continues hourly load by awsAhead hours. It is the mean of the
// same hour on the days before, each day weighing 0.7 of the next, and from a
// week on as much of the same hour of the week. Hours that are NaN are left
// out.
func awsForecast(load []float64) []float64 {
	out := make([]float64, awsAhead)
	for i := range out {
		at := len(load) + i
		f, ok := seasonal(load, at, 24, 0.7)
		if week, weekly := seasonal(load, at, 7*24, 1); weekly && ok {
			f = (f + week) / 2
		}
		out[i] = f
	}
	return out
}

// seasonal is the weighted mean of the values at whole periods before at.
func seasonal(load []float64, at, period int, keep float64) (mean float64, ok bool) {
	weight, all := 1.0, 0.0
	for k := at - period; k >= 0; k -= period {
		if k >= len(load) {
			continue
		}
		if v := load[k]; !math.IsNaN(v) {
			mean += weight * v
			all += weight
		}
		weight *= keep
	}
	if all == 0 {
		return 0, false
	}
	return mean / all, true
}

// track is the target tracking policy, whose alarms look at each minute.
func (a *awsPredictive) track(now time.Time, o Observation, service float64) int {
	count := o.Wanted
	for t := range a.alarms.until(now) {
		seen := t.Add(-a.setup.Delay)
		rate, ok := o.Arrivals.Window(seen.Add(-time.Minute), seen).Mean()
		if !ok {
			continue // the alarms have insufficient data
		}
		ready, _ := newest(o.ReadyCount, t, a.setup.Delay)
		need := rate * service / a.target // replicas that the target needs
		a.minutes = append(a.minutes, need/math.Max(ready, 1))
		if len(a.minutes) > awsIn {
			a.minutes = a.minutes[1:]
		}
		switch {
		case a.last(awsOut, func(v float64) bool { return v > 1 }):
			count = max(ceil(need), count)
		case len(o.Starting) == 0 && a.last(awsIn, func(v float64) bool { return v < awsInside }):
			count = min(ceil(need), count)
		}
	}
	return count
}

// last tells whether each of the last n minutes was so.
func (a *awsPredictive) last(n int, so func(float64) bool) bool {
	if len(a.minutes) < n {
		return false
	}
	for _, v := range a.minutes[len(a.minutes)-n:] {
		if !so(v) {
			return false
		}
	}
	return true
}
