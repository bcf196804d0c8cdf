package advise_test

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/gpupool/gpupool/internal/advise"
	"github.com/gpupool/gpupool/internal/plan"
)

var t0 = time.Date(2026, time.March, 2, 0, 0, 0, 0, time.UTC)

var rules = plan.Rules{Units: 2, Max: 4, Lead: 5 * time.Minute, Interval: time.Minute}

// past is a decision a minute; at says what each minute, counted from t0,
// needs and wants.
func past(minutes int, r plan.Rules, at func(minute int) (demand float64, count int)) advise.History {
	var h advise.History
	_, before := at(0)
	for i := range minutes {
		d, n := at(i)
		h = append(h, advise.Decision{At: t0.Add(time.Duration(i) * time.Minute), Before: before, Count: n, Rule: plan.RuleSimple, Demand: d, Rules: r})
		before = n
	}
	return h
}

// only returns the one finding of that kind; its absence is an error unless
// none is wanted.
func only(t *testing.T, h advise.History, kind advise.Kind, wanted bool) advise.Finding {
	t.Helper()
	found, _ := advise.Advise(h)
	for _, f := range found {
		if f.Kind == kind {
			if !wanted {
				t.Fatalf("found %+v", f)
			}
			return f
		}
	}
	if wanted {
		t.Fatalf("no finding of %q in %+v", kind, found)
	}
	return advise.Finding{}
}

func figure(t *testing.T, f advise.Finding, name string, want float64) {
	t.Helper()
	for _, g := range f.Figures {
		if g.Name == name {
			if math.Abs(g.Value-want) > 1e-9*max(math.Abs(want), 1) {
				t.Errorf("%s is %g, want %g", name, g.Value, want)
			}
			return
		}
	}
	t.Errorf("no figure %q in %+v", name, f.Figures)
}

func says(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("%q is not in %q", p, text)
		}
	}
}

// TestOverload: four replicas of two units serve 8. Eleven are asked for in
// minutes 100 to 129, with minute 110 quiet, which joins; and 9 in minutes 200
// to 204. Eleven units need six replicas of two.
func TestOverload(t *testing.T) {
	f := only(t, past(300, rules, func(i int) (float64, int) {
		switch {
		case i >= 100 && i < 130 && i != 110:
			return 11, 4
		case i >= 200 && i < 205:
			return 9, 4
		}
		return 8, 4
	}), advise.Overload, true)
	figure(t, f, "events", 2)
	figure(t, f, "time", (29+5)*60)
	figure(t, f, "worst_demand", 11)
	figure(t, f, "max_needed", 6)
	says(t, f.What, "2 times, 34m in all", "at worst 11 units, 3 more than fit", "began 2026-03-02 01:40 UTC and took 29m")
	says(t, f.Change, "max = 6 in the check's strategy block and in the scaling block")
}

// TestNoOverload: as much as fits, and more while the count still rises.
func TestNoOverload(t *testing.T) {
	only(t, past(300, rules, func(i int) (float64, int) { return 8, 4 }), advise.Overload, false)
	only(t, past(300, rules, func(i int) (float64, int) { return 9, 3 }), advise.Overload, false)
}

// TestIdleAtMin: for a day, one unit is needed until 12:00 and five from then
// on: one replica of two units, then three. A floor of three pays 6 × 24 and
// does not need 2 × 2 × 12 of it, a third: no finding. A floor of four pays 8 ×
// 24 and does not need 3 × 2 × 12 in the morning and 1 × 2 × 12 in the afternoon:
// a half. One replica was enough for half of the time.
func TestIdleAtMin(t *testing.T) {
	need := func(i int) float64 {
		if i < 12*60 {
			return 1
		}
		return 5
	}
	three := rules
	three.Min = 3
	only(t, past(24*60+1, three, func(i int) (float64, int) { return need(i), 3 }), advise.Idle, false)
	four := rules
	four.Min = 4
	f := only(t, past(24*60+1, four, func(i int) (float64, int) { return need(i), 4 }), advise.Idle, true)
	figure(t, f, "paid", 192)
	figure(t, f, "unneeded", 96)
	figure(t, f, "unneeded_at_min", 96)
	// From 00:00 to 12:00, one of eight units was busy.
	figure(t, f, "quiet_from", 0)
	figure(t, f, "quiet_hours", 12)
	says(t, f.What, "96 of 192 unit-hours", "(50%)", "from 00:00 to 12:00 UTC 12% of what was on was busy")
	says(t, f.Change, "min = 1 in", "now it is 4, and 100%")
}

// TestIdleAfterUse: no floor, but what was needed for one minute in thirty is
// kept for fifteen: the change is the hold time.
func TestIdleAfterUse(t *testing.T) {
	f := only(t, past(10*60+1, rules, func(i int) (float64, int) {
		switch {
		case i%30 == 0:
			return 8, 4
		case i%30 < 15:
			return 0, 4
		}
		return 0, 0
	}), advise.Idle, true)
	// Per half hour: paid 15 minutes of 8 units, 14 of them for nothing.
	figure(t, f, "paid", 20*15.0/60*8)
	figure(t, f, "unneeded", 20*14.0/60*8)
	figure(t, f, "unneeded_at_min", 0)
	says(t, f.Change, "scale_in_after shorter than 15m")
}

// TestCycling: each two hours a replica is let go and wanted again 7 minutes
// later, where the start takes 5 minutes and wears as much as 10: keeping it
// would have been 8 minutes cheaper. In 24 h that is twelve times; scale_in_after
// would have to be 15 + 7 minutes.
func TestCycling(t *testing.T) {
	f := only(t, past(24*60+1, rules, func(i int) (float64, int) {
		if i%120 >= 60 && i%120 < 67 {
			return 2, 1
		}
		return 4, 2
	}), advise.Cycling, true)
	figure(t, f, "starts_a_day", 12)
	figure(t, f, "regretted_a_day", 12)
	figure(t, f, "gap_p90", 7*60)
	figure(t, f, "saved", 12*8.0/60)
	says(t, f.Change, `scale_in_after = "22m"`, "now it is 15m")
}

// TestNoCycling: back after 20 minutes, longer than a start is worth.
func TestNoCycling(t *testing.T) {
	only(t, past(24*60+1, rules, func(i int) (float64, int) {
		if i%120 >= 60 && i%120 < 80 {
			return 2, 1
		}
		return 4, 2
	}), advise.Cycling, false)
}

// starts is a history in which a replica is wanted each hour, serves after as
// many minutes, and is let go after half an hour.
func starts(hours, minutes int, shown bool) advise.History {
	h := past(hours*60+1, rules, func(i int) (float64, int) {
		if i%60 < 30 {
			return 4, 2
		}
		return 2, 1
	})
	for i := range h {
		// The decision of minute 0 wants it, so it is there from the next on.
		if in := i % 60; shown && i >= 60 && in > 0 && in < minutes && in <= 30 {
			h[i].Starting = 1
		}
	}
	return h
}

// TestWrongLead: wanted at the full hour, served 9 minutes later, where the
// rules say 5.
func TestWrongLead(t *testing.T) {
	f := only(t, starts(6, 9, true), advise.WrongLead, true)
	figure(t, f, "starts", 5)
	figure(t, f, "lead_p50", 9*60)
	figure(t, f, "lead_p95", 9*60)
	says(t, f.What, "it starts replicas too late")
	says(t, f.Change, `lead_time = "9m" in the check's strategy block`, "now it is 5m")

	says(t, only(t, starts(6, 2, true), advise.WrongLead, true).What, "sooner than it must")
	only(t, starts(6, 6, true), advise.WrongLead, false)  // within a minute of 5
	only(t, starts(6, 31, true), advise.WrongLead, false) // let go before any served
	_, notes := advise.Advise(starts(6, 9, false))
	says(t, fmt.Sprint(notes), "does not show when replicas began to serve")
}

// TestBlind: 30 minutes of 10 hours are a twentieth.
func TestBlind(t *testing.T) {
	h := past(601, rules, func(i int) (float64, int) { return 8, 4 })
	for i := 200; i < 230; i++ {
		h[i].Rule, h[i].Demand = plan.RuleHold, math.NaN()
	}
	f := only(t, h, advise.Blind, true)
	figure(t, f, "held_share", 0.05)
	figure(t, f, "longest", 30*60)
}

func TestShortHistorySaysNothing(t *testing.T) {
	found, notes := advise.Advise(past(30, rules, func(i int) (float64, int) { return 99, 4 }))
	if len(found) > 0 {
		t.Errorf("%+v", found)
	}
	says(t, fmt.Sprint(notes), "too little to say anything")
	if found, _ := advise.Advise(nil); len(found) > 0 {
		t.Errorf("%+v", found)
	}
}

// TestHolesAreNotCounted: two hours, a day without decisions, two hours. Of the
// hole only ten minutes are known.
func TestHolesAreNotCounted(t *testing.T) {
	h := past(121, rules, func(int) (float64, int) { return 9, 4 })
	for _, d := range past(121, rules, func(int) (float64, int) { return 9, 4 }) {
		d.At = d.At.Add(26 * time.Hour)
		h = append(h, d)
	}
	figure(t, only(t, h, advise.Overload, true), "time", (120+10+120)*60)
	_, notes := advise.Advise(h)
	says(t, fmt.Sprint(notes), "for 23h50m of 28h there are no decisions")
}

// TestShadowIsNotWhatWasDone: each minute four replicas are called for and two
// stay. Nothing was started, and it was not all of max.
func TestShadowIsNotWhatWasDone(t *testing.T) {
	h := past(24*60+1, rules, func(i int) (float64, int) { return 9, 2 })
	for i := range h {
		h[i].Count = 4
	}
	found, notes := advise.Advise(h)
	if len(found) > 0 {
		t.Errorf("%+v", found)
	}
	says(t, fmt.Sprint(notes), "1440 of 1440 decisions were not followed")
}
