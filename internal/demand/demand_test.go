package demand_test

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/gpupool/gpupool/internal/demand"
)

var t0 = time.Date(2024, time.March, 1, 12, 0, 0, 0, time.UTC)

func at(s int) time.Time { return t0.Add(time.Duration(s) * time.Second) }

// series makes a Series of pairs of seconds and values.
func series(pairs ...float64) demand.Series {
	var s demand.Series
	for i := 0; i < len(pairs); i += 2 {
		s = append(s, demand.Point{At: at(int(pairs[i])), Value: pairs[i+1]})
	}
	return s
}

func TestNewRefusesWhatCannotBeDemand(t *testing.T) {
	for _, c := range []struct {
		points demand.Series
		want   string
	}{
		{series(0, 1, 60, math.NaN()), "point 1"},
		{series(0, math.Inf(1)), "point 0"},
		{series(0, 1, 60, -1), "negative"},
		{series(60, 1, 0, 1), "point 1"},
		{series(0, 1, 0, 2), "not after"},
	} {
		_, err := demand.New(c.points)
		if !errors.Is(err, demand.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("New(%v) says %v, want %q", c.points, err, c.want)
		}
	}
	if s, err := demand.New(series(0, 0, 60, 5)); err != nil || len(s) != 2 {
		t.Errorf("a good series is refused: %v", err)
	}
}

func TestCleanKeepsTheLargestOfAnInstant(t *testing.T) {
	got, dropped := demand.Clean(series(60, 2, 0, 1, 60, 3, 30, math.NaN(), 90, -1, 60, 1))
	if diff := cmp.Diff(series(0, 1, 60, 3), got); diff != "" || dropped != 4 {
		t.Errorf("dropped %d, want 4; (-want +got)\n%s", dropped, diff)
	}
}

func TestCleanDoesNotDependOnOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		points := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) demand.Point {
			return demand.Point{At: at(rapid.IntRange(0, 20).Draw(t, "at")), Value: rapid.Float64Range(-1, 5).Draw(t, "value")}
		}), 0, 30).Draw(t, "points")
		a, _ := demand.Clean(slices.Clone(points))
		b, _ := demand.Clean(rapid.Permutation(points).Draw(t, "shuffled"))
		if diff := cmp.Diff(a, b); diff != "" {
			t.Fatal(diff)
		}
		if _, err := demand.New(a); err != nil {
			t.Fatal(err)
		}
	})
}

func TestWindowIsOpenAtItsBegin(t *testing.T) {
	s := series(0, 1, 60, 2, 120, 3)
	for _, c := range []struct {
		from, to int
		want     demand.Series
	}{
		{0, 120, s[1:]}, {-1, 60, s[:2]}, {0, 59, nil}, {120, 500, nil}, {60, 60, nil}, {90, 30, nil}, {-100, 500, s},
	} {
		if diff := cmp.Diff(c.want, s.Window(at(c.from), at(c.to))); diff != "" {
			t.Errorf("Window(%d, %d): %s", c.from, c.to, diff)
		}
	}
}

func TestWindowMeetsTheDefinition(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s demand.Series
		now := 0
		for range rapid.IntRange(0, 40).Draw(t, "n") {
			now += rapid.IntRange(1, 5).Draw(t, "gap")
			s = append(s, demand.Point{At: at(now), Value: 1})
		}
		from, to := rapid.IntRange(-5, 150).Draw(t, "from"), rapid.IntRange(-5, 150).Draw(t, "to")
		var want demand.Series
		for _, p := range s {
			if p.At.After(at(from)) && !p.At.After(at(to)) {
				want = append(want, p)
			}
		}
		if diff := cmp.Diff(want, s.Window(at(from), at(to))); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestGapsIncludeTheEnds(t *testing.T) {
	s := series(100, 1, 160, 1, 400, 1)
	got := s.Gaps(at(0), at(600), time.Minute)
	want := []demand.Gap{{From: at(0), To: at(100)}, {From: at(160), To: at(400)}, {From: at(400), To: at(600)}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if g := s.Gaps(at(99), at(161), time.Minute); g != nil {
		t.Errorf("no gap is longer than a minute, got %v", g)
	}
	if g := demand.Series(nil).Gaps(at(0), at(600), time.Minute); len(g) != 1 || g[0].Length() != 10*time.Minute {
		t.Errorf("an empty series is one gap, got %v", g)
	}
}

func TestResampleKeepsHoles(t *testing.T) {
	s := series(10, 1, 50, 3, 60, 5, 61, 7, 190, 2)
	if diff := cmp.Diff(series(60, 3, 120, 7, 240, 2), s.Resample(time.Minute, demand.MeanOf)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(series(60, 5, 120, 7, 240, 2), s.Resample(time.Minute, demand.MaxOf)); diff != "" {
		t.Error(diff)
	}
}

func TestEmptySeriesAnswersNotOK(t *testing.T) {
	var s demand.Series
	if _, ok := s.Last(); ok {
		t.Error("Last")
	}
	if _, ok := s.Max(); ok {
		t.Error("Max")
	}
	if _, ok := s.Mean(); ok {
		t.Error("Mean")
	}
	if s.Step() != 0 || s.Span() != 0 || s.Resample(time.Minute, demand.MaxOf) != nil {
		t.Error("an empty series has no step, span or buckets")
	}
}

func TestStepIsTheUsualDistance(t *testing.T) {
	if got := series(0, 1, 15, 1, 30, 1, 300, 1, 315, 1).Step(); got != 15*time.Second {
		t.Errorf("step %s", got)
	}
}
