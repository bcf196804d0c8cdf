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
		Wide:  newFrontFigure(r, 1040, 480, 13),
		Slim:  newFrontFigure(r, 340, 460, 11),
	}
}

// nines turns a share on time into the height it is drawn at: each step up is
// ten times fewer late. 99.999 % and better is the top.
func nines(onTime float64) float64 { return min(-math.Log10(max(1-onTime, 1e-12)), ninesTop) }

const ninesTop = 5

// onTimeMarks are the shares that the axis may be marked at.
var onTimeMarks = []mark{{0, "0%"}, {0.5, "50%"}, {0.8, "80%"}, {0.9, "90%"}, {0.95, "95%"}, {0.98, "98%"}, {0.99, "99%"},
	{0.995, "99.5%"}, {0.999, "99.9%"}, {0.9999, "99.99%"}, {1, "all"}}

// frontScale turns figures into coordinates.
type frontScale struct {
	xLo, xHi, yLo, yHi       float64
	left, right, top, bottom float64
	unit                     float64 // GPU-hours of 1 on the axis
}

func (s frontScale) x(gpuHours float64) float64 {
	return round2(s.left + (gpuHours/s.unit-s.xLo)/(s.xHi-s.xLo)*(s.right-s.left))
}

func (s frontScale) y(onTime float64) float64 {
	return round2(s.bottom - (nines(onTime)-s.yLo)/(s.yHi-s.yLo)*(s.bottom-s.top))
}

func newFrontFigure(r *sim.Report, w, h, letter float64) frontFigure {
	s := scaleOf(r)
	s.left, s.right, s.top, s.bottom = 12+letter*3.6, w-12, 14, h-46
	f := frontFigure{W: w, H: h, Left: s.left, Right: s.right, Top: s.top, Bottom: s.bottom,
		Goal: s.y(r.SLO), GoalLabel: "goal: " + percentShort(r.SLO), XTitle: "GPU-hours", Alt: frontAlt(r)}
	if r.Bound.GPUHours > 0 {
		f.XTitle = "GPU-hours, as a multiple of the lower bound"
		f.BoundX = s.x(r.Bound.GPUHours)
	}
	f.XTicks, f.YTicks = s.xMarks(w, letter), s.yMarks()
	for _, p := range r.Policies {
		f.Lines = append(f.Lines, newFrontLine(r, p, s))
	}
	// Ours is drawn last, on top of the others.
	rank := map[string]int{"other": 0, "simple": 1, "ours": 2}
	slices.SortStableFunc(f.Lines, func(a, b frontLine) int { return rank[a.Class] - rank[b.Class] })
	place(&f, letter)
	return f
}

func scaleOf(r *sim.Report) frontScale {
	s := frontScale{unit: 1, xLo: math.Inf(1), xHi: math.Inf(-1), yLo: nines(r.SLO), yHi: nines(r.SLO)}
	if r.Bound.GPUHours > 0 {
		s.unit = r.Bound.GPUHours
		s.xLo, s.xHi = 1, 1
	}
	see := func(gpuHours, onTime float64) {
		s.xLo, s.xHi = min(s.xLo, gpuHours/s.unit), max(s.xHi, gpuHours/s.unit)
		s.yLo, s.yHi = min(s.yLo, nines(onTime)), max(s.yHi, nines(onTime))
	}
	for _, p := range r.Policies {
		see(p.GPUHours, p.Attainment)
		for _, q := range p.Front {
			see(q.GPUHours, q.Attainment)
		}
	}
	room := max(s.xHi-s.xLo, 0.02*math.Abs(s.xHi), 1e-9)
	s.xLo, s.xHi = s.xLo-0.05*room, s.xHi+0.08*room
	tall := max(s.yHi-s.yLo, 0.5)
	s.yLo, s.yHi = s.yLo-0.1*tall, s.yHi+0.08*tall
	return s
}

func (s frontScale) xMarks(w, letter float64) []mark {
	var out []mark
	_, step := niceTop((s.xHi - s.xLo) * 360 / w * 2)
	_ = letter
	for k := math.Ceil(s.xLo / step); k*step <= s.xHi; k++ {
		label := short(k * step)
		if s.unit != 1 {
			label = strconv.FormatFloat(k*step, 'g', 4, 64) + "×"
		}
		out = append(out, mark{At: round2(s.x(k * step * s.unit)), Label: label})
	}
	return out
}

// yMarks leaves out marks that would stand closer than letters do, the finer
// ones first by order of the list.
func (s frontScale) yMarks() []mark {
	var out []mark
	last := math.Inf(1)
	for _, m := range onTimeMarks {
		y := s.y(m.At)
		if y < s.top-0.5 || y > s.bottom+0.5 || last-y < 24 {
			continue
		}
		out = append(out, mark{At: y, Label: m.Label})
		last = y
	}
	return out
}

func newFrontLine(r *sim.Report, p sim.PolicyReport, s frontScale) frontLine {
	l := frontLine{Name: p.Name, Class: classOf(p.Name), X: s.x(p.GPUHours), Y: s.y(p.Attainment), Met: meets(r, p)}
	l.Title = p.Name + ": " + figuresOf(p.GPUHours, p.CostRatio, p.Attainment)
	var path strings.Builder
	for i, q := range p.Front {
		d := dot{X: s.x(q.GPUHours), Y: s.y(q.Attainment),
			Title: fmt.Sprintf("%s with %s %g: %s", p.Name, p.Knob, q.Knob, figuresOf(q.GPUHours, q.CostRatio, q.Attainment))}
		l.Dots = append(l.Dots, d)
		fmt.Fprintf(&path, "%c%g %g", "LM"[b2i(i == 0)], d.X, d.Y)
	}
	l.Path = path.String()
	return l
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
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
