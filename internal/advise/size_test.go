package advise

import (
	"math"
	"strings"
	"testing"
)

const gpu80 = 80 << 30

func TestRightSize(t *testing.T) {
	nan := math.NaN()
	for _, c := range []struct {
		name   string
		u      Usage
		what   string // empty for no finding
		change string
	}{
		{"small and quiet: three share a GPU",
			Usage{"embed", 100, gpu80, 0.05, 0.25, 0.1, 0.3, nan}, "at most 25% of its GPU's 80 GiB", "let 3 of them share a GPU"},
		{"small and hard at work: a smaller GPU",
			Usage{"render", 100, gpu80, 0.05, 0.25, 0.8, 1, nan}, "at most 25%", "one of 23 GiB would do"},
		{"memory taken in advance, cache empty",
			Usage{"chat", 100, gpu80, 0.90, 0.91, 0.2, 0.3, 0.1}, "of its KV cache 10% is in use", "let 3 of them share a GPU"},
		{"memory taken in advance, cache used", Usage{"chat", 100, gpu80, 0.90, 0.91, 0.2, 0.9, 0.8}, "", ""},
		{"memory taken in advance, and nothing else known", Usage{"chat", 100, gpu80, 0.90, 0.91, 0.2, 0.3, nan}, "", ""},
		{"at the edge", Usage{"train", 100, gpu80, 0.3, 0.99, 0.9, 1, nan}, "up to 99%", "a GPU with more memory"},
		{"held for nothing", Usage{"notebook", 100, gpu80, 0, 0.6, 0.01, 0.02, nan}, "a kernel ran in 1% of the time", "when there is nothing to do"},
		{"well used", Usage{"train", 100, gpu80, 0.3, 0.8, 0.9, 1, nan}, "", ""},
		{"nothing known", Usage{"x", 100, nan, nan, nan, nan, nan, nan}, "", ""},
	} {
		found, notes := RightSize([]Usage{c.u})
		switch {
		case c.what == "" && (len(found) > 0 || len(notes) > 0):
			t.Errorf("%s: %+v %v", c.name, found, notes)
		case c.what != "" && (len(found) != 1 || !strings.Contains(found[0].What, c.what) || !strings.Contains(found[0].Change, c.change)):
			t.Errorf("%s: %+v", c.name, found)
		}
	}
}

func TestRightSizeNeedsADay(t *testing.T) {
	found, notes := RightSize([]Usage{{Task: "new", GPUHours: 3, BusyMean: 0.01}, {Task: "b", GPUHours: 50, BusyMean: 0.01}, {Task: "a", GPUHours: 500, BusyMean: 0.02}})
	if len(found) != 2 || !strings.Contains(found[0].What, "task a") || len(notes) != 1 || !strings.Contains(notes[0], "new") {
		t.Errorf("%+v, %v", found, notes)
	}
}

func TestParts(t *testing.T) {
	for _, c := range []struct {
		shares []float64
		want   int
	}{{[]float64{0.44, 0.1}, 2}, {[]float64{0.3}, 3}, {[]float64{0.001, math.NaN()}, 7}, {[]float64{math.NaN()}, 7}, {[]float64{0.9}, 2}} {
		if got := parts(c.shares...); got != c.want {
			t.Errorf("%v: %d, want %d", c.shares, got, c.want)
		}
	}
}
