package pool

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestQuantileIsOfTheLatest(t *testing.T) {
	var took Took
	if got := took.Quantile(0.95); got != 0 {
		t.Errorf("of nothing: %s", got)
	}
	for i := range 100 {
		took = took.Add(time.Duration(i+1) * time.Second)
	}
	for q, want := range map[float64]time.Duration{0.001: 37 * time.Second, 0.5: 68 * time.Second, 0.95: 97 * time.Second, 1: 100 * time.Second} {
		if got := took.Quantile(q); got != want {
			t.Errorf("the %g-quantile of 37 to 100 s: got %s, want %s", q, got, want)
		}
	}
	if got := took.Add(-time.Second).Add(0); len(got.Last) != MaxTook || got.Last[MaxTook-1] != 100 {
		t.Errorf("what cannot be was taken for a duration: %v", got.Last)
	}
}

// TestQuantileCounts holds the nearest rank against its definition.
func TestQuantileCounts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var took Took
		for _, s := range rapid.SliceOfN(rapid.IntRange(1, 50), 1, MaxTook).Draw(t, "seconds") {
			took = took.Add(time.Duration(s) * time.Second)
		}
		q := rapid.Float64Range(0.01, 1).Draw(t, "q")
		got := took.Quantile(q).Seconds()
		within := func(limit float64) (n float64) {
			for _, s := range took.Last {
				if s <= limit {
					n++
				}
			}
			return n
		}
		need := math.Ceil(q * float64(len(took.Last)))
		if within(got) < need || within(got-1) >= need {
			t.Fatalf("the %g-quantile of %v: got %g", q, took.Last, got)
		}
	})
}
