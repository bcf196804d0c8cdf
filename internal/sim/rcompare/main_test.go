package main

import (
	"bytes"
	"strings"
	"testing"
)

// Origins lie in the second half, and what they forecast is known.
func TestSpread(t *testing.T) {
	for _, n := range []int{1, 24, 500} {
		at := spread(14*1440, n)
		for i, o := range at {
			if o < 7*1440 || o+longest > 14*1440 || i > 0 && o <= at[i-1] {
				t.Fatalf("%d origins: %v", n, at)
			}
		}
	}
}

func TestReport(t *testing.T) {
	values := make([]float64, 200)
	for i := range values {
		values[i] = 100
	}
	var b bytes.Buffer
	report(&b, "flat", values, []said{
		{"right", 50, 5, 0.001, [4]float64{100, 100, 100, 100}},
		{"ten over", 50, 5, 2, [4]float64{110, 110, 110, 110}},
	})
	// Ten over costs 10·(1−q) at each of 0.05, 0.5, 0.8 and 0.95.
	for _, want := range []string{"| 5\t| right\t| 0.00\t| 100 %\t| 1ms\t|", "| 5\t| ten over\t| 4.25\t| 0 %\t| 2s\t|"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is not in:\n%s", want, b.String())
		}
	}
}

// The model is asked once at each origin and horizon, and knows a flat line.
func TestOurs(t *testing.T) {
	values := make([]float64, 4*1440)
	for i := range values {
		values[i] = 50
	}
	at := spread(len(values), 3)
	all := ours(values, at)
	if len(all) != len(at)*len(horizons) {
		t.Fatalf("%d forecasts", len(all))
	}
	for _, s := range all {
		if s.quantiles[1] < 49 || s.quantiles[1] > 51 {
			t.Errorf("%+v", s)
		}
	}
}
