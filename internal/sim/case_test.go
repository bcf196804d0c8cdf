package sim

import (
	"math"
	"testing"
	"time"
)

// An online shop reported of its recommender: 50 GPU instances that never
// changed, 22 % busy, $85,000 a month and a p95 latency of 280 ms, became 8 to
// 35 instances, 68 % busy, $32,000 and 210 ms. The same fleet under a week of
// such demand must say the same of the fixed pool, and how far each policy
// gets. What the model cannot say is the latency of a request in service: it
// knows waits for a free slot, which fifty instances at 22 % do not have.
func TestCaseOfTheShop(t *testing.T) {
	const month = 730.0              // hours
	price := 85_000.0 / (50 * month) // of a GPU-hour
	trace := Shop(1)
	info := trace.Info()
	peak := 50 * 0.22 * info.P999PerMin / info.MeanPerMin // so that 50 are 22 % busy
	w := mustWorld(t, Config{Peak: peak, Max: 50, Min: 2, Price: price, Slots: 4}, trace)
	scored := trace.Duration().Hours() - 24
	try := func(spec Spec) (PolicyReport, float64, float64, float64) {
		var low, high float64 = math.Inf(1), 0
		c := *w
		c.cfg.Timeline = 10 * time.Minute
		r := c.Run(spec, spec.Knob.Default)
		for _, n := range r.Timeline.Billed[24*6:] {
			low, high = min(low, n), max(high, n)
		}
		t.Logf("%-20s %2.0f to %2.0f instances, %2.0f %% busy, $%6.0f a month, p95 wait %4.1f s, %.2f %% on time", spec.Name, low, high,
			100*r.Utilization, r.GPUHours/scored*month*price, r.WaitP95S, 100*r.Attainment)
		return r, low, high, r.GPUHours / scored * month * price
	}
	fixed, _, _, paid := try(Spec{Name: "fixed 50", New: func(Setup) Policy { return &script{counts: []int{50}} }})
	near(t, "utilization of the fixed fleet", fixed.Utilization, 0.22, 0.02)
	near(t, "price of the fixed fleet", paid, 85_000, 1)
	near(t, "attainment of the fixed fleet", fixed.Attainment, 1, 1e-9)
	for _, name := range []string{"predictive", "tracking", "tracking-queue", "nomad-target-value", "nomad-threshold", "hpa", "keda", "aws-predictive"} {
		r, low, high, paid := try(mustSpec(t, name))
		switch name {
		case "predictive", "tracking", "tracking-queue":
			if low > 8 || high < 20 || r.Utilization < 0.6 || paid > 36_000 || r.Attainment < 0.99 {
				t.Errorf("%s: %.0f to %.0f instances, %.2f busy, $%.0f a month, %.4f on time", name, low, high, r.Utilization, paid, r.Attainment)
			}
		}
	}
	t.Logf("lower bound: $%.0f a month", w.Bound(0.99).GPUHours/scored*month*price)
}
