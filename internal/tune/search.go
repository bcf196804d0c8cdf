package tune

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/gpupool/gpupool/internal/sim"
)

// Evaluate replays one setting on the days from first up to, not including, end
// of one trace, and returns what each of them scored. It must be safe for
// concurrent use, and its answer a function of its arguments.
type Evaluate func(s Setting, trace, first, end int) ([]sim.Day, error)

// Span is the days of a trace that are scored: from First up to, not including,
// End.
type Span struct{ First, End int }

// Search is successive halving over days: all settings are tried on a quarter of
// the days, the better half of them on half, and the better half of these on
// all, so that each round takes the same time. K.
// Jamieson and A. Talwalkar, "Non-stochastic best arm identification and
// hyperparameter optimization", AISTATS 2016.
//
// What is sought is a front and not a point. So the better half is the settings
// that no other beats in both cost and lateness, then those that only these
// beat, and so on; of a set that does not fit whole, those far apart. R.
// Schmucker and others, "Multi-objective asynchronous successive halving",
// arXiv:2106.12639.
type Search struct {
	Params   []Param // at most eight
	Budget   int     // settings to try, besides the policy as it comes
	Seed     uint64
	Aim      Aim
	Spans    []Span // of each trace
	Evaluate Evaluate

	// Progress is called, never by two at once, after each replay.
	Progress func()
}

// Candidate is a setting and what it scored on the days it was tried on.
type Candidate struct {
	Setting Setting
	Days    [][]sim.Day // of each trace
	Figures Figures
}

// Outcome is the candidates of the last round. The first is the policy as it
// comes, which goes through every round.
type Outcome struct {
	Candidates []Candidate
	Tried      int  // settings that were tried on any days
	Whole      bool // the candidates were tried on all days
}

// halvings is how often the settings are halved.
const halvings = 2

// round is one round of the search.
type round struct {
	settings int    // tried in it, besides the policy as it comes
	spans    []Span // of each trace
}

// rounds plans the search. Traces of less than four days are tried whole.
func (s *Search) rounds() []round {
	rng := rand.New(rand.NewPCG(s.Seed, 0x726f756e6473))
	longest := 0
	for _, p := range s.Spans {
		longest = max(longest, p.End-p.First)
	}
	n := s.Budget
	var out []round
	for k := halvings; k > 0; k-- {
		r := round{settings: n}
		for _, p := range s.Spans {
			all := p.End - p.First
			long := max(int(math.Round(float64(all)/float64(int(1)<<k))), 1)
			first := p.First + rng.IntN(all-long+1)
			r.spans = append(r.spans, Span{first, first + long})
		}
		if longest >= 1<<halvings && n > 1 {
			out = append(out, r)
			n = (n + 1) / 2
		}
	}
	return append(out, round{settings: n, spans: s.Spans})
}

// Replays is how many replays the search makes.
func (s *Search) Replays() int {
	n := 0
	for _, r := range s.rounds() {
		n += (r.settings + 1) * len(s.Spans)
	}
	return n
}

// Run searches. Where ctx ends before the search does, the outcome is that of
// the last round in which anything was compared with the policy as it comes,
// and the error is the context's.
func (s *Search) Run(ctx context.Context) (Outcome, error) {
	if d := len(s.Params); d == 0 || d > maxDims {
		return Outcome{}, fmt.Errorf("search of %d parameters: must be 1 to %d", d, maxDims)
	}
	alive := []Candidate{{}}
	for _, u := range sobol(s.Budget, len(s.Params), shift(len(s.Params), s.Seed)) {
		v := make(Setting, len(u))
		for d := range u {
			v[d] = s.Params[d].at(u[d])
		}
		alive = append(alive, Candidate{Setting: v})
	}
	rounds := s.rounds()
	var out Outcome
	for i, r := range rounds {
		if i > 0 {
			alive = s.better(out.Candidates, r.settings)
		}
		tried, err := s.try(ctx, alive, r.spans)
		if len(tried) > 1 || i == 0 && len(tried) == 1 {
			out = Outcome{Candidates: tried, Tried: max(out.Tried, len(tried)-1), Whole: i == len(rounds)-1}
		}
		if err != nil {
			return out, err
		}
	}
	return out, nil
}

// try replays all candidates, the first before the others: without it nothing
// can be compared. Where ctx ends it returns those that were done, in order;
// none where the first was not.
func (s *Search) try(ctx context.Context, candidates []Candidate, spans []Span) ([]Candidate, error) {
	tried := make([]Candidate, len(candidates))
	done := make([]int, len(candidates)) // traces
	for i, c := range candidates {
		tried[i] = Candidate{Setting: c.Setting, Days: make([][]sim.Day, len(spans))}
	}
	var mu sync.Mutex
	replay := func(from, to int) error {
		group, ctx := errgroup.WithContext(ctx)
		group.SetLimit(runtime.GOMAXPROCS(0))
		for i := from; i < to; i++ {
			for t, p := range spans {
				group.Go(func() error {
					if ctx.Err() != nil {
						return ctx.Err()
					}
					days, err := s.Evaluate(tried[i].Setting, t, p.First, p.End)
					if err != nil {
						return err
					}
					mu.Lock()
					defer mu.Unlock()
					tried[i].Days[t] = days
					done[i]++
					if s.Progress != nil {
						s.Progress()
					}
					return nil
				})
			}
		}
		return group.Wait()
	}
	err := replay(0, 1)
	if err == nil {
		err = replay(1, len(tried))
	}
	var out []Candidate
	for i, c := range tried {
		if done[i] < len(spans) {
			if i == 0 {
				break
			}
			continue
		}
		c.Figures = s.Aim.figures(c.Days)
		out = append(out, c)
	}
	return out, err
}

// better is the first candidate and the best n of the others.
func (s *Search) better(all []Candidate, n int) []Candidate {
	points := make([]point, len(all))
	rest := make([]int, 0, len(all)-1)
	for i, c := range all {
		points[i] = point{c.Figures.Cost / all[0].Figures.Cost, s.Aim.lateness(c.Figures)}
		if i > 0 {
			rest = append(rest, i)
		}
	}
	var keep []int
	for len(keep) < n && len(rest) > 0 {
		layer := front(points, rest)
		rest = slices.DeleteFunc(rest, func(i int) bool { return slices.Contains(layer, i) })
		if len(keep)+len(layer) > n {
			layer = apart(points, layer, n-len(keep))
		}
		keep = append(keep, layer...)
	}
	slices.Sort(keep)
	out := []Candidate{all[0]}
	for _, i := range keep {
		out = append(out, all[i])
	}
	return out
}

// apart is n of the layer, which ascends in cost: both ends first, then always
// the one that is farthest from those taken.
func apart(points []point, layer []int, n int) []int {
	if n == 1 { // the middle serves most
		return layer[len(layer)/2 : len(layer)/2+1]
	}
	first, last := points[layer[0]], points[layer[len(layer)-1]]
	width := func(a, b float64) float64 { return max(math.Abs(a-b), 1e-12) }
	cost, late := width(first.cost, last.cost), width(first.late, last.late)
	taken := []int{layer[0], layer[len(layer)-1]}
	for len(taken) < n {
		far, best := -1.0, 0
		for _, i := range layer {
			near := math.Inf(1)
			for _, k := range taken {
				near = min(near, math.Hypot((points[i].cost-points[k].cost)/cost, (points[i].late-points[k].late)/late))
			}
			if near > far {
				far, best = near, i
			}
		}
		taken = append(taken, best)
	}
	return taken[:n]
}
