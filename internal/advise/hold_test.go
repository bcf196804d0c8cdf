package advise_test

import (
	"testing"
	"time"

	"github.com/gpupool/gpupool/internal/advise"
	"github.com/gpupool/gpupool/internal/sim"
)

// demandOf is a trace of so many minutes.
func demandOf(minutes int, at func(i int) float64) sim.Trace {
	t := sim.Trace{Name: "test", Start: t0}
	for i := range minutes {
		t.Arrivals = append(t.Arrivals, at(i))
	}
	return t
}

// TestFlatDemandIsNotWorthScaling: what never changes is served by a fixed pool
// at the same cost, without starts.
func TestFlatDemandIsNotWorthScaling(t *testing.T) {
	c := sim.Config{Peak: 4, Lead: 15 * time.Minute, Max: 8, Dispersion: 1}
	v, err := advise.Compare(c, demandOf(36*60, func(int) float64 { return 600 }))
	if err != nil {
		t.Fatal(err)
	}
	f, ok := v.Finding()
	if !ok || v.Count < 4 || v.Count > 5 {
		t.Fatalf("hold %d: %+v", v.Count, f)
	}
	says(t, f.What, "autoscaling cannot pay here", "at a lead time of 15m")
	says(t, f.Change, "min = ")
	// The smallest that keeps the promise: one fewer does not.
	if v.Fixed.Attainment < v.SLO {
		t.Errorf("the fixed pool keeps %g", v.Fixed.Attainment)
	}
	c.Min, c.Max = 1, v.Count-1
	if less, err := advise.Compare(c, demandOf(36*60, func(int) float64 { return 600 })); err != nil || less.Count != 0 {
		t.Errorf("%d would do too, %v", less.Count, err)
	}
}

// TestNightsAreWorthScaling: two thirds of the time nothing is asked for.
func TestNightsAreWorthScaling(t *testing.T) {
	v, err := advise.Compare(sim.Config{Peak: 8, Lead: time.Minute, Min: -1, Max: 16, Dispersion: 1}, demandOf(72*60, func(i int) float64 {
		if h := i / 60 % 24; h >= 9 && h < 17 {
			return 600
		}
		return 6
	}))
	if err != nil {
		t.Fatal(err)
	}
	if f, ok := v.Finding(); ok {
		t.Errorf("%+v", f)
	} else {
		says(t, f.What, "autoscaling pays")
	}
}

func TestTooLittleDemandIsNotCompared(t *testing.T) {
	if _, err := advise.Compare(sim.Config{}, demandOf(600, func(int) float64 { return 1 })); err == nil {
		t.Error("ten hours were compared")
	}
}
