// Package plan decides how many replicas of a pool are needed, and says why.
//
// A replica is whatever the pool counts: a host with several GPUs, or an
// instance of a model server with several slots. Demand and capacity meet in
// units: the GPUs or slots that one replica has [Rules.Units] of.
//
// [Decide] is a pure function of the time, what was seen and the rules. It
// keeps nothing between calls, so a decision can be made again from the record
// and an autoscaler that takes over from a dead one decides the same. The
// strategy plugin and the simulator call this very function.
package plan

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/gpupool/gpupool/internal/demand"
)

// Input is what a decision knows. Only Now, Count and Demand are always
// there; a nil series or slice means that nobody measures it.
type Input struct {
	Now time.Time

	// Count is the number of replicas that were last wanted. It includes
	// those that are still starting.
	Count int

	// Demand is the work present, running and queued, in units. It is not
	// capped by what the pool can serve: a queue makes it larger than Count
	// times Units. For jobs that hold a GPU until they end it is also the
	// capacity needed.
	Demand demand.Series

	// Load is the offered load in units: the rate at which work arrives
	// times the mean time that it holds a unit. For request traffic it is the
	// capacity needed by what arrives, whether or not the pool keeps up.
	Load demand.Series

	// Queue is the part of Demand that waits.
	Queue demand.Series

	// Service is the mean time that one unit of work holds a unit of
	// capacity; zero when it is not known.
	Service time.Duration

	// Starting has, for each replica of Count that does not serve yet, when
	// it is expected to.
	Starting []time.Time

	// Floor is the least and Ceiling the most replicas that a schedule asks
	// for now, within Min and Max; the floor is the stronger. FloorWhy and
	// CeilingWhy are the entries that say so: where one is empty there is no
	// such bound.
	Floor, Ceiling       int
	FloorWhy, CeilingWhy string
}

// Rules is what the operator asks for. Its zero value is not usable: Units
// and Max have no default.
type Rules struct {
	Units float64 // GPUs of a host, or slots of an instance; > 0
	Min   int     // never fewer replicas, ≥ 0
	Max   int     // never more replicas, ≥ Min

	// Piece is the units that one piece of work takes at once, on one replica:
	// the GPUs of an instance, where replicas are hosts. Then only as many
	// units of a replica count as whole pieces fill. 0 means that work can be
	// split at will.
	Piece float64
	// Spare is replicas that are kept beyond what is needed, warm.
	Spare int
	// StepUp and StepDown are the most replicas by which one decision raises
	// or lowers the count; 0 means any.
	StepUp, StepDown int
	// Zone is the IANA name of the time zone that demand lives in: a day
	// there has 23 or 25 hours twice a year. Empty means UTC.
	Zone string

	// RequestCost is what one late piece of work costs, and ReplicaPrice what
	// an hour of a replica does, in the same money. With both the newsvendor's
	// quantile decides instead of SLO. Service is then the mean time of one
	// piece of work.
	RequestCost, ReplicaPrice float64
	Service                   time.Duration

	// Lead is the time from wanting a replica to its first work served.
	Lead time.Duration
	// Interval is the time between decisions.
	Interval time.Duration
	// Season is the length of one cycle of demand; 0 means a day. Seven of
	// them are the longer cycle, as a week is of days, and what is measured
	// in parts of a day, such as the step of the forecast, is the same part
	// of a season. 1 min to 24 h.
	Season time.Duration

	// Utilization is the share of the units that demand may fill; 0 means 1.
	Utilization float64
	// Smooth is the window over which Load is averaged, so that the noise
	// within a minute starts nothing; 0 means 2 min.
	Smooth time.Duration
	// DrainTime is how soon after the lead time a queue shall be gone; 0
	// means 1 min. It matters where Service is known and shorter.
	DrainTime time.Duration
	// ScaleInAfter is how long a replica must have been surplus before it
	// goes; 0 means the longer of Lead and 15 min.
	ScaleInAfter time.Duration
	// Wait is the longest that work may wait and still be on time; 0 means
	// 1 min.
	Wait time.Duration
	// SLO is the share of work that shall be on time; 0 means 0.99.
	SLO float64
	// LateCost is what it costs that work is late beyond what SLO allows, as
	// so many times the capacity that serves it; 0 means 120 for each minute
	// of Lead, and at least 500. It is high,
	// because the SLO is a promise, and finite, because of jumps that no
	// capacity could have met. Less forgets a jump sooner.
	LateCost float64
	// Wear is what a start costs beyond the time it is billed, as so much
	// time of a replica; 0 means 10 min.
	Wear time.Duration
	// StaleAfter is the age from which the newest sample, and the length
	// from which a hole, is too old to act on; 0 means 5 min.
	StaleAfter time.Duration
}

// withDefaults fills what was left at zero.
func (r Rules) withDefaults() Rules {
	if r.Season == 0 {
		r.Season = day
	}
	if r.Utilization == 0 {
		r.Utilization = 1
	}
	or := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	if r.Piece > 0 {
		r.Units = math.Floor(r.Units/r.Piece+1e-9) * r.Piece
	}
	or(&r.Smooth, r.Of(2*time.Minute))
	or(&r.DrainTime, time.Minute)
	or(&r.ScaleInAfter, max(r.Lead, min(15*time.Minute, r.Season/8)))
	or(&r.StaleAfter, min(5*time.Minute, r.Season/8))
	or(&r.Wait, time.Minute)
	or(&r.Wear, 10*time.Minute)
	if r.SLO == 0 {
		r.SLO = 0.99
	}
	if r.LateCost == 0 {
		r.LateCost = min(max(500, 120*r.Lead.Minutes()), 1e6)
	}
	return r
}

// Validate reports every rule that cannot be followed, joined.
func (r Rules) Validate() error {
	var errs []error
	bad := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	bad(r.Units > 0 && r.Units < 1e9, "units per replica is %v: must be above 0", r.Units)
	bad(r.Piece >= 0 && r.Piece <= r.Units, "units of a piece of work are %v: must be 0 or more, and no more than the %v of a replica", r.Piece, r.Units)
	bad(r.Spare >= 0 && r.StepUp >= 0 && r.StepDown >= 0, "spare %d, steps %d up and %d down: must not be negative", r.Spare, r.StepUp, r.StepDown)
	_, err := time.LoadLocation(r.Zone)
	bad(err == nil && !strings.EqualFold(r.Zone, "local"), "time zone %q: give an IANA name such as Europe/Berlin", r.Zone)
	bad(r.RequestCost >= 0 && r.ReplicaPrice >= 0 && r.RequestCost <= 1e9 && r.ReplicaPrice <= 1e9, "cost of a late request %v and price of a replica %v: must be 0 to 1e9", r.RequestCost, r.ReplicaPrice)
	bad(r.RequestCost == 0 || r.ReplicaPrice > 0 && r.Service > 0, "a cost of late requests needs the price of a replica-hour and the mean service time")
	bad(r.Season == 0 || r.Season >= leastSeason && r.Season <= day, "season is %s: must be %s to %s", r.Season, short(leastSeason), short(day))
	bad(r.Min >= 0, "min is %d: must be 0 or more", r.Min)
	bad(r.Max >= r.Min, "max %d is below min %d", r.Max, r.Min)
	bad(r.SLO >= 0 && r.SLO < 1, "slo is %v: must be above 0 and below 1", r.SLO)
	bad(r.LateCost >= 0 && r.LateCost <= 1e6, "cost of lateness is %v: must be 0 to 1000000", r.LateCost)
	bad(r.Utilization >= 0 && r.Utilization <= 1, "utilization is %v: must be above 0 and at most 1", r.Utilization)
	for _, d := range []struct {
		name string
		v    time.Duration
	}{
		{"lead time", r.Lead}, {"interval", r.Interval}, {"smoothing", r.Smooth}, {"drain time", r.DrainTime},
		{"scale-in delay", r.ScaleInAfter}, {"stale time", r.StaleAfter}, {"service time", r.Service},
	} {
		bad(d.v >= 0, "%s is %s: must not be negative", d.name, d.v)
	}
	return errors.Join(errs...)
}

// Rule names the way by which a decision was reached.
type Rule string

const (
	// RuleHold keeps the count, within min and max, because what was seen is
	// missing or too old to act on. It ends with the next good sample.
	RuleHold Rule = "hold"
	// RuleSimple follows the need now and the queue, without a forecast.
	RuleSimple Rule = "simple"
	// RulePredictive plans for the demand one lead time ahead.
	RulePredictive Rule = "predictive"
	// RuleStatic holds what the largest demand of the last two weeks needs,
	// because scaling would have cost as much, with what it would have made
	// late. It ends when it would not.
	RuleStatic Rule = "static"
)

// Decision is how many replicas to want, and why.
type Decision struct {
	Count  int
	Rule   Rule
	Reason string // one sentence for a person
	Terms  []Term // each number that the count was made of, in order
}

// Term is one number in a decision.
type Term struct {
	Name  string  // snake_case, stable: operators and dashboards refer to it
	Value float64 //
	Unit  string  // "replicas", "units", "s", "" for a plain number
	Note  string  // what it is, in a few words; may be empty
}

// String is the term as "name 12.5 units".
func (t Term) String() string {
	return strings.TrimSpace(t.Name + " " + strconv.FormatFloat(t.Value, 'g', 6, 64) + " " + t.Unit)
}

// Term returns the term of that name; ok is false when the decision has none.
func (d Decision) Term(name string) (t Term, ok bool) {
	for _, t := range d.Terms {
		if t.Name == name {
			return t, true
		}
	}
	return Term{}, false
}

// Decide answers how many replicas are needed now, from all of the series. A
// [Planner] gives the same answers and keeps what it read. It never panics. The count
// is within min and max, whatever in.Count is; when there is nothing to go by,
// in.Count is kept otherwise and the reason says why. Rules that
// [Rules.Validate] refuses leave in.Count as it is.
func Decide(in Input, r Rules) Decision {
	return NewPlanner(r).Decide(in)
}

// Names of terms that others read: the simulator scores forecasts by them.
const (
	// TermForecast is the demand, in units, that the decision planned for:
	// an upper quantile of the largest two-minute mean of the load from one
	// lead time from now on, for one interval.
	TermForecast = "forecast"
	// TermQuantile is the quantile that TermForecast is meant to be, 0 to 1.
	TermQuantile = "quantile"
)
