package plan

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/gpupool/gpupool/internal/demand"
)

// simple is the rule without a forecast, and what every other rule falls back
// to: serve what is there, drain what waits, and let go only of what has been
// surplus for a while.
//
//	need    = load (or demand, where work holds its unit until it ends) / utilization
//	drain   = backlog expected when a replica started now would serve, over the drain time
//	out     = ceil((need + drain) / units)
//	in      = the most that was needed over the last ScaleInAfter
//	count   = out if more are needed, else the smaller of count and in, within min and max
func simple(in Input, r Rules) Decision {
	signal, name := in.Demand, "demand"
	flow := len(in.Load) > 0 && in.Service > 0
	if flow {
		signal, name = in.Load, "load"
	}
	if why := unusable(signal, in.Now, r); why != "" {
		return hold(in, r, why)
	}
	past := signal.Window(in.Now.Add(-r.ScaleInAfter-r.StaleAfter-r.Smooth), in.Now)
	last, _ := past.Last()

	d := Decision{Rule: RuleSimple}
	term := func(n string, v float64, unit, note string) {
		d.Terms = append(d.Terms, Term{n, v, unit, note})
	}
	perReplica := r.Units * r.Utilization
	now := last.Value
	if flow {
		if v, ok := past.Window(in.Now.Add(-r.Smooth), in.Now).Mean(); ok {
			now = v
		}
	}
	term(name, now, "units", "what is needed now")
	drain := 0.0
	if flow {
		late := backlog(in, r, now)
		drain = late * in.Service.Seconds() / max(r.DrainTime, in.Service, r.Interval).Seconds()
		term("backlog", late, "units", "expected to wait once a replica started now serves")
		term("drain", drain, "units", "capacity to be rid of the backlog in the drain time")
	}
	out := ceil((now+drain*r.Utilization)/perReplica) + r.Spare
	term("out", float64(out), "replicas", "need now and queue")

	held, why := surplus(past, in, r, flow)
	keep := ceil(held/perReplica) + r.Spare
	term("keep", float64(keep), "replicas", fmt.Sprintf("most needed in the last %s", short(r.ScaleInAfter)))

	want := out
	switch {
	case out < in.Count && why != "":
		want = in.Count
	case out < in.Count:
		want = min(in.Count, max(out, keep))
	}
	d.Count = bounded(want, in, r)
	term("count", float64(in.Count), "replicas", "wanted until now")
	term("want", float64(d.Count), "replicas", "")
	d.Reason = sentence(in, r, d.Count, want, out, now, drain, name, why)
	return d
}

// bounded is the wanted count within the steps that one decision may take, and
// within min and max, which are the stronger.
func bounded(want int, in Input, r Rules) int {
	if r.StepUp > 0 {
		want = min(want, max(in.Count, 0)+r.StepUp)
	}
	if r.StepDown > 0 {
		want = max(want, in.Count-r.StepDown)
	}
	return clamp(want, &r)
}

// within narrows min and max to what the schedule says now.
func (in Input) within(r Rules) Rules {
	most := r.Max
	if in.CeilingWhy != "" {
		r.Max = clamp(in.Ceiling, &r)
	}
	if in.FloorWhy != "" {
		r.Min = min(max(in.Floor, r.Min), most)
		r.Max = max(r.Max, r.Min)
	}
	return r
}

// limits says what kept the count from being what was wanted.
func limits(in Input, r Rules, count, want int) string {
	switch {
	case count < want && count == r.Max && in.CeilingWhy != "":
		return fmt.Sprintf("; max %d limits the %d wanted (schedule %q)", r.Max, want, in.CeilingWhy)
	case count < want && count == r.Max:
		return fmt.Sprintf("; max %d limits the %d wanted", r.Max, want)
	case count > want && count == r.Min && in.FloorWhy != "":
		return fmt.Sprintf("; min %d (schedule %q)", r.Min, in.FloorWhy)
	case count > want && count == r.Min:
		return fmt.Sprintf("; min %d", r.Min)
	case count < want:
		return fmt.Sprintf("; %d more at once of the %d wanted", count-in.Count, want)
	case count > want:
		return fmt.Sprintf("; %d fewer at once, down to %d", in.Count-count, want)
	}
	return ""
}

// unusable says why the signal cannot be acted on; "" when it can.
func unusable(signal demand.Series, now time.Time, r Rules) string {
	if err := r.Validate(); err != nil {
		return "the rules are not valid: " + oneLine(err)
	}
	return stale(signal, now, r)
}

// stale says why the signal does not tell about now; "" when it does.
func stale(signal demand.Series, now time.Time, r Rules) string {
	if len(signal) == 0 {
		return "there is no demand sample"
	}
	last, ok := signal.Window(time.Time{}, now).Last()
	switch {
	case !ok:
		return fmt.Sprintf("the demand samples begin %s in the future: check the clocks", short(signal[0].At.Sub(now)))
	case now.Sub(last.At) > r.StaleAfter:
		return fmt.Sprintf("the newest demand sample is %s old", short(now.Sub(last.At)))
	}
	return ""
}

// hold keeps the count, within min and max where these make sense.
func hold(in Input, r Rules, why string) Decision {
	d := Decision{Count: in.Count, Rule: RuleHold}
	if r.Validate() == nil {
		d.Count = clamp(in.Count, &r)
	}
	d.Reason = fmt.Sprintf("holding %d: %s", d.Count, why)
	d.Terms = []Term{
		{"count", float64(in.Count), "replicas", "wanted until now"},
		{"want", float64(d.Count), "replicas", ""},
	}
	return d
}

// backlog is the work, in units, that is expected to wait when a replica
// wanted now would begin to serve: what waits already, plus what arrives until
// then, less what the replicas that serve or start work off. Capacity that is
// already starting counts at its own time; a rule that forgets it starts the
// same capacity again at every decision.
func backlog(in Input, r Rules, load float64) float64 {
	q, ok := in.Queue.Window(in.Now.Add(-r.StaleAfter), in.Now).Last()
	if !ok {
		return 0
	}
	ready := max(in.Count-len(in.Starting), 0)
	horizon := r.Lead.Seconds()
	// Work is counted in unit-seconds: a waiting unit holds a unit of
	// capacity for the service time.
	work := q.Value * in.Service.Seconds()
	if horizon > 0 {
		capacity := float64(ready) * r.Units * horizon
		for _, at := range in.Starting {
			if left := horizon - max(at.Sub(in.Now).Seconds(), 0); left > 0 {
				capacity += left * r.Units
			}
		}
		work += load*horizon - capacity
	}
	if work <= 0 {
		return 0
	}
	return work / in.Service.Seconds()
}

// surplus returns the most that was needed over the last ScaleInAfter, and why
// nothing may be let go where the past does not show it or a queue stands.
func surplus(past demand.Series, in Input, r Rules, flow bool) (most float64, why string) {
	from := in.Now.Add(-r.ScaleInAfter)
	window := past.Window(from, in.Now)
	if flow {
		// Smoothed like the need now, or one noisy sample would hold what
		// it never started.
		window = window.Resample(r.Smooth, demand.MeanOf)
	}
	if p, ok := window.Max(); ok {
		most = p.Value
	}
	if why := unknown(past, in.Now, r); why != "" || !flow {
		return most, why
	}
	q, _ := in.Queue.Window(in.Now.Add(-r.StaleAfter), in.Now).Last()
	serving := float64(max(in.Count-len(in.Starting), 0)) * r.Units
	if wait := q.Value * in.Service.Seconds(); wait > serving*r.DrainTime.Seconds()/10 {
		return most, fmt.Sprintf("%s units still wait", number(q.Value))
	}
	return most, ""
}

// unknown says since when, or for how long, nothing is known within the hold
// time; "" when all of it is.
func unknown(past demand.Series, now time.Time, r Rules) string {
	from := now.Add(-r.ScaleInAfter)
	gaps := past.Gaps(from, now, r.StaleAfter)
	switch {
	case len(gaps) == 0:
		return ""
	case len(past.Window(from.Add(-r.StaleAfter), gaps[0].From)) == 0:
		return fmt.Sprintf("what is known begins only %s ago", short(now.Sub(gaps[0].To)))
	}
	return fmt.Sprintf("nothing is known for %s of the last %s", short(gaps[0].Length()), short(r.ScaleInAfter))
}

// sentence says what was decided in words that need no legend.
func sentence(in Input, r Rules, count, want, out int, now, drain float64, name, why string) string {
	need := fmt.Sprintf("%s %s", name, number(now))
	if drain > 0 {
		need += fmt.Sprintf(" and %s to drain the queue", number(drain))
	}
	need += fmt.Sprintf(" of %s a replica", number(r.Units*r.Utilization))
	var s string
	switch {
	case count > in.Count:
		s = fmt.Sprintf("scaling out from %d to %d: %s", in.Count, count, need)
	case count < in.Count && want < in.Count:
		s = fmt.Sprintf("scaling in from %d to %d: %s, no more needed in the last %s", in.Count, count, need, short(r.ScaleInAfter))
	case count < in.Count:
		s = fmt.Sprintf("scaling in from %d to %d", in.Count, count)
	case out < count && why != "":
		s = fmt.Sprintf("keeping %d though %d would do: %s", count, out, why)
	case out < count && want == count:
		s = fmt.Sprintf("keeping %d: %s, more was needed in the last %s", count, need, short(r.ScaleInAfter))
	default:
		s = fmt.Sprintf("keeping %d: %s", count, need)
	}
	return s + limits(in, r, count, want)
}

func clamp(n int, r *Rules) int { return max(min(n, r.Max), r.Min) }

// ceil rounds up, forgiving the last digits of a sum, within what an int32
// holds.
func ceil(v float64) int {
	if !(v > 0) {
		return 0
	}
	return int(math.Ceil(min(v-1e-9, math.MaxInt32)))
}

func number(v float64) string { return strconv.FormatFloat(v, 'g', 4, 64) }

// short is a duration without zero parts: "5m", not "5m0s".
func short(d time.Duration) string {
	if d >= time.Second {
		d = d.Round(time.Second)
	}
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
