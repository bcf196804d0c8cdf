package engine

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

var epoch = time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC)

// counted is a reading of one counter.
func counted(v float64) Reading {
	r := newReading()
	r.Counters[Finished] = v
	return r
}

func TestRate(t *testing.T) {
	var w Window
	if _, known := w.Rate(Finished, epoch); known {
		t.Error("an empty window has a rate")
	}
	for s := range 121 { // 2 a second
		r := counted(1000 + 2*float64(s))
		w.Add(r, epoch.Add(time.Duration(s)*time.Second))
		got, known := w.Rate(Finished, epoch.Add(time.Duration(s)*time.Second))
		if known != (s >= 5) || known && got != 2 {
			t.Fatalf("after %d s the rate is %g, %v", s, got, known)
		}
	}
	if n := len(w.counters[Finished]); n > 16 {
		t.Errorf("%d points are kept of 121", n)
	}
	now := epoch.Add(120 * time.Second)
	if _, known := w.Rate(Finished, now.Add(61*time.Second)); known {
		t.Error("a window that ended a minute ago has a rate")
	}
	r := counted(7) // the server started anew
	w.Add(r, now.Add(time.Second))
	if _, known := w.Rate(Finished, now.Add(time.Second)); known || r.Flaws[FlawReset] != 1 {
		t.Errorf("a counter that went back has a rate; flaws %v", r.Flaws)
	}
	w.Add(counted(17), now.Add(11*time.Second))
	if got, _ := w.Rate(Finished, now.Add(11*time.Second)); got != 1 {
		t.Errorf("after it went back the rate is %g, want 1", got)
	}
}

func observed(bounds []float64, values []float64) Reading {
	r := newReading()
	b := Buckets{Bounds: bounds, Counts: make([]float64, len(bounds))}
	for _, v := range values {
		for i, bound := range bounds {
			if v <= bound {
				b.Counts[i]++
			}
		}
	}
	r.Histograms[TTFT] = b
	return r
}

func TestQuantile(t *testing.T) {
	bounds := []float64{0.1, 0.2, 0.5, 1, math.Inf(1)}
	for _, tt := range []struct {
		values []float64 // within the window
		q      float64
		want   float64 // below 0 if not known
	}{
		{nil, 0.5, -1},
		{[]float64{0.05}, 0.5, 0.05},                           // half way through 0 to 0.1
		{[]float64{0.05, 0.05, 0.15, 0.15}, 0.5, 0.1},          // the bound between
		{[]float64{0.05, 0.15, 0.15, 0.15}, 0.75, 0.1 + 0.2/3}, // the second of three in 0.1 to 0.2
		{[]float64{5, 6}, 0.95, 1},                             // beyond the last bound
		{[]float64{0.3, 5}, 1, 1},
	} {
		t.Run(fmt.Sprint(tt.values, tt.q), func(t *testing.T) {
			var w Window
			before := []float64{0.01, 0.3, 2} // not in the window
			w.Add(observed(bounds, before), epoch)
			w.Add(observed(bounds, append(before, tt.values...)), epoch.Add(10*time.Second))
			got, known := w.Quantile(TTFT, tt.q, epoch.Add(10*time.Second))
			if known != (tt.want >= 0) || known && math.Abs(got-tt.want) > 1e-9 {
				t.Errorf("got %g, %v; want %g", got, known, tt.want)
			}
		})
	}
}

// TestQuantileIsNearTheTruth compares with the sorted values: the estimate is in
// the bucket of the true quantile.
func TestQuantileIsNearTheTruth(t *testing.T) {
	bounds := []float64{0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, math.Inf(1)}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		values := make([]float64, 1+rng.IntN(200))
		for i := range values {
			values[i] = math.Exp(rng.NormFloat64() - 1.5)
		}
		var w Window
		w.Add(observed(bounds, nil), epoch)
		w.Add(observed(bounds, values), epoch.Add(time.Minute))
		slices.Sort(values)
		for _, q := range []float64{0.5, 0.95} {
			got, known := w.Quantile(TTFT, q, epoch.Add(time.Minute))
			truth := values[int(math.Ceil(q*float64(len(values))))-1]
			bucket := func(v float64) int { i, _ := slices.BinarySearch(bounds, v-1e-12); return i }
			if !known || bucket(got) != bucket(truth) && truth <= 5 {
				t.Fatalf("%g-quantile of %d values is %g, estimated as %g, %v", q, len(values), truth, got, known)
			}
		}
	}
}

func TestHistogramThatStartsAnew(t *testing.T) {
	bounds := []float64{0.1, math.Inf(1)}
	var w Window
	w.Add(observed(bounds, []float64{0.05, 0.05}), epoch)
	for _, r := range []Reading{observed(bounds, []float64{0.05}), observed([]float64{0.2, math.Inf(1)}, []float64{1, 1, 1})} {
		w.Add(r, epoch.Add(10*time.Second))
		if v, known := w.Quantile(TTFT, 0.5, epoch.Add(10*time.Second)); known || r.Flaws[FlawReset] != 1 {
			t.Errorf("quantile %g, flaws %v", v, r.Flaws)
		}
	}
}
