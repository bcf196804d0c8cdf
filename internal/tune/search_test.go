package tune

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gpupool/gpupool/internal/sim"
)

var aim = Aim{SLO: 0.99, Price: 1, CyclePrice: 0}

// numbers are parameters from 0 to 1 that stand for nothing.
func numbers(n int) []Param {
	ps := make([]Param, n)
	for i := range ps {
		ps[i] = Param{Key: string(rune('a' + i)), High: 1}
	}
	return ps
}

// tilt is a made-up policy: a buys being on time with cost, and b ≠ 0.3 only
// costs. Some days are harder than others. What is best is on the line b = 0.3.
func tilt(s Setting, _, first, end int) ([]sim.Day, error) {
	if s == nil {
		s = Setting{0.5, 0.9}
	}
	var out []sim.Day
	for d := first; d < end; d++ {
		hard := 1 + 0.3*math.Sin(float64(d))
		out = append(out, sim.Day{Day: d, Requests: 1e6, GPUHours: hard * (100 + 100*s[0] + 200*math.Abs(s[1]-0.3)),
			Late: hard * 1e6 * 0.08 * math.Exp(-6*s[0])})
	}
	return out, nil
}

func TestHalvingKeepsTheBest(t *testing.T) {
	var mu sync.Mutex
	days := 0
	s := Search{Params: numbers(2), Budget: 128, Seed: 3, Aim: aim, Spans: []Span{{1, 15}, {1, 8}},
		Evaluate: func(c Setting, trace, first, end int) ([]sim.Day, error) {
			mu.Lock()
			defer mu.Unlock()
			days += end - first
			return tilt(c, trace, first, end)
		}}
	out, err := s.Run(context.Background())
	if err != nil || !out.Whole || out.Tried != 128 || len(out.Candidates) != 33 || out.Candidates[0].Setting != nil {
		t.Fatalf("error %v, %d candidates of %d, whole %t", err, len(out.Candidates), out.Tried, out.Whole)
	}
	if all := 129 * 21; days > all*85/100 {
		t.Errorf("%d days replayed; trying all on all is %d", days, all)
	}
	// The best that trying all of them on all days would have found.
	full := Search{Params: s.Params, Budget: 128, Seed: 3, Aim: aim, Spans: s.Spans, Evaluate: tilt}
	var all []Candidate
	for _, u := range sobol(128, 2, shift(2, 3)) {
		all = append(all, Candidate{Setting: u})
	}
	whole, err := full.try(context.Background(), all, s.Spans)
	if err != nil {
		t.Fatal(err)
	}
	cheapest := func(cs []Candidate) Figures {
		f := make([]Figures, len(cs))
		for i, c := range cs {
			f[i] = c.Figures
		}
		return f[aim.choose(f)]
	}
	if got, want := cheapest(out.Candidates), cheapest(whole); got != want {
		t.Errorf("found %+v, the best is %+v", got, want)
	}
}

func TestSameSeedSameAnswer(t *testing.T) {
	find := func(seed uint64) Outcome {
		s := Search{Params: numbers(2), Budget: 20, Seed: seed, Aim: aim, Spans: []Span{{1, 15}}, Evaluate: tilt}
		out, err := s.Run(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	if diff := cmp.Diff(find(5), find(5)); diff != "" {
		t.Error(diff)
	}
	if cmp.Equal(find(5), find(6)) {
		t.Error("another seed gives the same settings")
	}
}

func TestInterruptLeavesTheBestSoFar(t *testing.T) {
	for _, c := range []struct {
		name     string
		after    int
		least    int // candidates
		most     int
		whole    bool
		anything bool
	}{
		{"in the first round", 5, 2, 17, false, true},
		{"in the last round", 17 + 9 + 3, 2, 5, true, true},
		{"before anything", 0, 0, 0, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, stop := context.WithCancel(context.Background())
			defer stop()
			if c.after == 0 {
				stop()
			}
			var n atomic.Int32
			s := Search{Params: numbers(2), Budget: 16, Seed: 1, Aim: aim, Spans: []Span{{0, 8}},
				Evaluate: func(c Setting, trace, first, end int) ([]sim.Day, error) { return tilt(c, trace, first, end) },
				Progress: func() {
					if int(n.Add(1)) == c.after {
						stop()
					}
				}}
			if c.after > s.Replays() {
				t.Fatalf("the search takes %d replays", s.Replays())
			}
			out, err := s.Run(ctx)
			if !errors.Is(err, context.Canceled) {
				t.Errorf("error %v", err)
			}
			if got := len(out.Candidates); got < c.least || got > c.most || c.anything && out.Whole != c.whole {
				t.Errorf("%d candidates, whole %t", got, out.Whole)
			}
			if c.anything && out.Candidates[0].Setting != nil {
				t.Error("the policy as it comes is not there to compare with")
			}
		})
	}
}

func TestErrorsEndTheSearch(t *testing.T) {
	broken := errors.New("broken")
	s := Search{Params: numbers(1), Budget: 4, Aim: aim, Spans: []Span{{0, 1}},
		Evaluate: func(Setting, int, int, int) ([]sim.Day, error) { return nil, broken }}
	if _, err := s.Run(context.Background()); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
	s.Params = numbers(9)
	if _, err := s.Run(context.Background()); err == nil || !strings.Contains(err.Error(), "must be 1 to 8") {
		t.Errorf("error %v", err)
	}
}

func TestChoose(t *testing.T) {
	f := func(cost, attainment float64) Figures { return Figures{Cost: cost, Attainment: attainment} }
	for _, c := range []struct {
		name string
		all  []Figures
		want int
	}{
		{"the cheapest that keeps it", []Figures{f(100, 0.995), f(80, 0.98), f(90, 0.991), f(85, 0.99)}, 3},
		{"the defaults, if a hundredth is all there is to gain", []Figures{f(100, 0.995), f(99.5, 0.995)}, 0},
		{"not the defaults, if they do not keep it", []Figures{f(50, 0.9), f(99.5, 0.995)}, 1},
		{"the closest, if none keeps it", []Figures{f(50, 0.9), f(60, 0.95), f(70, 0.94)}, 1},
		{"the defaults, if they are the closest", []Figures{f(90, 0.96), f(60, 0.95)}, 0},
	} {
		if got := aim.choose(c.all); got != c.want {
			t.Errorf("%s: chose %d, want %d", c.name, got, c.want)
		}
	}
}

func TestFront(t *testing.T) {
	points := []point{{5, 1}, {1, 5}, {3, 3}, {4, 4}, {3, 3}, {1, 6}}
	if got := front(points, []int{0, 1, 2, 3, 4, 5}); !slices.Equal(got, []int{1, 2, 0}) {
		t.Errorf("front %v", got)
	}
	if got := front(points, []int{3, 4}); !slices.Equal(got, []int{4}) {
		t.Errorf("front of some %v", got)
	}
	line := []point{{0, 10}, {1, 9}, {2, 8}, {5, 5}, {10, 0}}
	if got := apart(line, []int{0, 1, 2, 3, 4}, 3); !slices.Equal(got, []int{0, 4, 3}) {
		t.Errorf("far apart: %v", got)
	}
}

// week is days of one trace on which everybody pays, and so many are late.
func week(first int, cost float64, late ...float64) []sim.Day {
	var out []sim.Day
	for i, l := range late {
		out = append(out, sim.Day{Day: first + i, Requests: 1000, GPUHours: cost, Late: l})
	}
	return out
}

func candidates(days ...[]sim.Day) []Candidate {
	var out []Candidate
	for i, d := range days {
		c := Candidate{Days: [][]sim.Day{d}}
		if i > 0 {
			c.Setting = Setting{float64(i)}
		}
		c.Figures = aim.figures(c.Days)
		out = append(out, c)
	}
	return out
}

func many(late float64, n int) []float64 { return slices.Repeat([]float64{late}, n) }

func TestOverFitIsToldOf(t *testing.T) {
	weeks := func(cost, a, b float64) []sim.Day { return week(1, cost, append(many(a, 7), many(b, 7)...)...) }
	for _, c := range []struct {
		name string
		all  []Candidate
		want string // in a warning; none where empty
	}{
		// Two settings, each made for one week: by either week alone the
		// other's is chosen.
		{"each setting fits one week", candidates(weeks(100, 8, 8), weeks(80, 0, 20), weeks(80, 20, 0)), "over-fit: on weeks that the choice was not made by, 98.00% are on time, and not 99.00%"},
		{"the choice carries over", candidates(weeks(100, 8, 8), weeks(80, 9, 9)), ""},
		// By the first week alone the cheap setting would not do.
		{"held out it costs more", candidates(weeks(150, 4, 4), weeks(80, 12, 8)), "over-fit: on weeks that the choice was not made by, it costs 43.8 % more"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := aim.heldOut(c.all)
			if h == nil || h.Unit != "week" || len(h.Folds) != 2 || h.Held.Days != 14 {
				t.Fatalf("%+v", h)
			}
			got := strings.Join(aim.warnings(h), "\n")
			if c.want == "" && got != "" || !strings.Contains(got, c.want) {
				t.Errorf("warnings %q, want %q; %+v", got, c.want, h)
			}
		})
	}
}

func TestOverFitInCostIsToldOf(t *testing.T) {
	h := &HeldOut{Unit: "week", Tuned: Figures{Cost: 100, Attainment: 0.991}, Held: Figures{Cost: 106, Attainment: 0.991}, Default: Figures{Cost: 104, Attainment: 0.995}}
	got := strings.Join(aim.warnings(h), "\n")
	if !strings.Contains(got, "it costs 6.0 % more") || !strings.Contains(got, "no less than the defaults: keep them") {
		t.Error(got)
	}
	h.Held.Cost = 103
	if got := aim.warnings(h); len(got) > 0 {
		t.Error(got)
	}
}

func TestWhatIsLeftOut(t *testing.T) {
	type want struct {
		unit  string
		sizes []int
	}
	for _, c := range []struct {
		name   string
		traces []int // days
		want   want
	}{
		{"two weeks and some days", []int{17}, want{"week", []int{7, 10}}},
		{"two weeks and most of a third", []int{18}, want{"week", []int{7, 7, 4}}},
		{"a week of each trace", []int{6, 7}, want{"week", []int{6, 7}}},
		{"one week", []int{6}, want{"day", []int{1, 1, 1, 1, 1, 1}}},
		{"one day", []int{1}, want{"", nil}},
	} {
		var traces [][]sim.Day
		for _, n := range c.traces {
			traces = append(traces, week(1, 1, many(0, n)...))
		}
		unit, folds := folds(traces)
		if len(folds) < 2 {
			folds = nil
		}
		var sizes []int
		for _, f := range folds {
			sizes = append(sizes, f.Days)
		}
		if unit != c.want.unit || !slices.Equal(sizes, c.want.sizes) {
			t.Errorf("%s: by %s, %v", c.name, unit, sizes)
		}
	}
}
