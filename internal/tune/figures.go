package tune

import (
	"cmp"
	"math"
	"slices"

	"github.com/gpupool/gpupool/internal/sim"
)

// Figures is what something cost and how late it was, over some days of some
// traces.
type Figures struct {
	Days        int     `json:"days"`
	Cost        float64 `json:"cost"` // GPU-hours and power cycles at their prices
	GPUHours    float64 `json:"gpu_hours"`
	PowerCycles int     `json:"power_cycles"`
	Attainment  float64 `json:"attainment"` // share of requests on time, of the trace with the least
	WorstDay    float64 `json:"worst_day_attainment"`
}

// Aim is what a setting is judged by.
type Aim struct {
	SLO        float64 // share of requests that shall be on time; below 1
	Price      float64 // of a GPU-hour
	CyclePrice float64 // of a power cycle
}

// figures adds up days, of each trace.
func (a Aim) figures(traces [][]sim.Day) Figures {
	f := Figures{Attainment: 1, WorstDay: 1}
	for _, days := range traces {
		requests, late := 0.0, 0.0
		for _, d := range days {
			f.Days++
			f.GPUHours += d.GPUHours
			f.PowerCycles += d.PowerCycles
			requests += d.Requests
			late += d.Late
			if d.Requests > 0 {
				f.WorstDay = min(f.WorstDay, 1-d.Late/d.Requests)
			}
		}
		if requests > 0 {
			f.Attainment = min(f.Attainment, 1-late/requests)
		}
	}
	f.Cost = f.GPUHours*a.Price + float64(f.PowerCycles)*a.CyclePrice
	return f
}

// keeps says whether enough requests are on time.
func (a Aim) keeps(f Figures) bool { return f.Attainment >= a.SLO-1e-9 }

// lateness is the late share over the allowed one, as a power of two, cut to a
// quarter and four: whoever wants 99 % on time does not care whether a setting
// has 60 % or 70 %, nor what 99.99 % would cost.
func (a Aim) lateness(f Figures) float64 {
	const most = 2
	return math.Log2(max(min((1-f.Attainment)/(1-a.SLO), 1<<most), 1.0/(1<<most)))
}

// closeEnough is how much dearer than the cheapest setting the policy as it
// comes may be, as a share, and still be chosen: less is not worth a setting.
const closeEnough = 0.01

// choose is the index of the cheapest that keeps the SLO, or of the one with
// the least late where none does. The first stands for the policy as it comes.
func (a Aim) choose(all []Figures) int {
	best := 0
	for i, f := range all {
		b := all[best]
		switch keeps, other := a.keeps(f), a.keeps(b); {
		case keeps && (!other || f.Cost < b.Cost), !keeps && !other && f.Attainment > b.Attainment:
			best = i
		}
	}
	if a.keeps(all[0]) && all[0].Cost <= (1+closeEnough)*all[best].Cost {
		return 0
	}
	return best
}

// point is a setting's place between cost and lateness.
type point struct{ cost, late float64 }

// front is the indices, in ascending cost, of the points that no other beats in
// one without losing in the other. Of equal ones the first is taken.
func front(points []point, among []int) []int {
	order := slices.Clone(among)
	slices.SortStableFunc(order, func(i, j int) int {
		return cmp.Or(cmp.Compare(points[i].cost, points[j].cost), cmp.Compare(points[i].late, points[j].late))
	})
	var out []int
	least := math.Inf(1)
	for _, i := range order {
		if points[i].late < least {
			out, least = append(out, i), points[i].late
		}
	}
	return out
}
