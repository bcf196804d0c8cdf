// Command picture draws what the strategy does on demand that is generated: a
// morning that it foresees, and a burst that it cannot.
//
//	go run ./internal/sim/picture > docs/concepts/strategy.svg
package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/gpupool/gpupool/internal/sim"
)

func main() {
	if err := draw(os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "picture:", err)
		os.Exit(1)
	}
}

// panel is a stretch of the trace.
type panel struct {
	title    string
	from, to time.Duration // since the start of the trace
}

// line is one curve: replicas at each step.
type line struct {
	label, colour string
	values        []float64
	wide          float64
	steps         bool // as a staircase
}

const (
	width, height = 860, 300 // of a panel
	left, right   = 48, 20
	top, bottom   = 44, 34
	stepSeconds   = 60
)

// draw writes the picture. The third day is shown, when the strategy knows two
// mornings; the burst comes on the fourth.
func draw(out io.Writer) error {
	const burst = 3*24*60 + 11*60 // minute of the trace
	t := sim.Generate(sim.Shape{Name: "generated", Days: 4, Mean: 900, Day: 0.85, Noise: 4}, 3)
	for i := range 30 {
		t.Arrivals[burst+i] *= 1.5
	}
	w, err := sim.NewWorld(sim.Config{Timeline: stepSeconds * time.Second}, t)
	if err != nil {
		return err
	}
	lines, err := lines(w)
	if err != nil {
		return err
	}
	panels := []panel{
		{"The third morning: capacity that takes five minutes to start is there before it is needed", 2*24*time.Hour + 4*time.Hour, 2*24*time.Hour + 11*time.Hour},
		{"A burst that nothing announced, on the fourth day: met when it shows, more is added than it shows, kept for a while", burst*time.Minute - 30*time.Minute, burst*time.Minute + 90*time.Minute},
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12" role="img" aria-label="Demand and ready replicas">`+"\n", width, 2*height)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#ffffff"/>`+"\n", width, 2*height)
	for i, p := range panels {
		fmt.Fprintf(&b, `<g transform="translate(0 %d)">`+"\n", i*height)
		p.draw(&b, lines)
		b.WriteString("</g>\n")
	}
	b.WriteString("</svg>\n")
	_, err = io.WriteString(out, b.String())
	return err
}

// lines are the demand and what serves under each of two policies.
func lines(w *sim.World) (all []line, err error) {
	for _, p := range []struct{ name, colour string }{{"predictive", "#0b6e4f"}, {"nomad-target-value", "#c2542d"}} {
		spec, ok := sim.Lookup(p.name)
		if !ok {
			return nil, fmt.Errorf("there is no policy %s", p.name)
		}
		r := w.Run(spec, spec.Knob.Default)
		if all == nil {
			all = append(all, line{"needed", "#9aa5b1", r.Timeline.Need, 1, false})
		}
		all = append(all, line{"ready, " + p.name, p.colour, r.Timeline.Ready, 2, true})
	}
	return all, nil
}

func (p panel) draw(b *strings.Builder, all []line) {
	from, to := int(p.from.Seconds())/stepSeconds, int(p.to.Seconds())/stepSeconds
	most := 1.0
	for _, l := range all {
		for _, v := range l.values[from:to] {
			most = max(most, v)
		}
	}
	most *= 1.05
	x := func(i int) float64 { return left + float64(i-from)/float64(to-from)*(width-left-right) }
	y := func(v float64) float64 { return height - bottom - v/most*(height-top-bottom) }
	fmt.Fprintf(b, `<text x="%d" y="18" font-weight="bold">%s</text>`+"\n", left, p.title)
	every := 10.0
	if most > 60 {
		every = 20
	}
	for v := 0.0; v <= most; v += every {
		fmt.Fprintf(b, `<path d="M%d %.1fH%d" stroke="#e5e9ee"/><text x="%d" y="%.1f" text-anchor="end" fill="#556">%.0f</text>`+"\n", left, y(v), width-right, left-6, y(v)+4, v)
	}
	hours := max((to-from)/60/7, 1) * 60
	if to-from <= 150 {
		hours = 30
	}
	for i := (from + hours - 1) / hours * hours; i <= to; i += hours {
		fmt.Fprintf(b, `<text x="%.1f" y="%d" text-anchor="middle" fill="#556">%02d:%02d</text>`+"\n", x(i), height-bottom+18, i/60%24, i%60)
	}
	at := left
	for _, l := range all {
		fmt.Fprintf(b, `<path d="%s" fill="none" stroke="%s" stroke-width="%g"/>`+"\n", l.path(from, to, x, y), l.colour, l.wide)
		fmt.Fprintf(b, `<path d="M%d 32h18" stroke="%s" stroke-width="%g"/><text x="%d" y="36">%s</text>`+"\n", at, l.colour, l.wide+1, at+24, l.label)
		at += 44 + 7*len(l.label)
	}
}

func (l line) path(from, to int, x func(int) float64, y func(float64) float64) string {
	var b strings.Builder
	fmt.Fprintf(&b, "M%.1f %.1f", x(from), y(l.values[from]))
	for i := from + 1; i < to; i++ {
		switch {
		case !l.steps:
			fmt.Fprintf(&b, "L%.1f %.1f", x(i), y(l.values[i]))
		case l.values[i] != l.values[i-1]:
			fmt.Fprintf(&b, "H%.1fV%.1f", x(i), y(l.values[i]))
		}
	}
	if l.steps {
		fmt.Fprintf(&b, "H%.1f", x(to))
	}
	return b.String()
}
