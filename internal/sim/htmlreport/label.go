package htmlreport

import (
	"fmt"
	"math"
	"slices"
)

// box is a rectangle on a figure.
type box struct{ x0, y0, x1, y1 float64 }

// overlap is the area that two boxes share.
func (b box) overlap(c box) float64 {
	w, h := min(b.x1, c.x1)-max(b.x0, c.x0), min(b.y1, c.y1)-max(b.y0, c.y0)
	if w <= 0 || h <= 0 {
		return 0
	}
	return w * h
}

func (b box) outside(c box) float64 {
	return max(c.x0-b.x0, 0) + max(b.x1-c.x1, 0) + max(c.y0-b.y0, 0) + max(b.y1-c.y1, 0)
}

// letterWidth is a letter's mean width over its size, on the safe side.
const letterWidth = 0.62

// place gives each policy's label the nearest place to its point where it
// covers no point and no other label. Labels that end up away from their point
// get a thin line to it. It is greedy, from the policies that matter most.
func place(f *frontFigure, letter float64) {
	page := box{f.Left + 2, f.Top, f.W - 2, f.Bottom - 2}
	var taken []box
	for _, l := range f.Lines {
		taken = append(taken, box{l.X - 7, l.Y - 7, l.X + 7, l.Y + 7})
		for _, d := range l.Dots {
			taken = append(taken, box{d.X - 3, d.Y - 3, d.X + 3, d.Y + 3})
		}
	}
	goal := float64(len(f.GoalLabel)) * letter * letterWidth
	taken = append(taken, box{f.Right - goal - 4, f.Goal, f.Right, f.Goal + letter*1.4})
	if f.BoundX > 0 {
		taken = append(taken, box{f.BoundX - letter*1.2, f.Top, f.BoundX + letter*1.4, f.Top + 8*letter})
	}
	for i := range slices.Backward(f.Lines) {
		l := &f.Lines[i]
		b, left := nearest(*l, letter, page, taken)
		taken = append(taken, b)
		middle := (b.y0 + b.y1) / 2
		l.LabelX, l.LabelY, l.Anchor = round2(b.x0), round2(middle+letter*0.35), "start"
		if left {
			l.LabelX, l.Anchor = round2(b.x1), "end"
		}
		if math.Hypot(l.LabelX-l.X, middle-l.Y) > 13 {
			l.Lead = fmt.Sprintf("M%g %gL%g %g", l.X, l.Y, l.LabelX, round2(middle))
		}
	}
}

// nearest is the cheapest of many places for a label round its point, and
// whether it is left of it. Distance costs a little, and covering something a
// lot.
func nearest(l frontLine, letter float64, page box, taken []box) (best box, left bool) {
	const rings, turns = 24, 24
	w, h := float64(len([]rune(l.Label)))*letter*letterWidth, letter*1.25
	least := math.Inf(1)
	for k := range rings * turns {
		r := 10 + 9*float64(k/turns)
		// Right of the point first, then further and further round it.
		a := float64((k%turns+1)/2) * 2 * math.Pi / turns
		if k%2 == 0 {
			a = -a
		}
		x, y := l.X+r*math.Cos(a), l.Y+r*0.8*math.Sin(a)
		b, onLeft := box{x, y - h/2, x + w, y + h/2}, math.Cos(a) < -0.01
		if onLeft {
			b = box{x - w, y - h/2, x, y + h/2}
		}
		cost := r + 2*math.Abs(math.Sin(a)) + 40*b.outside(page)
		for _, t := range taken {
			if o := b.overlap(t); o > 0 {
				cost += 60 + 4*o
			}
		}
		if cost < least {
			best, least, left = b, cost, onLeft
		}
	}
	return best, left
}
