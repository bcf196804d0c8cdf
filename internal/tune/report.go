package tune

import (
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/gpupool/gpupool/internal/digits"
	"github.com/gpupool/gpupool/internal/plan"
	"github.com/gpupool/gpupool/internal/sim"
)

// Report is what a search found. Its JSON form is a stable interface, described
// in docs/reference/tune.md: members are added, never renamed or removed.
type Report struct {
	Traces   []sim.TraceInfo `json:"traces"`
	LeadS    float64         `json:"lead_s"` // of a cold start: hosts included
	Peak     float64         `json:"peak"`
	Slots    int             `json:"slots"`
	SLOWaitS float64         `json:"slo_wait_s"`
	SLO      float64         `json:"slo"`
	WarmupS  float64         `json:"warmup_s"` // of each trace at least
	Seed     uint64          `json:"seed"`

	Parameters  []Parameter `json:"parameters"`
	Budget      int         `json:"budget"`
	Tried       int         `json:"tried"`       // settings tried on some days
	TriedWhole  int         `json:"tried_whole"` // of them, on all days
	Interrupted bool        `json:"interrupted"` // the figures may be of a part of the days

	Default Point   `json:"default"` // the policy as it comes
	Chosen  Point   `json:"chosen"`  // the cheapest that keeps the SLO and carries over, or what comes closest
	Front   []Point `json:"front"`   // of predictive, in ascending cost
	// TrackingQueue is the strongest rule without a forecast, at each value
	// of its knob.
	TrackingQueue []Point `json:"tracking_queue"`
	Static        *Static `json:"static,omitempty"` // absent where no size up to the maximum keeps the SLO

	HeldOut  *HeldOut `json:"held_out,omitempty"` // absent where nothing could be left out
	Advice   Advice   `json:"advice"`
	Warnings []string `json:"warnings,omitempty"`
	// Assumptions are the sentences a reader must know to judge the figures.
	Assumptions []string `json:"assumptions"`

	rules   plan.Rules
	doubted bool // the cheapest setting did not carry over, and the defaults were chosen
}

// Parameter is what was searched of a setting.
type Parameter struct {
	Key  string  `json:"key"`
	Low  float64 `json:"low"`
	High float64 `json:"high"`
	Unit string  `json:"unit"`
}

// Point is one setting: the keys that it sets, none for a policy as it comes.
type Point struct {
	Settings map[string]string `json:"settings"`
	Figures
}

// Static is the smallest pool of a fixed size that keeps the SLO.
type Static struct {
	Count int `json:"count"`
	Figures
}

// Do is what an operator is advised to do.
type Do string

// The pieces of advice.
const (
	DoTune     Do = "tune"     // use the chosen settings
	DoDefaults Do = "defaults" // leave the settings alone
	DoHold     Do = "hold"     // do not scale
	DoNothing  Do = "none"     // nothing keeps the SLO
)

// Advice is what to do, and why.
type Advice struct {
	Do    Do     `json:"do"`
	Count int    `json:"count,omitempty"` // with "hold"
	Why   string `json:"why"`
}

func (t *tuner) report(budget int) *Report {
	c := t.config
	r := &Report{LeadS: (c.Lead + c.Hosts.Boot).Seconds(), Peak: c.Peak, Slots: c.Slots, SLOWaitS: c.SLOWait.Seconds(), SLO: c.SLO,
		WarmupS: c.Warmup.Seconds(), Seed: c.Seed, Budget: budget, rules: t.rules}
	for i, w := range t.worlds {
		r.Traces = append(r.Traces, t.traces[i].Info())
		r.WarmupS = min(r.WarmupS, w.Config().Warmup.Seconds())
		for _, n := range t.traces[i].Notes {
			r.Assumptions = append(r.Assumptions, t.traces[i].Name+": "+n)
		}
	}
	for _, p := range params {
		r.Parameters = append(r.Parameters, Parameter{p.Key, p.Low, p.High, p.About})
	}
	r.Assumptions = append(r.Assumptions,
		fmt.Sprintf("A GPU-hour costs %g and a start %g besides.", c.Price, c.CyclePrice),
		"Costs are of all traces together; on time is the share of the trace where it is least.",
		"Whoever sized the pool that never changes knew the demand; nothing else did.")
	return r
}

// judge makes of the candidates what the operator wants to know.
func (t *tuner) judge(r *Report, found Outcome) {
	all := found.Candidates
	figures, points := make([]Figures, len(all)), make([]point, len(all))
	among := make([]int, len(all))
	for i, c := range all {
		figures[i], among[i] = c.Figures, i
		points[i] = point{c.Figures.Cost, 1 - c.Figures.Attainment}
	}
	at := func(i int) Point { return Point{all[i].Setting.texts(params, t.rules), figures[i]} }
	chosen := t.aim.choose(figures)
	r.Default, r.Chosen = at(0), at(chosen)
	for _, i := range front(points, among) {
		if points[i].late <= worthShowing*(1-t.aim.SLO) {
			r.Front = append(r.Front, at(i))
		}
	}
	r.Tried = found.Tried
	if r.Interrupted {
		r.Warnings = append(r.Warnings, fmt.Sprintf("interrupted: of the %d settings that were to be tried, %d were compared, on %d days", r.Budget, len(all)-1, r.Chosen.Days))
	}
	if found.Whole {
		r.TriedWhole = len(all) - 1
		t.validate(r, all)
	}
	r.Advice = t.advice(r, found.Whole)
	if q, ok := t.cheapest(r.TrackingQueue); ok && found.Whole && q.Cost < (1-closeEnough)*r.Chosen.Cost && r.Advice.Do != DoHold {
		r.Warnings = append(r.Warnings, fmt.Sprintf("tracking-queue with utilization %s keeps %s for %s: on this demand the forecast does not pay for itself",
			q.Settings[queueRule().Knob.Name], percent(t.aim.SLO), money(q.Cost)))
	}
}

// worthShowing is the lateness, over the allowed one, beyond which a point of
// the front is of no use to anyone.
const worthShowing = 8

func (t *tuner) validate(r *Report, all []Candidate) {
	r.HeldOut = t.aim.heldOut(all)
	if r.HeldOut == nil {
		r.Warnings = append(r.Warnings, "one day is too little to see whether the choice carries over to others")
		return
	}
	for i, f := range r.HeldOut.Folds {
		r.HeldOut.Folds[i].Settings = all[f.choice].Setting.texts(params, t.rules)
	}
	if r.HeldOut.Unit == "day" {
		r.Assumptions = append(r.Assumptions, "The demand is of less than two weeks, so days were left out instead of weeks: what differs between weeks is not seen.")
	}
	doubts := t.aim.warnings(r.HeldOut)
	r.Warnings = append(r.Warnings, doubts...)
	if len(doubts) > 0 && len(r.Chosen.Settings) > 0 && t.aim.keeps(r.Default.Figures) {
		r.Chosen, r.doubted = r.Default, true
	}
}

// cheapest is the cheapest of the points that keep the SLO.
func (t *tuner) cheapest(points []Point) (best Point, ok bool) {
	for _, p := range points {
		if t.aim.keeps(p.Figures) && (!ok || p.Cost < best.Cost) {
			best, ok = p, true
		}
	}
	return best, ok
}

func (t *tuner) advice(r *Report, whole bool) Advice {
	slo, lead := percent(t.aim.SLO), short(time.Duration(r.LeadS*float64(time.Second)))
	scaling, keeps := t.cheapest(append([]Point{r.Chosen}, r.TrackingQueue...))
	if !whole && t.aim.keeps(r.Chosen.Figures) {
		// Figures of some days do not compare with those of all.
		return Advice{Do: DoTune, Why: "best so far; too little was tried to say more"}
	}
	switch s := r.Static; {
	case s != nil && !keeps:
		return Advice{DoHold, s.Count, fmt.Sprintf("autoscaling cannot pay here at this cold start of %s: nothing that scales kept %s on time; hold %d, for %s", lead, slo, s.Count, money(s.Cost))}
	case s != nil && s.Cost <= scaling.Cost:
		return Advice{DoHold, s.Count, fmt.Sprintf("autoscaling cannot pay here at this cold start of %s: the cheapest that scales and keeps %s costs %s; hold %d, for %s", lead, slo, money(scaling.Cost), s.Count, money(s.Cost))}
	case !t.aim.keeps(r.Chosen.Figures):
		return Advice{Do: DoNothing, Why: fmt.Sprintf("no setting kept %s on time; the closest reached %s", slo, percent(r.Chosen.Attainment))}
	case r.doubted:
		return Advice{Do: DoDefaults, Why: fmt.Sprintf("keep the defaults: they keep %s, and what looked cheaper does not carry over to %ss that it was not chosen by", slo, r.HeldOut.Unit)}
	case len(r.Chosen.Settings) == 0:
		return Advice{Do: DoDefaults, Why: fmt.Sprintf("nothing that was tried and keeps %s is more than %g %% cheaper than the defaults", slo, 100*closeEnough)}
	case !t.aim.keeps(r.Default.Figures):
		return Advice{Do: DoTune, Why: fmt.Sprintf("the defaults keep %s on time, short of %s; the chosen settings keep it for %s", percent(r.Default.Attainment), slo, money(r.Chosen.Cost))}
	}
	return Advice{Do: DoTune, Why: fmt.Sprintf("the chosen settings keep %s for %.1f %% less than the defaults", slo, 100*(1-r.Chosen.Cost/r.Default.Cost))}
}

// WriteJSON writes the report as indented JSON. Its figures have the digits that
// are the same on any machine.
func (r *Report) WriteJSON(w io.Writer) error { return digits.WriteJSON(w, r) }

// WriteText writes the report for people.
func (r *Report) WriteText(w io.Writer) error {
	var b strings.Builder
	for _, t := range r.Traces {
		fmt.Fprintf(&b, "%s: %.3g requests in %.3g days\n", t.Name, t.Requests, t.Days)
	}
	fmt.Fprintf(&b, "a replica starts in %s; the p99.9 minute keeps %g busy; on time: %s of requests wait at most %gs\n", short(time.Duration(r.LeadS)*time.Second), r.Peak, percent(r.SLO), r.SLOWaitS)
	fmt.Fprintf(&b, "%d settings tried, %d of them on all days; seed %d\n\n", r.Tried, r.TriedWhole, r.Seed)
	r.table(&b)
	fmt.Fprintf(&b, "\n%s\n", r.Advice.sentence())
	if h := r.HeldOut; h != nil {
		short := ""
		if r.keeps(h.Tuned) && !r.keeps(h.Held) {
			short = fmt.Sprintf(", short of %s", percent(r.SLO))
		}
		fmt.Fprintf(&b, "Chosen by all but one %s and judged on that, in turn: cost %s, %s on time%s, worst day %s.\n", h.Unit,
			money(h.Held.Cost), percent(h.Held.Attainment), short, percent(h.Held.WorstDay))
	}
	for _, s := range r.Warnings {
		fmt.Fprintf(&b, "warning: %s\n", s)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (r *Report) keeps(f Figures) bool { return Aim{SLO: r.SLO}.keeps(f) }

func (a Advice) sentence() string { return strings.ToUpper(a.Why[:1]) + a.Why[1:] + "." }

// table writes the front of predictive and, beside it, the rest.
func (r *Report) table(b *strings.Builder) {
	var rows strings.Builder
	rows.WriteString("\tcost\tGPU-hours\tstarts\ton time\tworst day\t  ")
	for _, p := range r.Parameters {
		rows.WriteString("\t" + p.Key)
	}
	rows.WriteString("\t\n")
	row := func(name string, f Figures, settings map[string]string) {
		mark := ""
		if !r.keeps(f) {
			mark = " *"
		}
		fmt.Fprintf(&rows, "%s\t%s\t%.0f\t%d\t%s\t%s\t%s", name, money(f.Cost), f.GPUHours, f.PowerCycles, percent(f.Attainment), percent(f.WorstDay), mark)
		for _, p := range r.Parameters {
			rows.WriteString("\t" + settings[p.Key])
		}
		rows.WriteString("\t\n")
	}
	own := func(p Point) {
		name := "predictive"
		if len(p.Settings) == 0 {
			name += ", defaults"
		}
		if maps.Equal(p.Settings, r.Chosen.Settings) {
			name = "chosen: " + name
		}
		row(name, p.Figures, p.Settings)
	}
	onFront := false
	for _, p := range r.Front {
		onFront = onFront || len(p.Settings) == 0
		own(p)
	}
	if !onFront {
		own(r.Default)
	}
	beside := func(f Figures) bool { return f.Days == r.Default.Days } // not after an interrupt
	for _, p := range r.TrackingQueue {
		if beside(p.Figures) && 1-p.Attainment <= worthShowing*(1-r.SLO) {
			row("tracking-queue", p.Figures, p.Settings)
		}
	}
	if s := r.Static; s != nil && beside(s.Figures) {
		row(fmt.Sprintf("hold %d", s.Count), s.Figures, nil)
	}
	tw := tabwriter.NewWriter(b, 0, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = io.WriteString(tw, rows.String()) // a Builder takes all that is written
	_ = tw.Flush()
	if strings.Contains(rows.String(), " *") {
		fmt.Fprintf(b, "* fewer than %s on time\n", percent(r.SLO))
	}
}

// keys is the keys that a point sets, in the order of the parameters.
func (r *Report) keys(p Point) []string {
	order := func(k string) int {
		return slices.IndexFunc(r.Parameters, func(q Parameter) bool { return q.Key == k })
	}
	return slices.SortedFunc(maps.Keys(p.Settings), func(a, b string) int { return order(a) - order(b) })
}

// percent never rounds up to 100 %: "100.00%" is every single one.
func percent(v float64) string { return fmt.Sprintf("%.2f%%", math.Floor(v*1e4+1e-9)/100) }

func money(v float64) string { return fmt.Sprintf("%.0f", v) }
