package sim

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/gpupool/gpupool/internal/digits"
)

// Report is what a simulation found: one trace, one world, several policies.
// Its JSON form is a stable interface, described in docs/reference/simulate.md:
// fields are added, never renamed or removed.
type Report struct {
	Trace    TraceInfo      `json:"trace"`
	World    string         `json:"world"` // "fluid" or "requests"
	LeadS    float64        `json:"lead_s"`
	Peak     float64        `json:"peak"`
	Slots    int            `json:"slots"`
	SLOWaitS float64        `json:"slo_wait_s"`
	SLO      float64        `json:"slo"`
	WarmupS  float64        `json:"warmup_s"`
	ServiceS float64        `json:"service_s"` // mean seconds that a request holds a slot
	Seed     uint64         `json:"seed"`
	Bound    Bound          `json:"bound"`
	Policies []PolicyReport `json:"policies"`

	// Assumptions are the sentences a reader must know to judge the figures.
	Assumptions []string `json:"assumptions"`

	// Config is the world's config with the defaults filled in, for reports
	// that list all of it.
	Config Config `json:"-"`
}

// TraceInfo describes the demand that was replayed.
type TraceInfo struct {
	Name       string    `json:"name"`
	Start      time.Time `json:"start"`
	Days       float64   `json:"days"`
	Requests   float64   `json:"requests"`
	MeanPerMin float64   `json:"mean_per_min"`
	MaxPerMin  float64   `json:"max_per_min"`
	P999PerMin float64   `json:"p999_per_min"`
}

// Bound is the least that any policy could have paid for the wanted
// attainment, even one that knew the future.
type Bound struct {
	GPUHours   float64 `json:"gpu_hours"`
	Attainment float64 `json:"attainment"` // the share on time that it is for
}

// PolicyReport is what one policy did in the scored part of the trace.
type PolicyReport struct {
	Name       string  `json:"name"`
	About      string  `json:"about,omitempty"`
	Knob       string  `json:"knob,omitempty"`
	KnobValue  float64 `json:"knob_value,omitempty"`
	GPUHours   float64 `json:"gpu_hours"`  // from start command to power-off: boot and drain included
	CostRatio  float64 `json:"cost_ratio"` // GPUHours over the bound's
	Requests   float64 `json:"requests"`   // that were scored
	Attainment float64 `json:"attainment"` // share of requests that waited no longer than slo_wait_s
	WorstDay   float64 `json:"worst_day_attainment"`
	WaitP50S   float64 `json:"wait_p50_s"`
	WaitP95S   float64 `json:"wait_p95_s"`
	WaitP99S   float64 `json:"wait_p99_s"`
	// Utilization is the busy share of the slots of all billed replicas.
	Utilization float64 `json:"utilization"`
	PowerCycles int     `json:"power_cycles"` // start commands
	MaxBacklog  float64 `json:"max_backlog"`  // most requests that waited at once
	EnergyKWh   float64 `json:"energy_kwh"`
	Cost        float64 `json:"cost"` // GPU-hours and power cycles at their prices

	Classes  []ClassReport `json:"classes,omitempty"`  // where there are price classes
	Forecast *Forecast     `json:"forecast,omitempty"` // of policies that forecast
	Front    []FrontPoint  `json:"front,omitempty"`
	Timeline *Timeline     `json:"timeline,omitempty"`
	Days     []Day         `json:"-"`
}

// Day is what a policy did on one day of the trace, counted from 0. Only what
// is scored is in it; over all days it adds up to the report.
type Day struct {
	Day         int
	GPUHours    float64
	PowerCycles int
	Requests    float64 // that arrived on this day
	Late        float64 // of them
}

// Forecast scores a policy's forecasts against what came.
type Forecast struct {
	Quantile float64 `json:"quantile"` // mean quantile that was asked for
	Pinball  float64 `json:"pinball"`  // mean pinball loss at it, in units
	Coverage float64 `json:"coverage"` // share of forecasts that what came did not exceed
	Count    int     `json:"count"`
}

// FrontPoint is a policy's result at one value of its knob.
type FrontPoint struct {
	Knob       float64 `json:"knob"`
	GPUHours   float64 `json:"gpu_hours"`
	CostRatio  float64 `json:"cost_ratio"`
	Attainment float64 `json:"attainment"`
	WorstDay   float64 `json:"worst_day_attainment"`
}

// CostAt is the cost ratio at which the policy reaches the attainment on its
// front, by a line between the two nearest points; ok is false where it never
// does. Policies compare at equal attainment, and only there.
func (p PolicyReport) CostAt(attainment float64) (ratio float64, ok bool) {
	points := slices.Clone(p.Front)
	slices.SortFunc(points, func(a, b FrontPoint) int { return cmp.Compare(a.CostRatio, b.CostRatio) })
	var below *FrontPoint // the best of those that are cheaper and do not reach it
	for i, f := range points {
		if f.Attainment < attainment {
			if below == nil || f.Attainment > below.Attainment {
				below = &points[i]
			}
			continue
		}
		if below == nil {
			return f.CostRatio, true
		}
		share := (attainment - below.Attainment) / (f.Attainment - below.Attainment)
		return below.CostRatio + share*(f.CostRatio-below.CostRatio), true
	}
	return 0, false
}

// Timeline is a run in equal steps, for drawing. It covers the whole trace,
// warm-up included.
type Timeline struct {
	StepS   float64   `json:"step_s"`
	Need    []float64 `json:"need"`    // replicas that the arriving work keeps busy, mean
	Ready   []float64 `json:"ready"`   // replicas that take work, mean
	Billed  []float64 `json:"billed"`  // replicas paid for, mean
	Waiting []float64 `json:"waiting"` // requests that wait, most
}

// WriteJSON writes the report as indented JSON. Its figures have the digits that
// are the same on any machine.
func (r *Report) WriteJSON(w io.Writer) error { return digits.WriteJSON(w, r) }

// WriteText writes the report as a table for people.
func (r *Report) WriteText(w io.Writer) error {
	var b strings.Builder
	t := r.Trace
	fmt.Fprintf(&b, "%s: %s requests in %s, mean %s a minute, peak minute %s\n", t.Name, count(t.Requests), days(t.Days),
		count(t.MeanPerMin), count(t.MaxPerMin))
	fmt.Fprintf(&b, "a replica starts in %s and serves %d requests at once, %s each; the p99.9 minute keeps %s busy\n",
		seconds(r.LeadS), r.Slots, seconds(r.ServiceS), count(r.Peak))
	fmt.Fprintf(&b, "on time: %s of requests wait at most %s; the first %s is not scored; %s world, seed %d\n\n",
		percent(r.SLO), seconds(r.SLOWaitS), seconds(r.WarmupS), r.World, r.Seed)
	r.table(&b)
	r.classes(&b)
	r.fronts(&b)
	_, err := io.WriteString(w, b.String())
	return err
}

// table writes a row for each policy.
func (r *Report) table(b *strings.Builder) {
	var rows strings.Builder
	rows.WriteString("policy\tGPU-hours\tx bound\ton time\tworst day\tp50\tp95\tp99 wait\tbusy\tstarts\tmax queue\tkWh\tcost\t\n")
	fmt.Fprintf(&rows, "lower bound\t%.0f\t1.00\t%s\t\t\t\t\t\t\t\t\t\t\n", r.Bound.GPUHours, percent(r.Bound.Attainment))
	late := false
	for _, p := range r.Policies {
		mark := ""
		if p.Attainment < r.SLO {
			mark, late = " *", true
		}
		fmt.Fprintf(&rows, "%s\t%.0f\t%.2f\t%s\t%s\t%s\t%s\t%s\t%.0f%%\t%d\t%s\t%.0f\t%.0f\t%s\n", p.Name, p.GPUHours, p.CostRatio,
			percent(p.Attainment), percent(p.WorstDay), seconds(p.WaitP50S), seconds(p.WaitP95S), seconds(p.WaitP99S),
			100*p.Utilization, p.PowerCycles, count(p.MaxBacklog), p.EnergyKWh, p.Cost, mark)
	}
	align(b, rows.String())
	if late {
		fmt.Fprintf(b, "\n* fewer than %s on time: its cost does not compare with those that kept it\n", percent(r.SLO))
	}
}

// classes writes what each policy had of each price class.
func (r *Report) classes(b *strings.Builder) {
	var rows strings.Builder
	for _, p := range r.Policies {
		for _, c := range p.Classes {
			fmt.Fprintf(&rows, "%s\t%s\t%.0f\t%.0f\t%d\t\n", p.Name, c.Name, c.GPUHours, c.Cost, c.Interruptions)
		}
	}
	if rows.Len() > 0 {
		b.WriteString("\nby price class:\n")
		align(b, "policy\tclass\tGPU-hours\tcost\tinterruptions\t\n"+rows.String())
	}
}

// fronts writes a table for each policy whose knob was swept.
func (r *Report) fronts(b *strings.Builder) {
	for _, p := range r.Policies {
		if len(p.Front) == 0 {
			continue
		}
		fmt.Fprintf(b, "\n%s by %s:\n", p.Name, p.Knob)
		var rows strings.Builder
		fmt.Fprintf(&rows, "%s\tGPU-hours\tx bound\ton time\tworst day\t\n", p.Knob)
		for _, f := range p.Front {
			fmt.Fprintf(&rows, "%g\t%.0f\t%.2f\t%s\t%s\t\n", f.Knob, f.GPUHours, f.CostRatio, percent(f.Attainment), percent(f.WorstDay))
		}
		align(b, rows.String())
	}
}

// align writes cells that end in tabs as columns, flush right. A Builder takes
// all that is written to it, so there is no error to look at.
func align(b *strings.Builder, rows string) {
	tw := tabwriter.NewWriter(b, 0, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = io.WriteString(tw, rows)
	_ = tw.Flush()
}

// percent never rounds up to 100 %: "100.00%" is every single one.
func percent(v float64) string {
	return fmt.Sprintf("%.2f%%", math.Floor(v*1e4+1e-9)/100)
}

func seconds(s float64) string {
	d := time.Duration(s * float64(time.Second))
	switch {
	case d == 0:
		return "0s"
	case d < 100*time.Millisecond:
		d = d.Round(time.Millisecond)
	case d < 10*time.Second:
		d = d.Round(100 * time.Millisecond)
	default:
		d = d.Round(time.Second)
	}
	out := d.String()
	if strings.HasSuffix(out, "m0s") {
		out = strings.TrimSuffix(out, "0s")
	}
	if strings.HasSuffix(out, "h0m") {
		out = strings.TrimSuffix(out, "0m")
	}
	return out
}

func days(d float64) string {
	switch {
	case d >= 2:
		return fmt.Sprintf("%.3g days", d)
	case d*24 >= 2:
		return fmt.Sprintf("%.3g hours", d*24)
	}
	return fmt.Sprintf("%.3g minutes", d*24*60)
}

// count is a number with three figures and a thousand's letter.
func count(v float64) string {
	for _, u := range []struct {
		over float64
		name string
	}{{1e9, " G"}, {1e6, " M"}, {1e4, " k"}} {
		if v >= u.over {
			scale := u.over
			if u.name == " k" {
				scale = 1e3
			}
			return fmt.Sprintf("%.3g%s", v/scale, u.name)
		}
	}
	if v < 10 {
		return fmt.Sprintf("%.2g", v)
	}
	return fmt.Sprintf("%.0f", v)
}
