package htmlreport

import (
	"math"
	"strconv"
	"strings"
)

// buckets is how many pieces a long series is thinned to. A figure is about a
// thousand pixels wide, and each piece keeps two values.
const buckets = 720

// point is a value of a series at its index.
type point struct {
	i int
	v float64
}

// thin keeps of each of n equal buckets the least and the greatest value, in
// the order in which they came, and both ends. A drawing with no more pixels
// than buckets looks the same. Series of up to two values a bucket are kept
// whole.
func thin(v []float64, n int) []point {
	if len(v) <= 2*n {
		out := make([]point, len(v))
		for i, x := range v {
			out[i] = point{i, x}
		}
		return out
	}
	out := make([]point, 0, 2*n+2)
	add := func(i int) {
		if k := len(out); k == 0 || out[k-1].i < i {
			out = append(out, point{i, v[i]})
		}
	}
	add(0)
	for b := range n {
		lo, hi := span(v, b, n)
		add(min(lo, hi))
		add(max(lo, hi))
	}
	add(len(v) - 1)
	return out
}

// span is the index of the least and of the greatest value of bucket b of n.
func span(v []float64, b, n int) (lo, hi int) {
	from, to := b*len(v)/n, (b+1)*len(v)/n
	lo, hi = from, from
	for i := from + 1; i < to; i++ {
		if v[i] < v[lo] {
			lo = i
		}
		if v[i] > v[hi] {
			hi = i
		}
	}
	return lo, hi
}

// canvas is a drawing that is stretched to its place on the page: canvasWidth
// units for all values of a series, height units for 0 to top, growing
// downwards as SVG has it. Greater values are drawn above it, with negative
// coordinates, as far as tallest times its height.
type canvas struct {
	height float64
	top    float64 // the value at height, already scaled
	scale  func(float64) float64
}

const (
	canvasWidth = 1440
	tallest     = 4
)

func linear(v float64) float64 { return v }

// y is where a value is drawn.
func (c canvas) y(v float64) int {
	if c.top <= 0 {
		return int(c.height)
	}
	return int(math.Round(c.height * (1 - min(max(c.scale(v)/c.top, 0), tallest))))
}

// line is the path of a series.
func (c canvas) line(v []float64) string {
	var p pen
	c.draw(&p, v)
	return p.String()
}

// area is the closed path between a series and zero.
func (c canvas) area(v []float64) string {
	if !positive(v) {
		return ""
	}
	var p pen
	c.draw(&p, v)
	p.to(canvasWidth, int(c.height))
	p.to(0, int(c.height))
	return p.String() + "z"
}

func positive(v []float64) bool {
	for _, x := range v {
		if x > 0 {
			return true
		}
	}
	return false
}

// draw puts each value at the middle of its step, and both ends at the edges.
func (c canvas) draw(p *pen, v []float64) {
	pts := thin(v, buckets)
	for k, pt := range pts {
		x := int(math.Round((float64(pt.i) + 0.5) * canvasWidth / float64(len(v))))
		if k == 0 {
			p.to(0, c.y(pt.v))
		}
		p.to(x, c.y(pt.v))
		if k == len(pts)-1 {
			p.to(canvasWidth, c.y(pt.v))
		}
	}
}

// pen writes the shortest path through whole coordinates: relative steps, and
// nothing for a point on a level line.
type pen struct {
	b       strings.Builder
	x, y    int // where the path ends
	level   int // where a level line that is not yet written ends
	pending bool
	begun   bool
}

func (p *pen) to(x, y int) {
	switch {
	case !p.begun:
		p.begun = true
		p.b.WriteString("M" + strconv.Itoa(x) + " " + strconv.Itoa(y))
		p.x, p.y = x, y
	case y == p.y:
		p.level, p.pending = x, true
	default:
		p.flush()
		if x == p.x {
			p.b.WriteString("v" + strconv.Itoa(y-p.y))
		} else {
			p.b.WriteString("l" + strconv.Itoa(x-p.x))
			if y > p.y {
				p.b.WriteByte(' ')
			}
			p.b.WriteString(strconv.Itoa(y - p.y))
		}
		p.x, p.y = x, y
	}
}

func (p *pen) flush() {
	if p.pending && p.level != p.x {
		p.b.WriteString("h" + strconv.Itoa(p.level-p.x))
		p.x = p.level
	}
	p.pending = false
}

func (p *pen) String() string {
	p.flush()
	return p.b.String()
}

// tick is a mark on an axis.
type tick struct {
	At    float64 // per cent of the axis, from its begin
	Label string
	Minor bool // left out where there is little room
}

// niceTop is the first round number from v on that divides into ticks, and the
// distance between them.
func niceTop(v float64) (top, step float64) {
	if v <= 0 {
		return 1, 1
	}
	raw := v / 4
	unit := math.Pow(10, math.Floor(math.Log10(raw)))
	for _, m := range []float64{1, 2, 2.5, 5, 10} {
		if step = m * unit; step >= raw*0.9999 {
			break
		}
	}
	return step * math.Ceil(v/step-1e-9), step
}

// valueTicks marks 0 to top, and leaves out what would stand too close.
func valueTicks(top, step float64) []tick {
	var out []tick
	every := math.Ceil(top / step / 8)
	for v := 0.0; v <= top*1.0001; v += step * every {
		out = append(out, tick{At: round2(100 * v / top), Label: short(v)})
	}
	return out
}

// rootTicks marks 0, the greatest value as a round number, and a quarter of it,
// which is half-way up an axis of square roots.
func rootTicks(most float64) []tick {
	return []tick{{0, "0", false}, {50, short(most / 4), false}, {100, short(most), false}}
}

func round2(v float64) float64 { return math.Round(v*100) / 100 }
