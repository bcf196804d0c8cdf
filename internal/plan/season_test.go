package plan_test

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gpupool/gpupool/internal/demand"
	"github.com/gpupool/gpupool/internal/plan"
)

// curve is demand on a cycle, in minutes of a day, with noise, a surge, a run of
// zeros and a hole, by what it decides on: the clock runs speed times as fast.
func curve(rules plan.Rules, days int, speed time.Duration, flow bool) (all []plan.Decision) {
	p := plan.NewPlanner(rules)
	rng := rand.New(rand.NewPCG(5, 8))
	var s, q demand.Series
	count := 10
	for k := range days * 24 * 60 {
		v := 160 - 120*math.Cos(2*math.Pi*float64(k)/(24*60)) + 8*rng.NormFloat64()
		switch day := k - (days-1)*24*60; {
		case day > 300 && day < 320:
			v *= 2
		case day > 600 && day < 610:
			v = 0
		case day > 700 && day < 720:
			continue
		}
		at := now.Add(time.Duration(k) * time.Minute / speed)
		s = append(s, demand.Point{At: at, Value: v})
		q = append(q, demand.Point{At: at, Value: max(v-8*float64(count), 0)})
		if k%8 > 0 {
			continue
		}
		in := plan.Input{Now: at, Count: count, Demand: s}
		if flow {
			in.Load, in.Queue, in.Service = s, q, 16*time.Second/speed
		}
		d := p.Decide(in)
		all, count = append(all, d), d.Count
	}
	return all
}

// What holds on days holds on any other season: the same curve on a clock that
// runs eight times as fast has the same counts, all durations being an eighth.
func TestSeasonIsADayOnAFasterClock(t *testing.T) {
	rules := func(speed time.Duration) plan.Rules {
		return plan.Rules{
			Units: 8, Max: 200, LateCost: 500,
			Lead: 16 * time.Minute / speed, Interval: 8 * time.Minute / speed, Smooth: 2 * time.Minute / speed, DrainTime: time.Minute / speed,
			Wait: time.Minute / speed, Wear: 10 * time.Minute / speed, ScaleInAfter: 16 * time.Minute / speed, StaleAfter: 5 * time.Minute / speed,
		}
	}
	for _, flow := range []bool{true, false} {
		slow, fast := rules(1), rules(8)
		fast.Season = 3 * time.Hour
		want, got := curve(slow, 4, 1, flow), curve(fast, 4, 8, flow)
		by := map[plan.Rule]int{}
		for i := range want {
			if by[want[i].Rule]++; got[i].Count != want[i].Count || got[i].Rule != want[i].Rule {
				t.Fatalf("decision %d: %d by %s (%s), on days %d by %s (%s)", i, got[i].Count, got[i].Rule, got[i].Reason, want[i].Count, want[i].Rule, want[i].Reason)
			}
		}
		if by[plan.RulePredictive] < 400 || by[plan.RuleHold] < 1 {
			t.Errorf("flow %v: too little is compared: %v", flow, by)
		}
		last := got[len(got)-1]
		if flow && !strings.Contains(last.Reason, " in 2m (") {
			t.Errorf("the reason is not in the time of the clock: %s", last.Reason)
		}
	}
}

func TestSeasonIsADayUnlessSaid(t *testing.T) {
	said := chat
	said.Season = 24 * time.Hour
	if diff := cmp.Diff(curve(chat, 2, 1, true), curve(said, 2, 1, true)); diff != "" {
		t.Error(diff)
	}
}

// A plant that works in shifts of eight hours is known after two of them. Where
// days are looked for, each shift's start is a jump that nobody foresaw for the
// first days, and is met by a reserve.
func TestShiftsAreNoJumps(t *testing.T) {
	const perShift = perDay / 3
	shift := func(k int) float64 { // an hour of little, six times as much within ten minutes, and less and less
		switch at := k % perShift; {
		case at < perHour:
			return 40
		case at < perHour+20:
			return 40 + 10*float64(at-perHour)
		default:
			return max(240-float64(at-perHour-20)/4, 40)
		}
	}
	third := func(season time.Duration) (billed, missing float64) { // unit-hours, of a thousand
		rules := big
		rules.Season = season
		f := newFluid(rules, shift)
		f.run(2*perShift, nil)
		f.run(perShift, func() {
			billed += float64(f.count) * big.Units / perHour
			missing += max(shift(f.k)-float64(f.ready())*big.Units, 0) / perHour
		})
		return billed, missing
	}
	billed, missing := third(8 * time.Hour)
	reserve, _ := third(0)
	t.Logf("in the third shift %.0f unit-hours are paid for and %.1f missing; %.0f where days are looked for", billed, missing, reserve)
	if billed > reserve/2 || missing > 5 {
		t.Errorf("in the third shift %.0f unit-hours are paid for and %.1f missing; %.0f where days are looked for", billed, missing, reserve)
	}
}

func TestSeasonIsBounded(t *testing.T) {
	for _, season := range []time.Duration{-time.Hour, 30 * time.Second, 25 * time.Hour} {
		rules := big
		rules.Season = season
		if err := rules.Validate(); err == nil || !strings.Contains(err.Error(), "must be 1m to 24h") {
			t.Errorf("a season of %s: %v", season, err)
		}
	}
	rules := big
	rules.Season, rules.Lead = time.Hour, 2*time.Hour
	in := plan.Input{Now: now, Count: 3, Demand: demand.Series{{At: now, Value: 9}}}
	if d := plan.Decide(in, rules); d.Rule != plan.RuleSimple || !strings.Contains(d.Reason, "nothing is forecast more than a season of 1h ahead") {
		t.Errorf("a lead time of two seasons: %s", d.Reason)
	}
}
