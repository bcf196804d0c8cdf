package tune

import (
	"fmt"

	"github.com/gpupool/gpupool/internal/sim"
)

// HeldOut is how well the choice of a setting carries over to days that it was
// not made by: each week is left out once, the choice is made by the others and
// judged on it. Where the traces together have only one week, days are left out
// instead.
type HeldOut struct {
	Unit    string  `json:"unit"`     // "week" or "day"
	Folds   []Fold  `json:"folds"`    //
	Tuned   Figures `json:"tuned"`    // of the setting chosen by all days, on all days
	Held    Figures `json:"held_out"` // of each fold's choice on the days left out, put together
	Default Figures `json:"default"`  // of the policy as it comes, on all days
}

// Fold is one week, or day, left out.
type Fold struct {
	Trace    int               `json:"trace"` // index
	FirstDay int               `json:"first_day"`
	Days     int               `json:"days"`
	Settings map[string]string `json:"settings"` // chosen by all other days
	Held     Figures           `json:"held_out"` // on the days left out
	choice   int
	from, to int // indices of days of the trace
}

// heldOut judges the choice among the candidates. It is nil where nothing can
// be left out.
func (a Aim) heldOut(candidates []Candidate) *HeldOut {
	unit, folds := folds(candidates[0].Days)
	if len(folds) < 2 {
		return nil
	}
	all := make([]Figures, len(candidates))
	for i, c := range candidates {
		all[i] = c.Figures
	}
	out := &HeldOut{Unit: unit, Tuned: all[a.choose(all)], Default: all[0]}
	held := make([][]sim.Day, len(candidates[0].Days))
	others := make([]Figures, len(candidates))
	for _, f := range folds {
		for i, c := range candidates {
			others[i] = a.figures(without(c.Days, f))
		}
		f.choice = a.choose(others)
		days := candidates[f.choice].Days[f.Trace][f.from:f.to]
		f.Held = a.figures([][]sim.Day{days})
		held[f.Trace] = append(held[f.Trace], days...)
		out.Folds = append(out.Folds, f)
	}
	out.Held = a.figures(held)
	return out
}

// folds are the weeks of all traces, or their days where there is but one week.
func folds(traces [][]sim.Day) (unit string, out []Fold) {
	for _, size := range []int{7, 1} {
		out = nil
		for t, days := range traces {
			for from := 0; from < len(days); {
				to := min(from+size, len(days))
				if len(days)-to <= size/2 { // a rest is no week of its own
					to = len(days)
				}
				out = append(out, Fold{Trace: t, FirstDay: days[from].Day, Days: to - from, from: from, to: to})
				from = to
			}
		}
		if len(out) > 1 {
			return map[int]string{7: "week", 1: "day"}[size], out
		}
	}
	return "", out
}

// without is the days of all traces but those of the fold.
func without(traces [][]sim.Day, f Fold) [][]sim.Day {
	out := make([][]sim.Day, len(traces))
	copy(out, traces)
	days := traces[f.Trace]
	out[f.Trace] = append(append([]sim.Day(nil), days[:f.from]...), days[f.to:]...)
	return out
}

// Margins beyond which a tuned setting counts as over-fitted.
const (
	costMargin = 0.05 // held out it costs so much more, as a share
	lateMargin = 0.25 // held out so much more is late, as a share of what may be
)

// warnings says what does not carry over.
func (a Aim) warnings(h *HeldOut) []string {
	var out []string
	late := func(f Figures) float64 { return 1 - f.Attainment }
	if late(h.Held) > max(late(h.Tuned), 1-a.SLO)+lateMargin*(1-a.SLO) {
		out = append(out, fmt.Sprintf("over-fit: on %ss that the choice was not made by, %s are on time, and not %s: more than a quarter of what may be late beyond it. Take a more careful point of the front, or replay more demand",
			h.Unit, percent(h.Held.Attainment), percent(max(min(h.Tuned.Attainment, a.SLO), 0))))
	}
	if h.Held.Cost > (1+costMargin)*h.Tuned.Cost {
		out = append(out, fmt.Sprintf("over-fit: on %ss that the choice was not made by, it costs %.1f %% more than on those that it was made by",
			h.Unit, 100*(h.Held.Cost/h.Tuned.Cost-1)))
	}
	if h.Tuned != h.Default && a.keeps(h.Default) && h.Held.Cost >= h.Default.Cost {
		out = append(out, fmt.Sprintf("on %ss that the choice was not made by, it costs no less than the defaults: keep them", h.Unit))
	}
	return out
}
