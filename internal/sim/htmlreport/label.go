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
	for _, i := range slices.Backward(indices(len(f.Lines))) {
		l := &f.Lines[i]
		w, h := float64(len([]rune(l.Label)))*letter*letterWidth, letter*1.25
		best, bestCost := box{}, math.Inf(1)
		end := false
		for ring := 0; ring < 12; ring++ {
			r := 10 + 9*float64(ring)
			for turn := range 24 {
				// Right of the point first, then on both sides round it.
				a := float64((turn+1)/2) * math.Pi / 12
				if turn%2 == 0 {
					a = -a
				}
				x, y := l.X+r*math.Cos(a), l.Y+r*0.8*math.Sin(a)
				left := math.Cos(a) < -0.01
				b := box{x, y - h/2, x + w, y + h/2}
				if left {
					b = box{x - w, y - h/2, x, y + h/2}
				}
				cost := r + 2*math.Abs(math.Sin(a)) + 40*b.outside(page)
				for _, t := range taken {
					if o := b.overlap(t); o > 0 {
						cost += 60 + 4*o
					}
				}
				if cost < bestCost {
					best, bestCost, end = b, cost, left
				}
			}
		}
		taken = append(taken, best)
		l.LabelX, l.LabelY, l.Anchor = round2(best.x0), round2((best.y0+best.y1)/2+letter*0.35), "start"
		if end {
			l.LabelX, l.Anchor = round2(best.x1), "end"
		}
		if gap := math.Hypot(l.LabelX-l.X, (best.y0+best.y1)/2-l.Y); gap > 13 {
			l.Lead = fmt.Sprintf("M%g %gL%g %g", l.X, l.Y, l.LabelX, round2((best.y0+best.y1)/2))
		}
	}
}

func indices(n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = i
	}
	return out
}
