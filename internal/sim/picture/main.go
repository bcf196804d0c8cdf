// Command picture draws what the strategy does on demand that is generated: a
// morning that it foresees, and a burst that it cannot. Given the record of the
// end-to-end test e2e/day, it draws that.
//
//	go run ./internal/sim/picture > docs/concepts/strategy.svg
//	go run ./internal/sim/picture docs/concepts/day.csv > docs/concepts/day.svg
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/gpupool/gpupool/internal/sim"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "picture:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	var p picture
	var err error
	switch len(args) {
	case 0:
		p, err = generated()
	case 1:
		p, err = readRecord(args[0])
	default:
		err = errors.New("give one record, or none")
	}
	if err != nil {
		return err
	}
	return p.draw(out)
}

// picture is panels, one below the other, of the same lines.
type picture struct {
	panels []panel
	lines  []line
}

// panel is a stretch of the lines.
type panel struct {
	title    string
	from, to int              // steps
	every    int              // steps between labels
	label    func(int) string // of a step
}

// line is one curve: replicas at each step, of which none is left out.
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

// generated is the third day, when the strategy knows two mornings, and a burst
// on the fourth.
func generated() (picture, error) {
	const burst = 3*24*60 + 11*60 // minute of the trace
	t := sim.Generate(sim.Shape{Name: "generated", Days: 4, Mean: 900, Day: 0.85, Noise: 4}, 3)
	for i := range 30 {
		t.Arrivals[burst+i] *= 1.5
	}
	w, err := sim.NewWorld(sim.Config{Timeline: stepSeconds * time.Second}, t)
	if err != nil {
		return picture{}, err
	}
	lines, err := lines(w)
	if err != nil {
		return picture{}, err
	}
	clock := func(i int) string { return fmt.Sprintf("%02d:%02d", i/60%24, i%60) }
	return picture{[]panel{
		{"The third morning: capacity that takes five minutes to start is there before it is needed", (2*24 + 4) * 60, (2*24 + 11) * 60, 60, clock},
		{"A burst that nothing announced, on the fourth day: met when it shows, more is added than it shows, kept for a while", burst - 30, burst + 90, 30, clock},
	}, lines}, nil
}

// draw writes the picture.
func (p picture) draw(out io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12" role="img" aria-label="Demand and ready replicas">`+"\n", width, len(p.panels)*height)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#ffffff"/>`+"\n", width, len(p.panels)*height)
	for i, one := range p.panels {
		fmt.Fprintf(&b, `<g transform="translate(0 %d)">`+"\n", i*height)
		one.draw(&b, p.lines)
		b.WriteString("</g>\n")
	}
	b.WriteString("</svg>\n")
	_, err := io.WriteString(out, b.String())
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
	from, to := p.from, p.to
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
	every := 2.0
	switch {
	case most > 60:
		every = 20
	case most > 20:
		every = 10
	}
	for v := 0.0; v <= most; v += every {
		fmt.Fprintf(b, `<path d="M%d %.1fH%d" stroke="#e5e9ee"/><text x="%d" y="%.1f" text-anchor="end" fill="#556">%.0f</text>`+"\n", left, y(v), width-right, left-6, y(v)+4, v)
	}
	for i := (from + p.every - 1) / p.every * p.every; i <= to; i += p.every {
		fmt.Fprintf(b, `<text x="%.1f" y="%d" text-anchor="middle" fill="#556">%s</text>`+"\n", x(i), height-bottom+18, p.label(i))
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
