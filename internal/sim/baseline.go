package sim

import (
	"iter"
	"time"

	"github.com/gpupool/gpupool/internal/demand"
)

// lookback is how long the newest sample stands for a metric that has no newer
// one: Prometheus's default, query.lookback-delta.
const lookback = 5 * time.Minute

// newest is what a metric store answers at t: the newest sample that had
// reached it by then, unless that is older than lookback.
func newest(s demand.Series, t time.Time, delay time.Duration) (float64, bool) {
	visible := t.Add(-delay)
	p, ok := s.Window(visible.Add(-lookback), visible).Last()
	return p.Value, ok
}

// queryAverage is the window over which whoever writes a query averages a noisy
// metric: avg_over_time(…[2m]), rate(…[2m]). tracking has the same.
const queryAverage = 2 * time.Minute

// utilization is the busy share of the ready replicas' slots, 0 to 1, as a
// query would average it up to the sample at t; ok is false where none were
// ready. It saturates.
func utilization(o Observation, slots int, t time.Time) (v float64, ok bool) {
	busy, _ := o.InService.Window(t.Add(-queryAverage), t).Mean()
	ready, _ := o.ReadyCount.Window(t.Add(-queryAverage), t).Mean()
	return min(busy/(ready*float64(slots)), 1), ready > 0
}

// requestLoad is utilization by the requests that arrive instead of those that
// are served: requests a second and replica, over what one can take as measured
// by how long they hold a slot. It does not saturate.
func requestLoad(o Observation, slots int, t time.Time) (v float64, ok bool) {
	service, ok := meanService(o, t)
	rate, _ := o.Arrivals.Window(t.Add(-queryAverage), t).Mean()
	ready, _ := o.ReadyCount.Window(t.Add(-queryAverage), t).Mean()
	return rate * service / (ready * float64(slots)), ok && ready > 0
}

// periodic runs a controller at its own period inside the simulator's interval
// between decisions. Controllers that limit their rate a period, or hold what
// they advised for some time, would be slower than they are if they ran only
// once in an interval. What they decide between takes effect at its end.
type periodic struct {
	period time.Duration
	next   time.Time
}

// until yields the times at which the controller runs, up to now; the first of
// all is the first now.
func (p *periodic) until(now time.Time) iter.Seq[time.Time] {
	if p.next.IsZero() {
		p.next = now
	}
	return func(yield func(time.Time) bool) {
		for !p.next.After(now) {
			t := p.next
			p.next = t.Add(p.period)
			if !yield(t) {
				return
			}
		}
	}
}
