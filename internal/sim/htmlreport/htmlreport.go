// Package htmlreport draws a simulation's report as one HTML file that needs
// nothing else: no server, no network, no script to be readable.
//
// All figures are SVG, drawn here. Figures over time are stretched to the
// width of the page, and their labels are HTML beside them, so that letters
// keep their size on a phone; the cost-against-lateness figure, whose labels
// must keep clear of each other, is laid out twice, for wide and for narrow
// pages. A short script adds a cursor that reads the figures out, sorting of
// the table and a copy button; the file's own content security policy admits
// that script, by its hash, and no address at all.
//
// Long runs are thinned to the least and the greatest value of each pixel or
// so, which looks the same and bounds the file: sixty days of minutes of a
// dozen policies stay below two megabytes.
//
// The same report and options give the same bytes.
package htmlreport

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"errors"
	"fmt"
	"html/template"
	"io"
	"math"
	"slices"
	"strings"

	"github.com/gpupool/gpupool/internal/sim"
)

// Options is what a report shows besides what the simulation found.
type Options struct {
	// Command is the command line that made the report, to be shown as the
	// way to make it again. Empty leaves that section out.
	Command string
}

var (
	//go:embed page.html.tmpl
	pageText string
	//go:embed style.css
	styleText string
	//go:embed script.js
	scriptText string

	pageTemplate = template.Must(template.New("page").Parse(pageText))
)

// page is what the template shows, top to bottom.
type page struct {
	Title   string
	CSP     string
	Style   template.CSS
	Script  template.JS
	Trace   traceLine
	Verdict verdict
	Ladder  ladder
	Time    *timeSection  // nil where no policy has a timeline
	Front   *frontSection // nil where no policy has a cost
	KPI     kpiTable
	Scores  []forecastRow
	World   []fact
	Assume  []string
	Command string
}

// traceLine says in a few words what was replayed.
type traceLine struct {
	Name string
	Says string
}

// Write writes the report to w as one HTML file. It refuses, before it writes
// anything, a report without policies, one with a figure that is not a number,
// and one whose timelines do not fit each other.
func Write(w io.Writer, r *sim.Report, o Options) error {
	if err := check(r); err != nil {
		return fmt.Errorf("html report: %w", err)
	}
	t := r.Trace
	v := judge(r)
	p := page{
		Title:  t.Name,
		Style:  template.CSS(styleText),
		Script: template.JS(scriptText),
		CSP:    policyFor(scriptText),
		Trace: traceLine{Name: t.Name, Says: fmt.Sprintf("%s requests in %s, %s a minute in the mean and %s at the peak",
			short(t.Requests), days(t.Days), short(t.MeanPerMin), short(t.MaxPerMin))},
		Verdict: v,
		Ladder:  newLadder(r, v),
		Time:    newTimeSection(r),
		Front:   newFrontSection(r),
		KPI:     newKPITable(r, v),
		Scores:  forecastRows(r),
		World:   world(r),
		Assume:  r.Assumptions,
		Command: o.Command,
	}
	var out bytes.Buffer
	if err := pageTemplate.Execute(&out, p); err != nil {
		return fmt.Errorf("html report: %w", err)
	}
	if _, err := w.Write(out.Bytes()); err != nil {
		return fmt.Errorf("write html report: %w", err)
	}
	return nil
}

// policyFor is the content security policy of a page whose only script is the
// given one: nothing may be fetched from anywhere.
func policyFor(script string) string {
	sum := sha256.Sum256([]byte(script))
	return "default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
		"'; base-uri 'none'; form-action 'none'"
}

// check reports all that keeps a report from being drawn.
func check(r *sim.Report) error {
	if r == nil || len(r.Policies) == 0 {
		return errors.New("there is no policy in the report: simulate at least one")
	}
	var errs []error
	bad := func(policy, what string) {
		errs = append(errs, fmt.Errorf("policy %q: %s", policy, what))
	}
	var first *sim.Timeline
	for _, p := range r.Policies {
		if !finite(p.GPUHours, p.CostRatio, p.Attainment, p.WorstDay, p.WaitP50S, p.WaitP95S, p.WaitP99S, p.Utilization,
			p.MaxBacklog, p.EnergyKWh, p.Cost, p.Requests) {
			bad(p.Name, "a figure is not a number")
		}
		for _, f := range p.Front {
			if !finite(f.Knob, f.GPUHours, f.CostRatio, f.Attainment) {
				bad(p.Name, "a figure of its front is not a number")
				break
			}
		}
		l := p.Timeline
		if l == nil {
			continue
		}
		if first == nil {
			first = l
		}
		n := len(first.Need)
		switch {
		case !(l.StepS > 0) || math.IsInf(l.StepS, 0):
			bad(p.Name, fmt.Sprintf("the step of its timeline is %g s: must be above 0", l.StepS))
		case l.StepS != first.StepS:
			bad(p.Name, fmt.Sprintf("the step of its timeline is %g s where another's is %g s", l.StepS, first.StepS))
		case len(l.Need) != n || len(l.Ready) != n || len(l.Billed) != n || len(l.Waiting) != n:
			bad(p.Name, fmt.Sprintf("its timeline has %d, %d, %d and %d values of need, ready, billed and waiting: all must be %d",
				len(l.Need), len(l.Ready), len(l.Billed), len(l.Waiting), n))
		case !finite(l.Need...) || !finite(l.Ready...) || !finite(l.Billed...) || !finite(l.Waiting...):
			bad(p.Name, "a value of its timeline is not a number")
		}
	}
	return errors.Join(errs...)
}

func finite(v ...float64) bool {
	return !slices.ContainsFunc(v, func(x float64) bool { return math.IsNaN(x) || math.IsInf(x, 0) })
}

// drawn is whether a report has anything to draw over time for the policy.
func drawn(p sim.PolicyReport) bool { return p.Timeline != nil && len(p.Timeline.Need) > 1 }

// list joins names as a sentence does: "a, b and c".
func list(names []string) string {
	switch n := len(names); n {
	case 0:
		return ""
	case 1:
		return names[0]
	default:
		return strings.Join(names[:n-1], ", ") + " and " + names[n-1]
	}
}
