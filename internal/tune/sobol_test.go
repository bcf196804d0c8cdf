package tune

import (
	"slices"
	"testing"
)

// The first points of Joe and Kuo's sobol.cc with new-joe-kuo-6.21201, four of
// which can be worked out by hand from the direction numbers.
func TestSobolBeginsAsPublished(t *testing.T) {
	want := [][]float64{
		{0, 0, 0, 0, 0, 0, 0, 0},
		{0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5},
		{0.75, 0.25, 0.25, 0.25, 0.75, 0.75, 0.25, 0.75},
		{0.25, 0.75, 0.75, 0.75, 0.25, 0.25, 0.75, 0.25},
		{0.375, 0.375, 0.625, 0.875, 0.375, 0.125, 0.375, 0.875},
	}
	for i, p := range sobol(len(want), maxDims, nil) {
		if !slices.Equal(p, want[i]) {
			t.Errorf("point %d is %v, want %v", i, p, want[i])
		}
	}
}

// What the sequence is for: of 2^k points each coordinate has one in each
// 2^k-th of its range, and the first two dimensions one in each box of 2^a by
// 2^b of them; with any shift.
func TestSobolFillsEvenly(t *testing.T) {
	const k = 8
	for _, s := range [][]uint32{nil, shift(maxDims, 7)} {
		points := sobol(1<<k, maxDims, s)
		for d := range maxDims {
			seen := make([]bool, 1<<k)
			for _, p := range points {
				seen[int(p[d]*(1<<k))] = true
			}
			if slices.Contains(seen, false) {
				t.Errorf("dimension %d: an interval is empty", d)
			}
		}
		for a := range k + 1 {
			seen := make([]bool, 1<<k)
			for _, p := range points {
				seen[int(p[0]*float64(int(1)<<a))<<(k-a)+int(p[1]*float64(int(1)<<(k-a)))] = true
			}
			if slices.Contains(seen, false) {
				t.Errorf("a box of 2^-%d by 2^-%d is empty", a, k-a)
			}
		}
	}
	if slices.Equal(shift(3, 1), shift(3, 2)) || !slices.Equal(shift(3, 1), shift(3, 1)) {
		t.Error("the shift does not follow the seed")
	}
}
