package htmlreport

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/gpupool/gpupool/internal/sim"
)

const (
	mainHeight = 880 // canvas units of the replicas' figure
	backHeight = 240 // and of the queue's
	closeUp    = 24 * time.Hour
)

// timeSection is demand, capacity and queue over time: one figure a policy,
// all on the same axes, so that they compare by eye.
type timeSection struct {
	Windows  []window
	Policies []timePolicy
	Legend   bool
	Data     timeData
}

// window is a part of the run that is drawn: all of it, and the day that was
// hardest.
type window struct {
	ID       int
	Title    string
	Need     string // path of the demand, shared by all policies
	NeedLine string
	YTicks   []tick
	WaitTick []tick
	XTicks   []tick
	Warmup   float64 // per cent of the width that is not scored; 0 for none

	from, to int
	main     canvas
	back     canvas
}

// timePolicy is one policy's figures.
type timePolicy struct {
	ID     int
	Name   string
	About  string
	Open   bool
	Met    bool
	OnTime string
	Ratio  string
	Cost   string
	Charts []chart
}

// chart is one policy in one window.
type chart struct {
	Window  window
	Alt     string
	Covered string // the demand that ready replicas meet
	Billed  string
	Ready   string
	Waiting string
}

// timeData is what the cursor reads out; the script knows its form. All
// series have one value a bucket.
type timeData struct {
	Counted bool         `json:"counted"` // tell days by number
	Start   int64        `json:"start"`   // of the trace, ms since 1970
	Windows []windowData `json:"windows"`
}

type windowData struct {
	Start    int64        `json:"start"` // ms since 1970
	Step     float64      `json:"step"`  // ms of a bucket
	Need     []float64    `json:"need"`  // most
	Policies []policyData `json:"policies"`
}

type policyData struct {
	Ready   []float64 `json:"ready"`   // fewest
	Billed  []float64 `json:"billed"`  // most
	Waiting []float64 `json:"waiting"` // most
}

// newTimeSection draws the timelines of a report, ours and the simple one
// first and open. It is nil where there is none.
func newTimeSection(r *sim.Report) *timeSection {
	order := shown(r)
	if len(order) == 0 {
		return nil
	}
	first := r.Policies[order[0]].Timeline
	step := time.Duration(first.StepS * float64(time.Second))
	c := clockOf(r.Trace)
	s := &timeSection{Data: timeData{Counted: c.counted, Start: c.start.UnixMilli()}}
	main, back, steps := scales(r, order)
	for id, part := range parts(r, order, step) {
		w := part
		w.ID, w.main, w.back, w.YTicks, w.WaitTick = id, main, back, steps, logTicks(math.Expm1(back.top))
		need := first.Need[w.from:w.to]
		w.Need, w.NeedLine = main.area(need), main.line(need)
		begin := c.start.Add(time.Duration(w.from) * step)
		w.XTicks = timeTicks(c, begin, time.Duration(w.to-w.from)*step)
		if warm := r.WarmupS/first.StepS - float64(w.from); warm > 0 {
			w.Warmup = round2(min(100*warm/float64(w.to-w.from), 100))
		}
		s.Windows = append(s.Windows, w)
		n := min(w.to-w.from, buckets)
		s.Data.Windows = append(s.Data.Windows, windowData{
			Start: begin.UnixMilli(), Step: float64(w.to-w.from) * first.StepS * 1000 / float64(n), Need: most(need, n)})
	}
	for k, i := range order {
		s.Policies = append(s.Policies, s.policy(k, r, r.Policies[i], k < 2))
	}
	return s
}

// shown is the policies that have a timeline: ours and the simple one, then
// the others in the order of the report.
func shown(r *sim.Report) []int {
	var order []int
	for i, p := range r.Policies {
		if drawn(p) {
			order = append(order, i)
		}
	}
	rank := func(i int) int {
		switch r.Policies[i].Name {
		case ours:
			return 0
		case simple:
			return 1
		}
		return 2
	}
	slices.SortStableFunc(order, func(a, b int) int { return rank(a) - rank(b) })
	return order
}

// scales makes the axes that all figures share.
func scales(r *sim.Report, order []int) (main, back canvas, ticks []tick) {
	replicas, waiting := 0.0, 0.0
	for _, i := range order {
		l := r.Policies[i].Timeline
		replicas = max(replicas, slices.Max(l.Need), slices.Max(l.Ready), slices.Max(l.Billed))
		waiting = max(waiting, slices.Max(l.Waiting))
	}
	top, step := niceTop(replicas)
	return canvas{height: mainHeight, top: top, scale: linear},
		canvas{height: backHeight, top: math.Log1p(max(waiting, 10)), scale: math.Log1p},
		valueTicks(top, step)
}

// parts is what is drawn: the whole run, and of runs of more than two days the
// hardest day too.
func parts(r *sim.Report, order []int, step time.Duration) []window {
	n := len(r.Policies[order[0]].Timeline.Need)
	all := window{Title: "The whole run", to: n}
	day := int(closeUp / step)
	if day < 2 || n <= 2*day {
		return []window{all}
	}
	from, why := hardest(r, order[:min(2, len(order))], day, int(r.WarmupS/step.Seconds()))
	c := clockOf(r.Trace)
	title := fmt.Sprintf("A closer look at %s, %s", c.long(c.start.Add(time.Duration(from)*step)), why)
	return []window{all, {Title: title, from: from, to: from + day}}
}

// hardest is the day that one of the given policies had its longest queue in,
// or, where none ever had one, the day of the greatest need. It is a whole day
// from the trace's start.
func hardest(r *sim.Report, of []int, day, scored int) (from int, why string) {
	at, policy, longest := -1, "", 0.0
	for _, i := range of {
		p := r.Policies[i]
		for k := scored; k < len(p.Timeline.Waiting); k++ {
			if v := p.Timeline.Waiting[k]; v > longest {
				at, policy, longest = k, p.Name, v
			}
		}
	}
	need := r.Policies[of[0]].Timeline.Need
	why = "when " + policy + " had the longest queue"
	if at < 0 {
		why = "when the most work came"
		for k := scored; k < len(need); k++ {
			if at < 0 || need[k] > need[at] {
				at = k
			}
		}
	}
	from = max(at, 0) / day * day
	if from+day > len(need) {
		from = len(need) - day
	}
	return from, why
}

func (s *timeSection) policy(id int, r *sim.Report, p sim.PolicyReport, open bool) timePolicy {
	out := timePolicy{ID: id, Name: p.Name, About: p.About, Open: open, Met: meets(r, p), OnTime: percent(p.Attainment), Cost: amount(p.Cost)}
	if p.CostRatio > 0 {
		out.Ratio = fmt.Sprintf("%.2f", p.CostRatio)
	}
	l := p.Timeline
	for k, w := range s.Windows {
		need, ready, billed, waiting := l.Need[w.from:w.to], l.Ready[w.from:w.to], l.Billed[w.from:w.to], l.Waiting[w.from:w.to]
		covered := make([]float64, len(need))
		for i := range need {
			covered[i] = min(need[i], ready[i])
		}
		out.Charts = append(out.Charts, chart{
			Window: w, Alt: alt(p.Name, need, ready, waiting),
			Covered: w.main.area(covered), Billed: w.main.area(billed), Ready: w.main.line(ready), Waiting: w.back.area(waiting)})
		n := min(w.to-w.from, buckets)
		d := &s.Data.Windows[k]
		d.Policies = append(d.Policies, policyData{Ready: least(ready, n), Billed: most(billed, n), Waiting: most(waiting, n)})
	}
	return out
}

// alt says a figure in a sentence, for those who do not see it.
func alt(name string, need, ready, waiting []float64) string {
	return fmt.Sprintf("%s: %s to %s replicas ready for work that needs %s to %s; at most %s requests waiting.", name,
		short(slices.Min(ready)), short(slices.Max(ready)), short(slices.Min(need)), short(slices.Max(need)), short(slices.Max(waiting)))
}

// most and least are the greatest and the least value of each of n buckets,
// with three figures.
func most(v []float64, n int) []float64 {
	out := make([]float64, n)
	for b := range out {
		_, hi := span(v, b, n)
		out[b] = figures3(v[hi])
	}
	return out
}

func least(v []float64, n int) []float64 {
	out := make([]float64, n)
	for b := range out {
		lo, _ := span(v, b, n)
		out[b] = figures3(v[lo])
	}
	return out
}

// figures3 rounds to three figures, and whole numbers not at all.
func figures3(v float64) float64 {
	if a := math.Abs(v); a >= 100 || a == 0 {
		return math.Round(v)
	}
	scale := math.Pow(10, 2-math.Floor(math.Log10(math.Abs(v))))
	return math.Round(v*scale) / scale
}

// timeTicks marks round times, at most nine; every other one is minor.
func timeTicks(c clock, begin time.Time, long time.Duration) []tick {
	const day = 24 * time.Hour
	step := 365 * day
	for _, s := range []time.Duration{time.Minute, 5 * time.Minute, 10 * time.Minute, 30 * time.Minute, time.Hour, 3 * time.Hour,
		6 * time.Hour, day, 2 * day, 7 * day, 14 * day, 28 * day, 91 * day} {
		if long <= 9*s {
			step = s
			break
		}
	}
	// Steps of days count from the trace's own first day, others from midnight.
	from := begin.Truncate(day)
	if step > day {
		from = c.start.Truncate(day)
	}
	var out []tick
	for t := from; t.Before(begin.Add(long)); t = t.Add(step) {
		at := 100 * float64(t.Sub(begin)) / float64(long)
		if at < 0 || at > 96 {
			continue
		}
		label := t.Format("15:04")
		switch {
		case step > 2*day:
			label = c.date(t)
		case step >= day:
			label = c.day(t)
		}
		out = append(out, tick{At: round2(at), Label: label})
	}
	if len(out) > 5 {
		for i := range out {
			out[i].Minor = i%2 == 1
		}
	}
	return out
}
