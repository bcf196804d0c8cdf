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

	// What is drawn again from near: of runs of more than ten days the day
	// that was hardest, and of runs of more than half a day the hours.
	closeDay   = 24 * time.Hour
	closeHours = 4 * time.Hour

	shownOpen = 2 // policies whose figures are shown at first
)

// timeSection is demand, capacity and queue over time: figures of each policy,
// in which a replica is equally high, so that they compare by eye. Those of a
// policy that holds much more capacity than the two that are shown at first
// are taller.
type timeSection struct {
	Windows  []window
	Policies []timePolicy
	Data     timeData
}

// window is a part of the run that is drawn: all of it, or what was hardest.
type window struct {
	ID       int
	Title    string
	Need     string // path of the demand, shared by all policies
	NeedTop  int    // y of its greatest value
	NeedLine string
	XTicks   []tick
	Warmup   float64 // per cent of the width that is not scored; 0 for none

	from, to int
	main     canvas
	step     float64 // replicas between marks
	back     canvas
}

// NeedHeight is the height of the demand's path, at least one unit.
func (w window) NeedHeight() int { return max(mainHeight-w.NeedTop, 1) }

// Height and Above are the height of a chart's drawing and its upper edge.
func (c chart) Height() int { return int(math.Round(c.Tall * mainHeight)) }

// Above is the upper edge: zero, or less where the chart is taller.
func (c chart) Above() int { return mainHeight - c.Height() }

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
	Window   window
	Alt      string
	YTicks   []tick
	WaitTick []tick
	Tall     float64 // height, as a multiple of the least
	Cut      string  // the greatest value, where it is not on the drawing
	Covered  string  // the demand that ready replicas meet
	Billed   string
	Ready    string
	Waiting  string
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
	back := queueScale(r, order[:min(shownOpen, len(order))])
	for id, part := range parts(r, order, step) {
		w := part
		w.ID, w.back = id, back
		w.main, w.step = replicaScale(r, order[:min(shownOpen, len(order))], w)
		need := first.Need[w.from:w.to]
		w.Need, w.NeedLine, w.NeedTop = w.main.area(need), w.main.line(need), w.main.y(slices.Max(need))
		begin := c.start.Add(time.Duration(w.from) * step)
		w.XTicks = timeTicks(c, begin, time.Duration(w.to-w.from)*step)
		if warm := r.WarmupS/first.StepS - float64(w.from); warm > 0 {
			w.Warmup = round2(min(100*warm/float64(w.to-w.from), 100))
		}
		s.Windows = append(s.Windows, w)
		n := min(w.to-w.from, buckets)
		s.Data.Windows = append(s.Data.Windows, windowData{
			Start: begin.UnixMilli(), Step: float64(w.to-w.from) * first.StepS * 1000 / float64(n), Need: greatest(need, n)})
	}
	for k, i := range order {
		s.Policies = append(s.Policies, s.policy(k, r, r.Policies[i], k < shownOpen))
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

// replicaScale fits a window to what the given policies hold in it.
func replicaScale(r *sim.Report, of []int, w window) (canvas, float64) {
	most := 0.0
	for _, i := range of {
		l := r.Policies[i].Timeline
		most = max(most, slices.Max(l.Need[w.from:w.to]), slices.Max(l.Ready[w.from:w.to]), slices.Max(l.Billed[w.from:w.to]))
	}
	top, step := niceTop(most)
	return canvas{height: mainHeight, top: top, scale: linear}, step
}

// queueScale fits the queues of the given policies: it is of square roots, so
// that short ones are seen beside long ones.
func queueScale(r *sim.Report, of []int) canvas {
	most := 4.0
	for _, i := range of {
		most = max(most, slices.Max(r.Policies[i].Timeline.Waiting))
	}
	return canvas{height: backHeight, top: math.Sqrt(roundUp(most)), scale: math.Sqrt}
}

// roundUp is the next of 4, 8, 12, 16, 20, 28, 40, 80, …: a quarter of each is
// round.
func roundUp(v float64) float64 {
	for unit := 1.0; ; unit *= 10 {
		for _, m := range []float64{4, 8, 12, 16, 20, 28} {
			if m*unit >= v {
				return m * unit
			}
		}
	}
}

// parts is what is drawn: the whole run, and what was hardest in it from near.
func parts(r *sim.Report, order []int, step time.Duration) []window {
	n := len(r.Policies[order[0]].Timeline.Need)
	long := time.Duration(n) * step
	out := []window{{Title: "The whole run", to: n}}
	at, why := hardest(r, order[:min(shownOpen, len(order))], int(r.WarmupS/step.Seconds()))
	c := clockOf(r.Trace)
	when := c.long(c.start.Add(time.Duration(at) * step))
	if long > 10*closeDay && step <= time.Hour {
		from := at - at%int(closeDay/step)
		from = min(from, n-int(closeDay/step))
		out = append(out, window{Title: capital(when) + ", " + why, from: from, to: from + int(closeDay/step)})
	}
	if long > 3*closeHours && step <= 5*time.Minute {
		w := int(closeHours / step)
		from := max(min(at-w*2/5, n-w), 0)
		out = append(out, window{Title: "Four hours of " + when + ", " + why, from: from, to: from + w})
	}
	return out
}

// hardest is when one of the given policies had its longest queue or, where
// none ever had one, when most work came; the part that is not scored is left
// out.
func hardest(r *sim.Report, of []int, scored int) (at int, why string) {
	longest := 0.0
	for _, i := range of {
		p := r.Policies[i]
		for k := scored; k < len(p.Timeline.Waiting); k++ {
			if v := p.Timeline.Waiting[k]; v > longest {
				at, longest = k, v
				why = fmt.Sprintf("when %s had its longest queue: %s requests", p.Name, short(v))
			}
		}
	}
	if longest > 0 {
		return at, why
	}
	need := r.Policies[of[0]].Timeline.Need
	for k := scored; k < len(need); k++ {
		if need[k] > need[at] || at < scored {
			at = k
		}
	}
	return at, "when most work came"
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
		most, back := max(slices.Max(ready), slices.Max(billed), w.main.top), w.back
		top := min(w.step*math.Ceil(most/w.step-1e-9), w.main.top*tallest)
		cut := ""
		if most > top {
			cut = short(most)
		}
		if q := math.Sqrt(slices.Max(l.Waiting)); q > back.top {
			back.top = math.Sqrt(roundUp(q * q)) // too long for the common scale
		}
		out.Charts = append(out.Charts, chart{
			Window: w, Alt: alt(p.Name, need, ready, waiting), Tall: round2(top / w.main.top), Cut: cut,
			YTicks: valueTicks(top, w.step), WaitTick: rootTicks(back.top * back.top),
			Covered: w.main.area(covered), Billed: w.main.area(billed), Ready: w.main.line(ready), Waiting: back.area(waiting)})
		n := min(w.to-w.from, buckets)
		d := &s.Data.Windows[k]
		d.Policies = append(d.Policies, policyData{Ready: least(ready, n), Billed: greatest(billed, n), Waiting: greatest(waiting, n)})
	}
	return out
}

// alt says a figure in a sentence, for those who do not see it.
func alt(name string, need, ready, waiting []float64) string {
	return fmt.Sprintf("%s: %s to %s replicas ready for work that needs %s to %s; at most %s requests waiting.", name,
		short(slices.Min(ready)), short(slices.Max(ready)), short(slices.Min(need)), short(slices.Max(need)), short(slices.Max(waiting)))
}

// greatest is the greatest value of each of n buckets, with three figures.
func greatest(v []float64, n int) []float64 {
	out := make([]float64, n)
	for b := range out {
		_, hi := span(v, b, n)
		out[b] = figures3(v[hi])
	}
	return out
}

// least is the least of each.
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
	if math.Abs(v) >= 100 {
		return math.Round(v)
	}
	return figures(v, 3)
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
