package history_test

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/gpupool/gpupool/internal/demand"
	"github.com/gpupool/gpupool/internal/history"
	"github.com/gpupool/gpupool/internal/plan"
)

// What is decided on minutes for the past and samples for the last hours is
// what is decided on samples throughout: the two spacings are no harm.
func TestDecisionsOnMixedSpacing(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	start := midnight.Add(-3 * 24 * time.Hour)
	end := midnight.Add(15 * time.Hour)
	var samples demand.Series
	for at := start.Add(10 * time.Second); !at.After(end); at = at.Add(10 * time.Second) {
		day := float64(at.Unix()) / 86400 * 2 * math.Pi
		samples = append(samples, demand.Point{At: at, Value: math.Round(max(0, 60+40*math.Sin(day)+3*rng.NormFloat64()))})
	}
	record := history.NewRecord(28)
	for _, p := range samples {
		record.Add(p)
	}
	record.Close(end.Add(time.Second))

	rules := plan.Rules{Units: 8, Max: 40, Lead: 5 * time.Minute, Interval: 10 * time.Second, ScaleInAfter: 10 * time.Minute}
	for _, fine := range []time.Duration{time.Minute, 6 * time.Hour} {
		worst := 0.0
		for now := end.Add(-2 * time.Hour); !now.After(end); now = now.Add(2 * time.Hour) {
			known := samples.Window(start, now)
			mixed := record.Merge(start, now, samples.Window(now.Add(-fine), now))
			if _, err := demand.New(mixed); err != nil || len(mixed) >= len(known) {
				t.Fatalf("%d of %d points: %v", len(mixed), len(known), err)
			}
			of := func(s demand.Series) plan.Decision {
				d := plan.Decide(plan.Input{Now: now, Count: 12, Demand: s}, rules)
				if d.Rule == plan.RuleHold || d.Rule == plan.RuleSimple {
					t.Fatalf("decided by %s: %s", d.Rule, d.Reason)
				}
				return d
			}
			whole, part := of(known), of(mixed)
			forecast := func(d plan.Decision) float64 { f, _ := d.Term(plan.TermForecast); return f.Value }
			worst = max(worst, math.Abs(forecast(whole)-forecast(part))/forecast(whole))
			if math.Abs(float64(whole.Count-part.Count)) > 1 {
				t.Errorf("samples of the last %s, at %s: %d, on all samples %d\n%s\n%s", fine, now, part.Count, whole.Count, part.Reason, whole.Reason)
			}
		}
		t.Logf("samples of the last %s: forecasts differ by at most %.1f %%", fine, 100*worst)
		if worst > 0.1 {
			t.Errorf("samples of the last %s: forecasts differ by %.0f %%", fine, 100*worst)
		}
	}
}
