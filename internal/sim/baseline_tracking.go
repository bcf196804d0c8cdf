package sim

import (
	"fmt"
	"math"
	"time"

	"github.com/gpupool/gpupool/internal/demand"
	"github.com/gpupool/gpupool/internal/plan"
)

// tracking follows the load of the last two minutes at a target utilization,
// and lets go of what was surplus for as long as a start takes, at least fifteen
// minutes. With queue it also adds the capacity to drain, in the allowed wait,
// the backlog that will be there when a replica started now serves; what is
// starting already counts at its own ready time. That is the strongest rule
// that needs no forecast.
type tracking struct {
	setup Setup
	queue bool
	past  []wanted // counts that were needed, newest last, within the hold time
}

type wanted struct {
	at    time.Time
	count int
}

func newTracking(queue bool) func(Setup) Policy {
	return func(s Setup) Policy { return &tracking{setup: s, queue: queue} }
}

func (t *tracking) Name() string {
	if t.queue {
		return "tracking-queue"
	}
	return "tracking"
}

func (t *tracking) Decide(now time.Time, o Observation) plan.Decision {
	service, ok := meanService(o, now)
	rate, seen := o.Arrivals.Window(now.Add(-2*time.Minute-t.setup.Delay), now).Mean()
	if !ok || !seen {
		return plan.Decision{Count: o.Wanted, Rule: plan.RuleHold, Reason: "no samples"}
	}
	perReplica := float64(t.setup.Slots)
	load := rate * service
	need := load / (perReplica * t.setup.Knob)
	if t.queue {
		drain := t.backlog(now, o, load, service) * service / max(t.setup.SLOWait, t.setup.Interval).Seconds()
		need = max(need, (load+drain)/perReplica)
	}
	n := int(math.Ceil(need - 1e-9))
	return plan.Decision{Count: t.held(now, n), Rule: "tracking", Reason: fmt.Sprintf("%d needed now", n)}
}

// held is the largest count needed over the hold time.
func (t *tracking) held(now time.Time, n int) int {
	from := now.Add(-max(t.setup.Lead, 15*time.Minute))
	keep := t.past[:0]
	for _, p := range t.past {
		if p.at.After(from) {
			keep = append(keep, p)
		}
	}
	t.past = append(keep, wanted{now, n})
	for _, p := range t.past {
		n = max(n, p.count)
	}
	return n
}

// backlog is the number of requests expected to wait one lead time from now.
func (t *tracking) backlog(now time.Time, o Observation, load, service float64) float64 {
	waiting, ok := o.Waiting.Last()
	if !ok {
		return 0
	}
	lead := t.setup.Lead.Seconds()
	slots := float64(t.setup.Slots)
	capacity := float64(o.Ready) * slots * lead
	for _, s := range o.Starting {
		serves := lead - max(lead-now.Sub(s).Seconds(), 0)
		capacity += serves * slots
	}
	return max(waiting.Value+(load*lead-capacity)/service, 0)
}

// meanService estimates how many seconds a request holds a slot, by Little's
// law over the last half hour: slots busy over requests completed a second.
func meanService(o Observation, now time.Time) (float64, bool) {
	from := now.Add(-30 * time.Minute)
	recent := len(o.InService) - len(o.InService.Window(from, now)) // both have the same samples
	busy, done := sum(o.InService[recent:]), sum(o.Completions[recent:])
	if done <= 0 || busy <= 0 {
		busy, done = sum(o.InService), sum(o.Completions)
	}
	if done <= 0 || busy <= 0 {
		return 0, false
	}
	return busy / done, true
}

func sum(s demand.Series) float64 {
	v := 0.0
	for _, p := range s {
		v += p.Value
	}
	return v
}
