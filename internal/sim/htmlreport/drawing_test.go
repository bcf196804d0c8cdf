package htmlreport

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gpupool/gpupool/internal/sim"
	"pgregory.net/rapid"
)

// TestThin checks what a reader relies on: no peak and no trough is lost, the
// order stays, and the number of points is bounded.
func TestThin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := rapid.SliceOfN(rapid.Float64Range(-1e6, 1e6), 1, 400).Draw(t, "series")
		n := rapid.IntRange(1, 50).Draw(t, "buckets")
		pts := thin(v, n)
		if len(pts) > 2*n+2 {
			t.Fatalf("%d points of %d buckets", len(pts), n)
		}
		if !slices.IsSortedFunc(pts, func(a, b point) int { return a.i - b.i }) {
			t.Fatalf("points out of order: %v", pts)
		}
		for _, p := range pts {
			if v[p.i] != p.v {
				t.Fatalf("point %d is %g, was %g", p.i, p.v, v[p.i])
			}
		}
		if pts[0].i != 0 || pts[len(pts)-1].i != len(v)-1 {
			t.Fatalf("an end is missing: %v", pts)
		}
		for b := range n {
			from, to := b*len(v)/n, (b+1)*len(v)/n
			if len(v) <= 2*n || from == to {
				continue
			}
			for _, extreme := range []float64{slices.Min(v[from:to]), slices.Max(v[from:to])} {
				if !slices.ContainsFunc(pts, func(p point) bool { return p.i >= from && p.i < to && p.v == extreme }) {
					t.Fatalf("bucket %d lost %g", b, extreme)
				}
			}
		}
	})
}

// TestPen draws with the pen and reads the path back.
func TestPen(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var p pen
		var want [][2]int
		x := 0
		for range rapid.IntRange(1, 60).Draw(t, "points") {
			x += rapid.IntRange(0, 3).Draw(t, "dx")
			y := rapid.IntRange(-2, 2).Draw(t, "y")
			p.to(x, y)
			want = append(want, [2]int{x, y})
		}
		got := trail(t, p.String())
		// Level stretches are one step, and points that come twice are one.
		if g, w := corners(got), corners(want); !slices.Equal(g, w) {
			t.Fatalf("%s goes through %v, want %v", p.String(), g, w)
		}
	})
}

// trail reads a path of M, l, h and v.
func trail(t *rapid.T, path string) [][2]int {
	var out [][2]int
	r := strings.NewReader(path)
	x, y := 0, 0
	for r.Len() > 0 {
		c, _ := r.ReadByte()
		dx, dy := 0, 0
		var err error
		switch c {
		case 'M', 'l':
			_, err = fmt.Fscan(r, &dx, &dy)
		case 'h':
			_, err = fmt.Fscan(r, &dx)
		case 'v':
			_, err = fmt.Fscan(r, &dy)
		default:
			t.Fatalf("%q in path %s", c, path)
		}
		if err != nil {
			t.Fatalf("path %s: %v", path, err)
		}
		x, y = x+dx, y+dy
		out = append(out, [2]int{x, y})
	}
	return out
}

// corners leaves out points that repeat and those inside level stretches.
func corners(v [][2]int) [][2]int {
	var out [][2]int
	for i, p := range v {
		if n := len(out); n > 0 && out[n-1] == p {
			continue
		}
		if n := len(out); n > 0 && i+1 < len(v) && out[n-1][1] == p[1] && v[i+1][1] == p[1] {
			continue
		}
		out = append(out, p)
	}
	return out
}

// TestLabelsKeepClear places a dozen labels in a crowd: no two may overlap,
// and none may leave the page.
func TestLabelsKeepClear(t *testing.T) {
	r := sample()
	like := r.Policies[3]
	like.Front = nil
	r.Policies = nil
	for k := range 13 {
		p := like
		p.Name = fmt.Sprintf("policy-number-%d", k)
		p.CostRatio = 1.3 + 0.02*float64(k%3)
		p.GPUHours = p.CostRatio * r.Bound.GPUHours
		p.Attainment = 0.99 + 0.0001*float64(k/3)
		r.Policies = append(r.Policies, p)
	}
	s := newFrontSection(r)
	for _, c := range []struct {
		f      frontFigure
		letter float64
	}{{s.Wide, 13}, {s.Slim, 11}} {
		var boxes []box
		for _, l := range c.f.Lines {
			w := float64(len(l.Label)) * c.letter * letterWidth
			b := box{l.LabelX, l.LabelY - c.letter, l.LabelX + w, l.LabelY}
			if l.Anchor == "end" {
				b.x0, b.x1 = l.LabelX-w, l.LabelX
			}
			if b.outside(box{0, 0, c.f.W, c.f.H}) > 0 {
				t.Errorf("%s: label %s at %v is off the page", c.f.ID, l.Name, b)
			}
			for i, other := range boxes {
				if b.overlap(other) > 0 {
					t.Errorf("%s: label %s covers that of %s", c.f.ID, l.Name, c.f.Lines[i].Name)
				}
			}
			boxes = append(boxes, b)
		}
	}
}

func TestTimeTicks(t *testing.T) {
	dated := clock{start: time.Date(2025, 3, 5, 9, 30, 0, 0, time.UTC)}
	counted := clockOf(sim.TraceInfo{Start: sim.DefaultStart})
	const day = 24 * time.Hour
	for _, c := range []struct {
		clock clock
		from  time.Duration
		long  time.Duration
		want  string
	}{
		{counted, 0, 7 * day, "day 1, day 2, day 3, day 4, day 5, day 6, day 7"},
		{counted, 3 * day, 4 * time.Hour, "00:00, 00:30, 01:00, 01:30, 02:00, 02:30, 03:00, 03:30"},
		{counted, 0, 60 * day, "day 1, day 8, day 15, day 22, day 29, day 36, day 43, day 50, day 57"},
		{dated, 0, 4 * day, "Thu 6, Fri 7, Sat 8, Sun 9"},
		{dated, 0, 31 * day, "12 Mar, 19 Mar, 26 Mar, 2 Apr"},
		{dated, 0, 10 * time.Minute, "09:30, 09:35"},
	} {
		var got []string
		for _, k := range timeTicks(c.clock, c.clock.start.Add(c.from), c.long) {
			got = append(got, k.Label)
		}
		if s := strings.Join(got, ", "); s != c.want {
			t.Errorf("%s from %s on: %s, want %s", c.long, c.clock.start.Add(c.from), s, c.want)
		}
	}
}

func TestNiceTop(t *testing.T) {
	for v, want := range map[float64][2]float64{0: {1, 1}, 0.7: {0.8, 0.2}, 40: {40, 10}, 41: {60, 20}, 80: {80, 20}, 97: {100, 25}, 1234: {1500, 500}} {
		if top, step := niceTop(v); math.Abs(top-want[0]) > 1e-9 || math.Abs(step-want[1]) > 1e-9 {
			t.Errorf("niceTop(%g) = %g, %g, want %v", v, top, step, want)
		}
	}
}

func TestFormats(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{percent(1), "100.00%"}, {percent(0.99999), "99.99%"}, {percent(0.9900000000001), "99.00%"},
		{percentShort(0.99), "99%"}, {percentShort(0.995), "99.5%"}, {percentShort(0), "0%"}, {percentShort(1), "100%"},
		{number(1234567, 0), "1,234,567"}, {number(999, 0), "999"}, {number(-1234.5, 1), "-1,234.5"}, {number(-0.001, 0), "0"},
		{amount(0), "0"}, {amount(4308.4), "4,308"}, {amount(12.34), "12.3"}, {amount(0.01234), "0.0123"},
		{short(7.18e6), "7.18M"}, {short(16000), "16k"}, {short(9999), "9,999"}, {short(0.25), "0.25"},
		{seconds(0), "0s"}, {seconds(0.04), "40ms"}, {seconds(3.21), "3.2s"}, {seconds(300), "5m"}, {seconds(5400), "1h30m"}, {seconds(5432), "1h31m"}, {seconds(1556480), "18d"},
		{spoken(60), "1 minute"}, {spoken(90), "90 seconds"}, {spoken(1), "1 second"}, {spoken(7200), "2 hours"}, {spoken(630.5), "10m31s"},
		{days(7), "7 days"}, {days(0.5), "12 hours"}, {days(1.0 / 24), "60 minutes"},
	} {
		if c.got != c.want {
			t.Errorf("got %s, want %s", c.got, c.want)
		}
	}
}

// TestLadder checks that a bar's parts make up its cost, and that one policy
// that costs far more than the others is cut off rather than all others made
// too short to read.
func TestLadder(t *testing.T) {
	r := sample()
	l := newLadder(r, judge(r))
	if l.Torn {
		t.Error("a bar is cut off where all have room")
	}
	for _, b := range l.Rungs {
		want := 100.0
		for _, p := range r.Policies {
			if p.Name == b.Name {
				want = 100 * p.Cost / 11520
			}
		}
		if got := b.Busy + b.Idle + b.Wear; math.Abs(got-want) > 0.05 {
			t.Errorf("%s: the bar is %g%% long, want %g%%", b.Name, got, want)
		}
	}
	r.Policies[0].Cost = 161424
	l = newLadder(r, judge(r))
	if !l.Torn {
		t.Error("no bar is cut off")
	}
	for _, b := range l.Rungs {
		if b.Torn != (b.Name == "static-peak") || b.Busy+b.Idle+b.Wear > 100.05 {
			t.Errorf("%s: cut off: %t, %g%% long", b.Name, b.Torn, b.Busy+b.Idle+b.Wear)
		}
		if b.Name == "predictive" && b.Busy+b.Idle+b.Wear < 30 {
			t.Errorf("predictive is only %g%% long", b.Busy+b.Idle+b.Wear)
		}
	}
}

// TestTallFigures checks that capacity and queues beyond the common scales are
// not drawn as if they were within.
func TestTallFigures(t *testing.T) {
	r := sample()
	l := r.Policies[0].Timeline
	for i := range l.Ready {
		l.Ready[i], l.Billed[i] = 130, 130
	}
	r.Policies[1].Timeline.Waiting[3000] = 1e6
	s := newTimeSection(r)
	peak, hpa := s.Policies[2].Charts[0], s.Policies[3].Charts[0]
	if peak.Tall < 2 || peak.Above() >= 0 || peak.Cut != "" {
		t.Errorf("130 replicas beside 45 are %g times as high, from %d on, cut at %q", peak.Tall, peak.Above(), peak.Cut)
	}
	if last := hpa.WaitTick[2].Label; last != "1.2M" {
		t.Errorf("a queue of a million is on a scale up to %s, want 1.2M", last)
	}
	if last := s.Policies[0].Charts[0].WaitTick[2].Label; last != "2,800" {
		t.Errorf("the common scale goes to %s, want 2,800", last)
	}
	for i := range l.Ready {
		l.Billed[i] = 1000
	}
	if cut := newTimeSection(r).Policies[2].Charts[0].Cut; cut != "1,000" {
		t.Errorf("a thousand replicas beside 45 say they go up to %q", cut)
	}
}
