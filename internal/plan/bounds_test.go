package plan_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/gpupool/gpupool/internal/demand"
	"github.com/gpupool/gpupool/internal/plan"
)

// Floors, ceilings, spares and steps hold for every rule alike; with a day of
// history the predictive one decides.
func TestBounds(t *testing.T) {
	ago := func(n int, v float64) demand.Series { return minutes(held(v, n)...) }
	for _, c := range []struct {
		name   string
		rules  func(*plan.Rules)
		in     func(*plan.Input)
		count  int
		demand float64
		want   int
		reason string
	}{
		{"as it is", nil, nil, 4, 8, 4, "keeping 4"},
		{"one spare", func(r *plan.Rules) { r.Spare = 1 }, nil, 4, 8, 5, "from 4 to 5"},
		{"spares within max", func(r *plan.Rules) { r.Spare = 20 }, nil, 4, 8, 10, "max 10 limits the 24 wanted"},
		{"a floor", nil, func(in *plan.Input) { in.Floor, in.FloorWhy = 6, "weekdays" }, 4, 8, 6, `min 6 (schedule "weekdays")`},
		{"a ceiling", nil, func(in *plan.Input) { in.Ceiling, in.CeilingWhy = 2, "nights" }, 4, 8, 2, `max 2 limits the 4 wanted (schedule "nights")`},
		{"a ceiling of nothing", nil, func(in *plan.Input) { in.CeilingWhy = "closed" }, 4, 8, 0, `(schedule "closed")`},
		{"the floor is stronger", nil, func(in *plan.Input) {
			in.Floor, in.FloorWhy, in.Ceiling, in.CeilingWhy = 6, "weekdays", 2, "nights"
		}, 4, 8, 6, "weekdays"},
		{"max is stronger than both", nil, func(in *plan.Input) { in.Floor, in.FloorWhy = 60, "typo" }, 4, 8, 10, "typo"},
		{"two at once", func(r *plan.Rules) { r.StepUp = 2 }, nil, 4, 19, 6, "2 more at once of the 10 wanted"},
		{"one fewer at once", func(r *plan.Rules) { r.StepDown = 1 }, nil, 9, 8, 8, "1 fewer at once, down to 4"},
		{"min is stronger than steps", func(r *plan.Rules) { r.Min, r.StepUp = 4, 1 }, nil, 0, 0, 4, "min 4"},
		{"whole instances", func(r *plan.Rules) { r.Units, r.Piece = 8, 3 }, nil, 2, 12, 2, "of 6 a replica"},
		{"a lead time of weeks", func(r *plan.Rules) { r.Lead = 14 * 24 * time.Hour }, nil, 4, 8, 4, "more than a day ahead"},
	} {
		for _, long := range []int{60, 24 * 60} {
			rules := hosts
			if c.rules != nil {
				c.rules(&rules)
			}
			in := plan.Input{Now: now, Count: c.count, Demand: ago(long, c.demand)}
			if c.in != nil {
				c.in(&in)
			}
			d := plan.Decide(in, rules)
			if d.Count != c.want || !strings.Contains(d.Reason, c.reason) {
				t.Errorf("%s, after %d minutes: %d by %s, want %d: %s", c.name, long, d.Count, d.Rule, c.want, d.Reason)
			}
		}
	}
}

func TestRulesThatCannotBe(t *testing.T) {
	err := plan.Rules{Units: 2, Max: 1, Piece: 3, Spare: -1, Zone: "Berlin", RequestCost: 1}.Validate()
	for _, part := range []string{"piece of work are 3", "spare -1", `"Berlin"`, "price of a replica-hour"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%q is not in: %v", part, err)
		}
	}
}

// A price on lateness: whatever the demand, more never means less.
func TestMoreCostOfLatenessNeverMeansLess(t *testing.T) {
	load := bumpy(7, perDay)
	rapid.Check(t, func(t *rapid.T) {
		rules := big
		rules.ReplicaPrice, rules.Service = 2, service
		in := plan.Input{Now: now, Service: service, Count: rapid.IntRange(0, 60).Draw(t, "count")}
		from := rapid.IntRange(0, perDay/2).Draw(t, "from")
		for k := range 5 * perHour {
			v := load[from+k] * rapid.SampledFrom([]float64{1, 1, 1, 1, 0.5, 2}).Draw(t, "factor")
			in.Load = append(in.Load, demand.Point{At: now.Add(time.Duration(k-5*perHour+1) * 30 * time.Second), Value: v})
		}
		in.Demand = in.Load
		less := rapid.Float64Range(1e-4, 10).Draw(t, "cost")
		rules.RequestCost = less
		a := plan.Decide(in, rules)
		rules.RequestCost = less * rapid.Float64Range(1, 100).Draw(t, "times")
		b := plan.Decide(in, rules)
		if b.Count < a.Count {
			t.Fatalf("%d at a cost of %v, %d at %v:\n%s\n%s", a.Count, less, b.Count, rules.RequestCost, a.Reason, b.Reason)
		}
		if a.Rule != plan.RulePredictive || !strings.Contains(a.Reason, "with probability") {
			t.Fatalf("%s: %s", a.Rule, a.Reason)
		}
	})
}

// A busy series that is exactly 0 from one sample to the next lost its samples.
func TestZerosAreDoubtedFirst(t *testing.T) {
	f := newFluid(big, func(k int) float64 {
		if k < 2*perDay {
			return 80 + float64(k*7%5)
		}
		return 0
	})
	f.run(2*perDay, nil)
	was := f.count
	f.run(50, nil) // 25 minutes
	if f.count != was || f.decision.Rule != plan.RuleHold || !strings.Contains(f.decision.Reason, "taken for lost samples") {
		t.Errorf("%d of %d replicas by %s: %s", f.count, was, f.decision.Rule, f.decision.Reason)
	}
	f.run(3*perHour, nil)
	if f.count != big.Min {
		t.Errorf("three hours later there are %d: %s", f.count, f.decision.Reason)
	}
}

// A pool of few jobs does end from one sample to the next.
func TestAFewJobsEndTogether(t *testing.T) {
	past := held(4, 24*60)
	in := plan.Input{Now: now, Count: 2, Demand: minutes(join(past, held(0, 40))...)}
	if d := plan.Decide(in, hosts); d.Count != 0 {
		t.Errorf("%d by %s: %s", d.Count, d.Rule, d.Reason)
	}
}

// What used to move and now lies flat at the capacity shows the capacity.
func TestCappedByCapacityIsSaid(t *testing.T) {
	var values []float64
	for i := range 26 * 60 {
		values = append(values, 10+6*math.Sin(float64(i)/50)+float64(i*7%5)/2)
	}
	in := plan.Input{Now: now, Count: 8, Demand: minutes(join(values, held(16, 70))...)}
	d := plan.Decide(in, hosts)
	if d.Count != 10 || d.Rule != plan.RuleSimple || !strings.Contains(d.Reason, "looks like a limit") {
		t.Errorf("%d by %s: %s", d.Count, d.Rule, d.Reason)
	}
	// Demand that always was so flat is no limit.
	in.Demand = minutes(held(16, 27*60)...)
	if d = plan.Decide(in, hosts); d.Count != 8 || d.Rule != plan.RulePredictive {
		t.Errorf("steady: %d by %s: %s", d.Count, d.Rule, d.Reason)
	}
}

// Offices open by the clock on the wall. In the days after it was changed, a
// strategy that knows the zone is less wrong about the morning.
func TestClockChange(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	start := time.Date(2026, time.March, 9, 0, 0, 0, 0, berlin) // the clocks change on the 29th
	at := func(k int) time.Time { return start.Add(time.Duration(k) * 30 * time.Second) }
	office := func(k int) float64 {
		local := at(k).In(berlin)
		if h := local.Hour(); h >= 8 && h < 18 {
			return 300
		}
		return 60
	}
	off := func(zone string) (sum float64) {
		rules := big
		rules.Zone = zone
		p := plan.NewPlanner(rules)
		var s demand.Series
		changed := int(time.Date(2026, time.March, 29, 12, 0, 0, 0, berlin).Sub(start) / (30 * time.Second))
		for k := range changed + perDay {
			s = append(s, demand.Point{At: at(k), Value: office(k)})
			if k%(perHour/12) != 0 {
				continue
			}
			d := p.Decide(plan.Input{Now: at(k), Count: 20, Load: s, Demand: s, Service: service})
			if expected, ok := d.Term("expected"); ok && k > changed {
				sum += math.Abs(expected.Value - office(k+10))
			}
		}
		return sum
	}
	if knows, not := off("Europe/Berlin"), off(""); knows > 0.8*not {
		t.Errorf("off by %.0f units knowing the zone, %.0f without", knows, not)
	}
}

// Whatever comes in, the answer is within bounds and has a reason.
func FuzzDecide(f *testing.F) {
	f.Add([]byte{1, 2, 3, 200, 0, 0, 7}, uint8(3), 2.0, int64(time.Minute), int64(5*time.Minute), 0.99, 0.0)
	f.Add([]byte{255, 255}, uint8(0), 1e9, int64(-1), int64(1<<62), 1.5, 1e308)
	f.Fuzz(func(t *testing.T, raw []byte, count uint8, units float64, every, lead int64, slo, late float64) {
		rules := plan.Rules{Units: units, Min: int(count % 5), Max: 50, Lead: time.Duration(lead), Interval: time.Minute, SLO: slo, LateCost: late}
		gap := min(max(time.Duration(every), time.Second), time.Hour)
		var s demand.Series
		for i := range 20 * len(raw) {
			if v := raw[i%len(raw)]; v < 250 {
				s = append(s, demand.Point{At: now.Add(time.Duration(i-20*len(raw)) * gap), Value: float64(v) * math.Exp(float64(i%7))})
			}
		}
		in := plan.Input{Now: now, Count: int(count), Demand: s, Load: s, Queue: s, Service: gap}
		d := plan.Decide(in, rules)
		if d.Reason == "" || rules.Validate() == nil && (d.Count < rules.Min || d.Count > rules.Max) {
			t.Errorf("%+v", d)
		}
	})
}
