package advise

import (
	"fmt"
	"math"
	"sort"
	"time"

	"github.com/gpupool/gpupool/internal/plan"
	"github.com/gpupool/gpupool/internal/sim"
)

// leastTrace is how much demand must be known before scaling is compared with a
// fixed pool: less has no night in it.
const leastTrace = 20 * time.Hour

// Verdict is scaling and a fixed pool on the same demand, at the prices of
// [sim.Config].
type Verdict struct {
	LeadS   float64          `json:"lead_s"`
	Scaling sim.PolicyReport `json:"scaling"` // the live strategy
	Count   int              `json:"count"`   // the smallest fixed pool that keeps the SLO; 0 where none does
	Fixed   sim.PolicyReport `json:"fixed"`   // what it costs
	SLO     float64          `json:"slo"`
}

// Compare replays a trace through the live strategy and through pools of a
// fixed size. Whoever chose that size knew the demand, which flatters it.
func Compare(c sim.Config, t sim.Trace) (*Verdict, error) {
	if t.Duration() < leastTrace {
		return nil, fmt.Errorf("%s of demand are too little to compare scaling with a fixed pool: %s is the least", short(t.Duration()), short(leastTrace))
	}
	w, err := sim.NewWorld(c, t)
	if err != nil {
		return nil, err
	}
	live, _ := sim.Lookup("predictive")
	c = w.Config()
	v := &Verdict{LeadS: c.Lead.Seconds(), SLO: c.SLO, Scaling: w.Run(live, live.Knob.Default)}
	try := func(n int) sim.PolicyReport { return w.Run(fixed(n), 1) }
	low := max(c.Min, 1)
	n := low + sort.Search(c.Max-low+1, func(i int) bool { return try(low+i).Attainment >= c.SLO })
	if n <= c.Max {
		v.Count, v.Fixed = n, try(n)
	}
	return v, nil
}

// fixed is the policy that always wants n.
func fixed(n int) sim.Spec {
	return sim.Spec{Name: fmt.Sprintf("hold %d", n), New: func(sim.Setup) sim.Policy { return held(n) }}
}

type held int

func (h held) Name() string { return "hold" }

func (h held) Decide(time.Time, sim.Observation) plan.Decision {
	return plan.Decision{Count: int(h), Rule: "static", Reason: "a fixed pool"}
}

// Finding is what the verdict advises; ok is false where scaling pays. The
// sentence is there in either case.
func (v *Verdict) Finding() (f Finding, ok bool) {
	lead := short(time.Duration(v.LeadS) * time.Second)
	f = Finding{Kind: DoNot, Figures: []Figure{
		{"scaling_cost", v.Scaling.Cost, ""}, {"scaling_gpu_hours", v.Scaling.GPUHours, "h"}, {"scaling_attainment", v.Scaling.Attainment, ""},
		{"fixed_count", float64(v.Count), "replicas"}, {"fixed_cost", v.Fixed.Cost, ""}, {"fixed_gpu_hours", v.Fixed.GPUHours, "h"},
		{"fixed_attainment", v.Fixed.Attainment, ""},
	}}
	keeps := v.Scaling.Attainment >= v.SLO
	switch {
	case v.Count == 0 && !keeps:
		f.What = fmt.Sprintf("neither scaling (%s on time) nor any fixed pool within max keeps %s on time at a lead time of %s", share(v.Scaling.Attainment), share(v.SLO), lead)
		f.Change = "a higher max, or a longer wait allowed"
		return f, true
	case v.Count == 0:
		f.What = fmt.Sprintf("scaling keeps %s on time at a lead time of %s; no fixed pool within max does", share(v.Scaling.Attainment), lead)
		return f, false
	case !keeps:
		f.What = fmt.Sprintf("autoscaling cannot pay here: at a lead time of %s it keeps only %s of the work on time, and a pool of %d keeps %s", lead,
			share(v.Scaling.Attainment), v.Count, share(v.Fixed.Attainment))
	case v.Fixed.Cost <= v.Scaling.Cost:
		f.What = fmt.Sprintf("autoscaling cannot pay here: at a lead time of %s it costs %s (%s GPU-hours, %d starts), and a pool of %d that never changes costs %s and keeps %s on time",
			lead, money(v.Scaling.Cost), money(v.Scaling.GPUHours), v.Scaling.PowerCycles, v.Count, money(v.Fixed.Cost), share(v.Fixed.Attainment))
	default:
		f.What = fmt.Sprintf("autoscaling pays: at a lead time of %s it costs %s less than the fixed pool of %d that is as often on time", lead,
			percent(1-v.Scaling.Cost/v.Fixed.Cost), v.Count)
		return f, false
	}
	f.Change = fmt.Sprintf("hold %d: min = %d and max = %d in %s", v.Count, v.Count, v.Count, bothBlocks)
	return f, true
}

func money(v float64) string { return fmt.Sprintf("%.0f", v) }

// share never rounds up to all.
func share(v float64) string { return fmt.Sprintf("%.1f%%", math.Floor(v*1000+1e-9)/10) }
