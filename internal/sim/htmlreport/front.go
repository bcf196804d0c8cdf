package htmlreport

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/gpupool/gpupool/internal/sim"
)

// frontSection is cost against lateness: what each policy costs, and how often
// it is on time, at its default and, where they were swept, at each value of
// its knob.
type frontSection struct {
	Swept bool
	Bound bool
	Wide  frontFigure
	Slim  frontFigure
}

// frontFigure is one layout of it. All coordinates are pixels of a viewBox.
type frontFigure struct {
	ID                       string
	W, H                     float64
	Left, Right, Top, Bottom float64 // edges of the plot
	Goal                     float64 // y of the SLO
	GoalLabel                string
	BoundX                   float64
	XTicks, YTicks           []mark
	Lines                    []frontLine
	XTitle                   string
	Alt                      string
}

type mark struct {
	At    float64
	Label string
}

// frontLine is one policy.
type frontLine struct {
	Name   string
	Label  string // the name, and figures where the point is off the plot
	Class  string // ours, simple or other
	Path   string // through the swept points
	Dots   []dot
	X, Y   float64 // at its default
	Met    bool
	Title  string
	LabelX float64
	LabelY float64
	Anchor string // start or end
	Lead   string // path from the point to a label that is far; may be empty
}

type dot struct {
	X, Y  float64
	Title string
}

// newFrontSection lays the figure out; nil where nothing has a cost.
func newFrontSection(r *sim.Report) *frontSection {
	if !slices.ContainsFunc(r.Policies, func(p sim.PolicyReport) bool { return p.GPUHours > 0 }) {
		return nil
	}
	return &frontSection{
		Swept: slices.ContainsFunc(r.Policies, func(p sim.PolicyReport) bool { return len(p.Front) > 0 }),
		Bound: r.Bound.GPUHours > 0,
		Wide:  newFrontFigure(r, "wide", 1120, 540, 13),
		Slim:  newFrontFigure(r, "slim", 330, 480, 11),
	}
}

// nines turns a share on time into the height it is drawn at: each step up is
// ten times fewer late. 99.999 % and better is the top.
func nines(onTime float64) float64 { return min(-math.Log10(max(1-onTime, 1e-12)), ninesTop) }

const ninesTop = 5

// onTimeMarks are the shares that the axis may be marked at.
var onTimeMarks = []mark{{0, "0%"}, {0.5, "50%"}, {0.8, "80%"}, {0.9, "90%"}, {0.95, "95%"}, {0.98, "98%"}, {0.99, "99%"},
	{0.995, "99.5%"}, {0.999, "99.9%"}, {0.9999, "99.99%"}, {1, "all"}}

// frontScale turns figures into coordinates. The cost's axis is logarithmic,
// so that what is near the bound, which is where the choice is, has room.
type frontScale struct {
	xLo, xHi, yLo, yHi       float64 // logarithm of the cost, nines
	left, right, top, bottom float64
	unit                     float64 // GPU-hours of 1 on the axis
}

// far is where a point is that may be off the plot.
func (s frontScale) far(gpuHours, onTime float64) (x, y float64) {
	v := math.Log(max(gpuHours/s.unit, 1e-3))
	return round2(s.left + (v-s.xLo)/(s.xHi-s.xLo)*(s.right-s.left)),
		round2(s.bottom - (nines(onTime)-s.yLo)/(s.yHi-s.yLo)*(s.bottom-s.top))
}

// at is where a point is drawn: what lies further out is at the edge.
func (s frontScale) at(gpuHours, onTime float64) (x, y float64) {
	x, y = s.far(gpuHours, onTime)
	return min(max(x, s.left), s.right), min(max(y, s.top), s.bottom)
}

// inside tells whether a point lies on the plot.
func (s frontScale) inside(gpuHours, onTime float64) bool {
	x, y := s.far(gpuHours, onTime)
	return x >= s.left && x <= s.right && y >= s.top && y <= s.bottom
}

func newFrontFigure(r *sim.Report, id string, w, h, letter float64) frontFigure {
	s := scaleOf(r)
	s.left, s.right, s.top, s.bottom = 12+letter*3.6, w-12, 14, h-46
	f := frontFigure{ID: id, W: w, H: h, Left: s.left, Right: s.right, Top: s.top, Bottom: s.bottom,
		GoalLabel: "goal: " + percentShort(r.SLO), XTitle: "GPU-hours", Alt: frontAlt(r)}
	f.BoundX, f.Goal = s.at(r.Bound.GPUHours, r.SLO)
	if r.Bound.GPUHours > 0 {
		f.XTitle = "GPU-hours, as a multiple of the lower bound"
	} else {
		f.BoundX = 0
	}
	f.XTicks, f.YTicks = s.xMarks(letter), s.yMarks()
	for _, p := range r.Policies {
		f.Lines = append(f.Lines, newFrontLine(r, p, s))
	}
	// Ours is drawn last, on top of the others.
	rank := map[string]int{"other": 0, "simple": 1, "ours": 2}
	slices.SortStableFunc(f.Lines, func(a, b frontLine) int { return rank[a.Class] - rank[b.Class] })
	place(&f, letter)
	return f
}

// frontDepth is how far below the goal the figure goes at least, in nines, if
// there is something to see: lines of knobs that are turned until nothing works
// would press all else together.
const frontDepth = 0.8

// scaleOf fits the axes to the policies as they come, and to as much of their
// lines as does not go far beyond.
func scaleOf(r *sim.Report) frontScale {
	goal := nines(r.SLO)
	s := frontScale{unit: 1, xLo: math.Inf(1), xHi: math.Inf(-1), yLo: goal, yHi: goal}
	if r.Bound.GPUHours > 0 {
		s.unit = r.Bound.GPUHours
		s.xLo, s.xHi = 0, 0
	}
	floor, right := goal-frontDepth, math.Inf(-1)
	for _, p := range r.Policies {
		floor = min(floor, max(nines(p.Attainment), goal-2*frontDepth))
		if p.GPUHours <= 0 {
			continue
		}
		x := math.Log(p.GPUHours / s.unit)
		s.xLo, right = min(s.xLo, x), max(right, x)
		s.yLo, s.yHi = min(s.yLo, nines(p.Attainment)), max(s.yHi, nines(p.Attainment))
	}
	s.xHi = max(s.xHi, right)
	for _, p := range r.Policies {
		for _, q := range p.Front {
			s.yLo, s.yHi = min(s.yLo, nines(q.Attainment)), max(s.yHi, nines(q.Attainment))
		}
	}
	s.yLo = max(s.yLo, floor)
	room := max(s.xHi-s.xLo, 0.1)
	s.xLo, s.xHi = s.xLo-0.07*room, s.xHi+0.1*room
	tall := max(s.yHi-s.yLo, 0.5)
	s.yLo, s.yHi = s.yLo-0.08*tall, s.yHi+0.08*tall
	return s
}

// xMarks are round multiples, as many as find room: the roundest first.
func (s frontScale) xMarks(letter float64) []mark {
	var out []mark
	try := func(v float64) {
		x, _ := s.far(v*s.unit, 0)
		if x < s.left+letter || x > s.right-letter*1.5 {
			return
		}
		label := short(v)
		if s.unit != 1 {
			label = strconv.FormatFloat(v, 'g', 3, 64) + "×"
		}
		for _, m := range out {
			if math.Abs(m.At-x) < letter*4.2 {
				return
			}
		}
		out = append(out, mark{At: x, Label: label})
	}
	for _, steps := range [][]float64{{1}, {2}, {5}, {1.5, 3}, {4}, {1.2}, {2.5}, {7}, {1.1, 1.3, 1.4, 1.6, 1.8}} {
		for unit := math.Pow(10, math.Floor(s.xLo/math.Ln10)); math.Log(unit) <= s.xHi; unit *= 10 {
			for _, m := range steps {
				try(m * unit)
			}
		}
	}
	return out
}

// yMarks leaves out marks that would stand closer than letters do.
func (s frontScale) yMarks() []mark {
	var out []mark
	last := math.Inf(1)
	for _, m := range onTimeMarks {
		_, y := s.far(0, m.At)
		if y < s.top || y > s.bottom || last-y < 24 {
			continue
		}
		out = append(out, mark{At: y, Label: m.Label})
		last = y
	}
	return out
}

func newFrontLine(r *sim.Report, p sim.PolicyReport, s frontScale) frontLine {
	l := frontLine{Name: p.Name, Label: p.Name, Class: classOf(p.Name), Met: meets(r, p)}
	l.X, l.Y = s.at(p.GPUHours, p.Attainment)
	l.Title = p.Name + ": " + figuresOf(p.GPUHours, p.CostRatio, p.Attainment)
	if !s.inside(p.GPUHours, p.Attainment) {
		l.Label += " (" + percent(p.Attainment) + ")"
	}
	var path strings.Builder
	for i, q := range p.Front {
		x, y := s.far(q.GPUHours, q.Attainment)
		if i > 0 {
			path.WriteByte('L')
		}
		fmt.Fprintf(&path, "%g %g", x, y)
		if s.inside(q.GPUHours, q.Attainment) {
			l.Dots = append(l.Dots, dot{X: x, Y: y,
				Title: fmt.Sprintf("%s with %s %g: %s", p.Name, p.Knob, q.Knob, figuresOf(q.GPUHours, q.CostRatio, q.Attainment))})
		}
	}
	if path.Len() > 0 {
		l.Path = "M" + path.String()
	}
	return l
}

func classOf(name string) string {
	switch name {
	case ours:
		return "ours"
	case simple:
		return "simple"
	}
	return "other"
}

func figuresOf(gpuHours, ratio, onTime float64) string {
	out := amount(gpuHours) + " GPU-hours"
	if ratio > 0 {
		out += fmt.Sprintf(", %.2f× the bound", ratio)
	}
	return out + ", " + percent(onTime) + " on time"
}

func frontAlt(r *sim.Report) string {
	return fmt.Sprintf("Scatter plot of %s by GPU-hours and share on time. The table below has the same figures.",
		plural(len(r.Policies), "policy", "policies"))
}

// ZoneW and ZoneH are the size of the part of the plot where the goal is kept.
func (f frontFigure) ZoneW() float64 { return round2(f.Right - f.Left) }

// ZoneH is its height.
func (f frontFigure) ZoneH() float64 { return round2(max(f.Goal-f.Top, 0)) }

// PlotH is the height of the plot.
func (f frontFigure) PlotH() float64 { return round2(f.Bottom - f.Top) }

// TickX, TickY and TitleY are where the axes' labels stand.
func (f frontFigure) TickX() float64 { return f.Left - 6 }

// TickY is the baseline of the marks under the plot.
func (f frontFigure) TickY() float64 { return f.Bottom + 18 }

// TitleY is the baseline of the axis' title.
func (f frontFigure) TitleY() float64 { return f.Bottom + 38 }
