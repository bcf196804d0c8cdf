package sim

import (
	"math"
	"testing"
	"time"

	"github.com/gpupool/gpupool/internal/plan"
)

func fourDays(t *testing.T) *World {
	t.Helper()
	w, err := NewWorld(Config{Peak: 6, Warmup: 30 * time.Hour},
		Generate(Shape{Days: 3.5, Mean: 200, Day: 0.7, Noise: 3, Bursts: 2}, 5))
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestDaysAddUpToTheReport(t *testing.T) {
	r := fourDays(t).Run(named(t, "tracking"), 0.9)
	if len(r.Days) != 3 || r.Days[0].Day != 1 || r.Days[2].Day != 3 {
		t.Fatalf("days %+v, want 1 to 3", r.Days)
	}
	var sum Day
	for _, d := range r.Days {
		sum.GPUHours += d.GPUHours
		sum.PowerCycles += d.PowerCycles
		sum.Requests += d.Requests
		sum.Late += d.Late
	}
	near := func(a, b float64) bool { return math.Abs(a-b) < 1e-6*max(math.Abs(b), 1) }
	if !near(sum.GPUHours, r.GPUHours) || sum.PowerCycles != r.PowerCycles || !near(sum.Requests, r.Requests) || !near(1-sum.Late/sum.Requests, r.Attainment) {
		t.Errorf("days add up to %+v, the report has %g GPU-hours, %d starts, %g requests, %g on time", sum, r.GPUHours, r.PowerCycles, r.Requests, r.Attainment)
	}
}

func TestAPartIsTheWholeOnItsDays(t *testing.T) {
	w := fourDays(t)
	part, err := w.Part(1, 4)
	if err != nil {
		t.Fatal(err)
	}
	// A pool that never changes remembers nothing but its queue: what the
	// part's second and third day cost is what they cost in the whole.
	all, some := w.Run(named(t, "static-peak"), 1).Days, part.Run(named(t, "static-peak"), 1).Days
	for i, d := range some {
		whole := all[i+1]
		if i > 0 && (d.Requests != whole.Requests || d.Day != whole.Day-1) {
			t.Errorf("day %d of the part: %+v, of the whole: %+v", i, d, whole)
		}
	}
	if len(some) != 2 {
		t.Errorf("%d days scored, want 2: the warm-up ends in the second", len(some))
	}
	for _, bad := range [][2]int{{-1, 2}, {2, 2}, {0, 1}, {4, 9}} {
		if _, err := w.Part(bad[0], bad[1]); err == nil {
			t.Errorf("days %d to %d: no error", bad[0], bad[1])
		}
	}
}

func TestPredictiveTakesRules(t *testing.T) {
	w := fourDays(t)
	same := w.Run(Predictive(func(*plan.Rules) {}), 1)
	most := w.Run(Predictive(func(r *plan.Rules) { r.Min = r.Max }), 1)
	if want := w.Run(named(t, "predictive"), 1); same.GPUHours != want.GPUHours || most.GPUHours <= want.GPUHours {
		t.Errorf("unchanged %g, all at max %g, as it comes %g GPU-hours", same.GPUHours, most.GPUHours, want.GPUHours)
	}
}

func named(t *testing.T, name string) Spec {
	t.Helper()
	s, ok := Lookup(name)
	if !ok {
		t.Fatalf("there is no policy %s", name)
	}
	return s
}
