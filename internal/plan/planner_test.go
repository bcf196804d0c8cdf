package plan_test

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/gpupool/gpupool/internal/demand"
	"github.com/gpupool/gpupool/internal/plan"
)

// fluid is a pool that serves load as an amount, in steps of half a minute,
// and asks a planner once a minute.
type fluid struct {
	rules   plan.Rules
	planner *plan.Planner
	load    func(k int) float64 // units in step k; below 0: the sample is lost

	now      time.Time
	k        int
	count    int
	readyAt  []int // step from which each replica of count serves, ascending
	queue    float64
	series   demand.Series
	queued   demand.Series
	starts   int
	stops    int
	decision plan.Decision
}

const (
	perHour = 120 // steps
	perDay  = 24 * perHour
	service = 10 * time.Second
)

func newFluid(rules plan.Rules, load func(k int) float64) *fluid {
	f := &fluid{rules: rules, planner: plan.NewPlanner(rules), load: load, now: now}
	f.resize(int(math.Ceil(math.Abs(load(0))/rules.Units)), -1)
	return f
}

func (f *fluid) resize(n, readyAt int) {
	for f.count < n {
		f.readyAt = append(f.readyAt, readyAt)
		f.count++
		f.starts++
	}
	for f.count > n {
		f.readyAt = f.readyAt[:len(f.readyAt)-1]
		f.count--
		f.stops++
	}
}

// input is what is known now.
func (f *fluid) input() plan.Input {
	in := plan.Input{Now: f.now, Count: f.count, Load: f.series, Demand: f.series, Queue: f.queued, Service: service}
	for _, at := range f.readyAt {
		if at > f.k {
			in.Starting = append(in.Starting, f.now.Add(time.Duration(at-f.k)*30*time.Second))
		}
	}
	return in
}

func (f *fluid) ready() (n int) {
	for _, at := range f.readyAt {
		if at <= f.k {
			n++
		}
	}
	return n
}

// run lets n steps pass.
func (f *fluid) run(n int, each func()) {
	for range n {
		v := f.load(f.k)
		f.queue = max(0, f.queue+(math.Abs(v)-float64(f.ready())*f.rules.Units)*3) // services in half a minute
		f.k++
		f.now = f.now.Add(30 * time.Second)
		if v >= 0 {
			f.series = append(f.series, demand.Point{At: f.now, Value: v})
			f.queued = append(f.queued, demand.Point{At: f.now, Value: f.queue})
		}
		if f.k%2 == 0 {
			f.decision = f.planner.Decide(f.input())
			f.resize(f.decision.Count, f.k+int(f.rules.Lead/(30*time.Second)))
		}
		if each != nil {
			each()
		}
	}
}

var big = plan.Rules{Units: 8, Min: 1, Max: 200, Lead: 5 * time.Minute, Interval: time.Minute}

func TestConstantLoadNeverScales(t *testing.T) {
	f := newFluid(big, func(int) float64 { return 77 })
	f.run(perDay, nil)
	f.starts, f.stops = 0, 0
	f.run(perDay, nil)
	if f.starts+f.stops > 0 || f.count != 10 || f.queue > 0 {
		t.Errorf("%d starts, %d stops, %d replicas for 77 units of 8, %v wait: %s", f.starts, f.stops, f.count, f.queue, f.decision.Reason)
	}
	if f.decision.Rule != plan.RulePredictive {
		t.Errorf("decided by %s", f.decision.Rule)
	}
}

// On the morning ramp the capacity is there before the load.
func TestDayCycleIsLed(t *testing.T) {
	cycle := func(k int) float64 { return 160 - 120*math.Cos(2*math.Pi*float64(k)/perDay) }
	f := newFluid(big, cycle)
	f.run(3*perDay, nil)
	short, billed, need := 0, 0.0, 0.0
	f.run(perDay, func() {
		billed += float64(f.count)
		need += cycle(f.k) / big.Units
		if float64(f.ready())*big.Units < 0.97*cycle(f.k) {
			short++
		}
	})
	if short > perDay/200 {
		t.Errorf("capacity was more than 3 %% short in %d of %d steps", short, perDay)
	}
	if billed > 1.10*need {
		t.Errorf("paid for %.3f of what was needed", billed/need)
	}
}

// A step to three times the load is met once: what is starting counts.
func TestStepIsMetOnce(t *testing.T) {
	rules := big
	rules.LateCost = 10 // one jump in two days is no reason for a reserve
	f := newFluid(rules, func(k int) float64 {
		if k < 2*perDay {
			return 80
		}
		return 240
	})
	f.run(2*perDay, nil)
	most := 0
	recovered := -1
	f.run(2*perHour, func() {
		most = max(most, f.count)
		if f.ready()*8 >= 240 && f.queue == 0 && recovered < 0 {
			recovered = f.k - 2*perDay
		}
	})
	// For a lead time and a minute 160 units too many arrive; all of it shall
	// be gone a drain time of one minute later: 160·6 + 240 units at most.
	if limit := 1.15 * (160*6 + 240) / 8; float64(most) > limit {
		t.Errorf("wanted %d at most, above %v", most, limit)
	}
	if recovered < 0 || recovered > 2*(5+2+5+3) {
		t.Errorf("the queue was gone after %d half minutes", recovered)
	}
	f.run(4*perHour, nil)
	if f.count < 30 || f.count > 36 {
		t.Errorf("settled at %d for 240 units of 8", f.count)
	}
}

// A spike of a minute is over before a start would help.
func TestSpikeStartsLittle(t *testing.T) {
	f := newFluid(big, func(k int) float64 {
		if at := k - 2*perDay; at == 0 || at == 1 {
			return 160
		}
		return 80
	})
	f.run(2*perDay, nil)
	f.starts = 0
	f.run(4*perHour, nil)
	if f.starts > 12 {
		t.Errorf("a minute of twice the load started %d", f.starts)
	}
	if f.count > 11 {
		t.Errorf("four hours later there are still %d", f.count)
	}
}

func TestHoleKeepsTheCount(t *testing.T) {
	f := newFluid(big, func(k int) float64 {
		if at := k - 2*perDay; at >= 0 && at < 20 {
			return -80
		}
		return 80
	})
	f.run(2*perDay, nil)
	f.starts, f.stops = 0, 0
	f.run(20, nil)
	if f.decision.Rule != plan.RuleHold {
		t.Errorf("in a hole it decided by %s", f.decision.Rule)
	}
	f.run(perHour, nil)
	if f.starts+f.stops > 0 {
		t.Errorf("a hole of ten minutes made %d starts and %d stops", f.starts, f.stops)
	}
}

// bumpy is a day cycle with noise and jumps; the same every time.
func bumpy(seed uint64, steps int) []float64 {
	rng := rand.New(rand.NewPCG(seed, 11))
	out := make([]float64, steps)
	level := 1.0
	for k := range out {
		if rng.IntN(perDay) == 0 {
			level = 0.6 + rng.Float64()
		}
		out[k] = max(level*(120-80*math.Cos(2*math.Pi*float64(k)/perDay))*(1+0.08*rng.NormFloat64()), 0)
	}
	return out
}

// A planner that was started anew, from the days that are kept, decides as the
// one that saw all: state is a function of the series.
func TestRestart(t *testing.T) {
	load := bumpy(1, 20*perDay)
	f := newFluid(big, func(k int) float64 { return load[k] })
	f.run(17*perDay, nil)
	apart := 0
	for range 6 {
		f.run(2*perHour, nil)
		in := f.input()
		in.Load = in.Load.Window(in.Now.Add(-15*24*time.Hour), in.Now)
		in.Demand = in.Load
		if d := plan.Decide(in, big).Count - f.planner.Decide(in).Count; d < -1 || d > 1 {
			apart++
			t.Errorf("at %s the new planner decides %+d", in.Now, d)
		}
	}
}

// Reading on gives the same as reading all, to the last digit.
func TestPlannerIsDecide(t *testing.T) {
	load := bumpy(2, perDay)
	f := newFluid(big, func(k int) float64 {
		if k%97 == 0 {
			return -load[k] // lost
		}
		return load[k]
	})
	f.run(5*perHour, nil)
	for range 10 {
		f.run(perHour/2, nil)
		in := f.input()
		if diff := cmp.Diff(plan.Decide(in, big), f.planner.Decide(in)); diff != "" {
			t.Fatalf("read at once and read on differ:\n%s", diff)
		}
	}
	// A series that tells the past otherwise is read anew.
	other := f.input()
	other.Load = other.Load.Scale(2)
	if diff := cmp.Diff(plan.Decide(other, big), f.planner.Decide(other)); diff != "" {
		t.Errorf("after the past was changed:\n%s", diff)
	}
}

// A brief planner decides the same, and says no more than what others read.
func TestBriefDecidesTheSame(t *testing.T) {
	load := bumpy(5, perDay)
	f := newFluid(big, func(k int) float64 {
		if k%300 < 12 {
			return -load[k] // lost
		}
		return load[k]
	})
	brief := plan.NewPlanner(big)
	brief.Brief = true
	f.run(12*perHour, func() {
		if f.k%2 > 0 || f.k < 4*perHour {
			return
		}
		in := f.input()
		full, short := f.planner.Decide(in), brief.Decide(in)
		if full.Rule == plan.RulePredictive || full.Rule == plan.RuleStatic {
			forecast, _ := full.Term(plan.TermForecast)
			quantile, _ := full.Term(plan.TermQuantile)
			full.Reason, full.Terms = "", []plan.Term{forecast, quantile}
		}
		if diff := cmp.Diff(full, short); diff != "" {
			t.Fatalf("at step %d, in full and in brief:\n%s", f.k, diff)
		}
	})
}

// Bursts at odd times, shorter than a start: always on is cheaper, and it says
// so.
func TestUnfollowableDemandIsHeld(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 4))
	load := make([]float64, 8*perDay)
	for k := range load {
		load[k] = 150
	}
	for k := 0; k < len(load); k += 20 + rng.IntN(25) {
		for i := k; i < min(k+8, len(load)); i++ {
			load[i] = 240
		}
	}
	slow := big
	slow.Lead = 15 * time.Minute
	f := newFluid(slow, func(k int) float64 { return load[k] })
	f.run(7*perDay, nil)
	held := 0
	f.run(perDay, func() {
		if f.decision.Rule == plan.RuleStatic {
			held++
		}
	})
	if held < perDay*9/10 || !strings.Contains(f.decision.Reason, "cannot be followed") {
		t.Errorf("held in %d of %d steps; %s: %s", held, perDay, f.decision.Rule, f.decision.Reason)
	}
}

// Bursts that are most of the work, and half over when a start is: following them
// costs less than always on and makes much of it late. What is late counts too.
func TestBurstsThatAreMostOfTheWorkAreHeldFor(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 4))
	load := make([]float64, 8*perDay)
	for k := range load {
		load[k] = 20
	}
	for k := 60; k < len(load); k += 2*perHour + rng.IntN(6*perHour) {
		for i := k; i < min(k+perHour/3, len(load)); i++ {
			load[i] = 400 + 100*rng.Float64()
		}
	}
	slow := big
	slow.Lead, slow.Max = 10*time.Minute, 65
	f := newFluid(slow, func(k int) float64 { return load[k] })
	f.run(7*perDay, nil)
	held, waits := 0, 0
	f.run(perDay, func() {
		if f.decision.Rule == plan.RuleStatic {
			held++
		}
		if f.queue > 0 {
			waits++
		}
	})
	if held < perDay/5 || waits > perDay/100 {
		t.Errorf("held for bursts in %d of %d steps, something waits in %d; %s: %s", held, perDay, waits, f.decision.Rule, f.decision.Reason)
	}
}

// Without a queue or a rate there is one series: GPUs in use or asked for.
func TestOneSeries(t *testing.T) {
	var s demand.Series
	for k := range 2 * perDay {
		s = append(s, demand.Point{At: now.Add(time.Duration(k-2*perDay+1) * 30 * time.Second), Value: 20})
	}
	in := plan.Input{Now: now, Count: 10, Demand: s}
	if d := plan.Decide(in, hosts); d.Count != 10 || d.Rule != plan.RulePredictive {
		t.Errorf("20 GPUs in hosts of two: %d by %s: %s", d.Count, d.Rule, d.Reason)
	}
	s[len(s)-1].Value = 24 // two jobs more: they need hosts now, whatever was foreseen
	wide := with(hosts, func(r *plan.Rules) { r.Max = 20 })
	if d := plan.Decide(in, wide); d.Count != 12 {
		t.Errorf("24 GPUs in hosts of two: %d: %s", d.Count, d.Reason)
	}
}

func TestPredictionHoldsItsPromises(t *testing.T) {
	load := bumpy(3, perDay)
	rapid.Check(t, func(t *rapid.T) {
		in, rules := draw(t)
		past := make([]float64, 4*perHour)
		for k := range past {
			past[k] = load[k] * rapid.SampledFrom([]float64{1, 1, 1, 0, 3, 1e20}).Draw(t, "factor")
		}
		in.Load, in.Demand = nil, nil
		for k, v := range past {
			in.Load = append(in.Load, demand.Point{At: now.Add(time.Duration(k-len(past)+1) * 30 * time.Second), Value: v})
		}
		in.Demand, in.Service = in.Load, 5*time.Second
		rules.SLO = rapid.Float64Range(0.5, 0.999).Draw(t, "slo")
		d := plan.Decide(in, rules)
		if d.Rule != plan.RulePredictive {
			t.Fatalf("decided by %s: %s", d.Rule, d.Reason)
		}
		if d.Count < rules.Min || d.Count > rules.Max {
			t.Fatalf("count %d outside %d to %d", d.Count, rules.Min, rules.Max)
		}
		for _, v := range d.Terms {
			if math.IsNaN(v.Value) || math.IsInf(v.Value, 0) {
				t.Fatalf("term %v", v)
			}
		}
		in.Queue = add(in.Queue, rapid.Float64Range(0, 1000).Draw(t, "more"))
		if after := plan.Decide(in, rules).Count; after < d.Count {
			t.Fatalf("a longer queue makes %d of %d", after, d.Count)
		}
	})
}

func BenchmarkDecide(b *testing.B) {
	load := bumpy(5, 15*perDay)
	f := newFluid(big, func(k int) float64 { return load[k] })
	for k, v := range load {
		f.series = append(f.series, demand.Point{At: now.Add(time.Duration(k+1) * 30 * time.Second), Value: v})
	}
	in := plan.Input{Now: f.series[len(f.series)-1].At, Count: 20, Load: f.series, Service: service}
	b.Run("fifteen days at once", func(b *testing.B) {
		for b.Loop() {
			plan.Decide(in, big)
		}
	})
	b.Run("one more sample", func(b *testing.B) {
		p := plan.NewPlanner(big)
		p.Decide(in)
		next := in
		for b.Loop() {
			next.Now = next.Now.Add(30 * time.Second)
			next.Load = append(next.Load, demand.Point{At: next.Now, Value: 100})
			p.Decide(next)
		}
	})
}
