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
		{seconds(0), "0s"}, {seconds(0.04), "40ms"}, {seconds(3.21), "3.2s"}, {seconds(300), "5m"}, {seconds(5400), "1h30m"},
		{spoken(60), "1 minute"}, {spoken(90), "90 seconds"}, {spoken(1), "1 second"}, {spoken(7200), "2 hours"}, {spoken(630.5), "10m31s"},
		{days(7), "7 days"}, {days(0.5), "12 hours"}, {days(1.0 / 24), "60 minutes"},
	} {
		if c.got != c.want {
			t.Errorf("got %s, want %s", c.got, c.want)
		}
	}
}
