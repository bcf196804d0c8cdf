package main

import (
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/nomad-autoscaler/sdk"

	"github.com/gpupool/gpupool/internal/plan"
)

var (
	morning = time.Date(2026, time.March, 2, 8, 0, 0, 0, time.UTC)
	few     = plan.Rules{Units: 2, Max: 40, Lead: 5 * time.Minute, Interval: 30 * time.Second}
	check   = &sdk.ScalingPolicyCheck{Name: "demand", Query: "gpus"}
)

// source answers windows on a day cycle, one sample in half a minute.
func source(from, to time.Time) (m sdk.TimestampedMetrics) {
	for at := from.Truncate(30 * time.Second).Add(30 * time.Second); !at.After(to); at = at.Add(30 * time.Second) {
		k := at.Unix() / 30
		v := 30 - 20*math.Cos(2*math.Pi*float64(at.Unix())/86400) + float64(k*7919%13)/3
		m = append(m, sdk.TimestampedMetric{Timestamp: at, Value: math.Round(v)})
	}
	return m
}

// What is remembered decides as what is read anew: the input that goes into
// the decision log is enough to make the decision again.
func TestMemoryDecidesAsReadAnew(t *testing.T) {
	s := newMemories()
	s.keep, s.trim = 8*time.Hour, time.Hour // so that it forgets within the test
	window, shortest := 3*time.Hour, 24*time.Hour
	for i := range 24 * 4 {
		now := morning.Add(time.Duration(i) * 15 * time.Minute)
		in, got := s.decide(check, few, source(now.Add(-window), now), plan.Input{Now: now, Count: 20})
		if i%7 == 0 {
			if diff := cmp.Diff(plan.Decide(in, few), got); diff != "" {
				t.Fatalf("at %s:\n%s", now, diff)
			}
		}
		have := now.Sub(in.Demand[0].At)
		if have > s.keep+s.trim+time.Hour {
			t.Fatalf("at %s it remembers %s", now, have)
		}
		if i > 24*2 {
			shortest = min(shortest, have)
		}
		// Windows of three hours alone never made a forecast.
		if i > 2*4 && got.Rule != plan.RulePredictive {
			t.Fatalf("at %s it decides by %s: %s", now, got.Rule, got.Reason)
		}
		for m := s.get(key(check), now); m.renewed != nil && len(m.renewed) == 0; {
			time.Sleep(time.Millisecond) // the planner that is made anew
		}
	}
	if shortest < s.keep-time.Minute {
		t.Errorf("it remembered only %s", shortest)
	}
}

// Of a season shorter than a day as many are remembered, and no more is read
// of a source that shows days at once.
func TestMemoryKeepsSeasons(t *testing.T) {
	s := newMemories()
	s.keep, s.trim = 24*time.Hour, 3*time.Hour // so that it forgets within the test
	hourly := few
	hourly.Season = time.Hour
	for i := range 60 {
		now := morning.Add(time.Duration(i) * 2 * time.Minute)
		in, got := s.decide(check, hourly, source(now.Add(-3*24*time.Hour), now), plan.Input{Now: now, Count: 20})
		if have := now.Sub(in.Demand[0].At); have < 59*time.Minute || have > 72*time.Minute {
			t.Fatalf("at %s it remembers %s", now, have)
		}
		if i%13 == 0 {
			if diff := cmp.Diff(plan.Decide(in, hourly), got); diff != "" {
				t.Fatalf("at %s:\n%s", now, diff)
			}
		}
		for m := s.get(key(check), now); m.renewed != nil && len(m.renewed) == 0; {
			time.Sleep(time.Millisecond) // the planner that is made anew
		}
	}
}

// A source that tells another past is believed, and so is a clock set back.
func TestMemoryBeginsAnew(t *testing.T) {
	s := newMemories()
	now := morning
	in, _ := s.decide(check, few, source(now.Add(-6*time.Hour), now), plan.Input{Now: now, Count: 20})
	if len(in.Demand) != 720 {
		t.Fatalf("%d samples of six hours", len(in.Demand))
	}
	other := source(now.Add(-3*time.Hour), now)
	other[100].Value = 99 // one sample that was corrected is none
	if in, _ = s.decide(check, few, other, plan.Input{Now: now, Count: 20}); len(in.Demand) != 720 {
		t.Errorf("one correction left %d samples", len(in.Demand))
	}
	for i := range other {
		other[i].Value *= 2
	}
	if in, _ = s.decide(check, few, other, plan.Input{Now: now, Count: 20}); len(in.Demand) != 360 || in.Demand[10].Value != other[10].Value {
		t.Errorf("another past left %d samples", len(in.Demand))
	}
	back := now.Add(-time.Hour)
	in, d := s.decide(check, few, source(back.Add(-time.Hour), back), plan.Input{Now: back, Count: 20})
	if last, _ := in.Demand.Last(); last.At.After(back) || d.Rule == plan.RuleHold {
		t.Errorf("after the clock was set back: newest sample %s, %s", last.At, d.Reason)
	}
}

// The order of samples, doubles and what is not a number never matter.
func TestMemoryTakesAnyOrder(t *testing.T) {
	now := morning
	right := source(now.Add(-6*time.Hour), now)
	wrong := append(sdk.TimestampedMetrics{{Timestamp: now.Add(-time.Minute - 1), Value: math.NaN()}}, right...)
	for i := range wrong {
		j := i * 7919 % len(wrong)
		wrong[i], wrong[j] = wrong[j], wrong[i]
	}
	wrong = append(wrong, wrong[5], wrong[9])
	want, _ := newMemories().decide(check, few, right, plan.Input{Now: now, Count: 20})
	got, _ := newMemories().decide(check, few, wrong, plan.Input{Now: now, Count: 20})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestMemoriesAreBoundedAndSafe(t *testing.T) {
	s := newMemories()
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range mostChecks {
				c := &sdk.ScalingPolicyCheck{Name: fmt.Sprint("check ", i%(mostChecks/2), " of ", w%2)}
				now := morning.Add(time.Duration(i) * time.Minute)
				if _, d := s.decide(c, few, source(now.Add(-10*time.Minute), now), plan.Input{Now: now, Count: 3}); d.Reason == "" {
					t.Error("no reason")
				}
			}
		})
	}
	wg.Wait()
	for i := range mostChecks {
		s.get(fmt.Sprint("more ", i), morning.Add(24*time.Hour))
	}
	if len(s.of) > mostChecks {
		t.Errorf("%d checks are remembered", len(s.of))
	}
}

// What the advice would have come to is counted beside what was paid.
func TestCounterfactual(t *testing.T) {
	s := newMemories()
	var c counterfactual
	for i := range 12*60 + 1 {
		now := morning.Add(time.Duration(i) * time.Minute)
		from := now.Add(-2 * time.Minute)
		if i == 0 {
			from = now.Add(-24 * time.Hour)
		}
		_, _, c = s.evaluate(check, few, source(from, now), plan.Input{Now: now, Count: 40}, true)
	}
	if math.Abs(c.paid-12*40) > 0.01 {
		t.Errorf("paid for %.2f replica-hours", c.paid)
	}
	need := 0.0
	for _, v := range source(morning, morning.Add(12*time.Hour)) {
		need += v.Value / 2 / 120
	}
	if c.would < need || c.would > 1.4*need {
		t.Errorf("would have paid for %.1f replica-hours where %.1f are needed", c.would, need)
	}
	d := shadow(plan.Decision{Count: 20, Reason: "keeping 20"}, 40, c, 2)
	if want := fmt.Sprintf("in 12 h %.1f replica-hours instead of 480.0, %.2f instead of 960.00", c.would, 2*c.would); !strings.Contains(d.Reason, want) || d.Count != 40 {
		t.Errorf("%d, %s", d.Count, d.Reason)
	}
}

// One evaluation with fifteen days of minutes in its window.
func BenchmarkRun(b *testing.B) {
	s := newMemories()
	now := morning
	all := source(now.Add(-15*24*time.Hour), now)
	window := make(sdk.TimestampedMetrics, 0, len(all)/2)
	for i := 1; i < len(all); i += 2 {
		window = append(window, all[i])
	}
	s.decide(check, few, window, plan.Input{Now: now, Count: 20})
	b.ReportAllocs()
	for b.Loop() {
		now = now.Add(time.Minute)
		window = append(window[1:], sdk.TimestampedMetric{Timestamp: now, Value: 30})
		s.decide(check, few, window, plan.Input{Now: now, Count: 20})
	}
}
