package sim

import (
	"bytes"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/gpupool/gpupool/internal/plan"
)

func mustSpec(t testing.TB, name string) Spec {
	t.Helper()
	s, ok := Lookup(name)
	if !ok {
		t.Fatalf("there is no policy %s", name)
	}
	return s
}

func text(t *testing.T, r *Report) string {
	t.Helper()
	var b bytes.Buffer
	if err := r.WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// tiny is a program with given work, small enough to try every plan.
func tiny(arrive []int, units, most int, lead float64) *program {
	p := &program{units: units, arrive: arrive, lead: lead}
	for _, a := range arrive {
		p.limit = append(p.limit, a+2)
		p.weight = append(p.weight, 1)
		p.top = append(p.top, most)
		p.all += float64(a) / float64(units)
	}
	return p
}

// brute tries every number of replicas in every step, and every amount given
// up, by recursion without any idea of its own.
func brute(p *program, lambda float64, m, n, backlog int) float64 {
	if m == len(p.arrive) {
		return 0
	}
	best := math.Inf(1)
	for to := p.min; to <= p.top[m]; to++ {
		cost := float64(to)
		if up := to - n; up > 0 && m > 0 {
			cost += float64(up) * min(p.lead, float64(m))
		}
		left := max(backlog+p.arrive[m]-to*p.units, 0)
		for drop := 0; drop <= left; drop++ {
			if left-drop > p.limit[m] {
				continue
			}
			v := cost + lambda*p.weight[m]*float64(drop)/float64(p.units) + brute(p, lambda, m+1, to, left-drop)
			best = min(best, v)
		}
	}
	return best
}

func TestProgramMeetsBruteForce(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		steps, most := 1+rng.IntN(5), 1+rng.IntN(3)
		arrive := make([]int, steps)
		for i := range arrive {
			arrive[i] = rng.IntN(7)
		}
		p := tiny(arrive, 2, most, float64(rng.IntN(7))/2)
		p.min = rng.IntN(2)
		for i := range p.weight {
			p.weight[i] = 0.5 + rng.Float64()
		}
		lambda := math.Exp(4*rng.Float64() - 2)
		want := math.Inf(1)
		for n := p.min; n <= most; n++ {
			want = min(want, brute(p, lambda, 0, n, 0))
		}
		if got := p.solve(lambda); math.Abs(got-want) > 1e-9 {
			t.Fatalf("work %v, %d to %d replicas, lead %v, price %v: %v, want %v", arrive, p.min, most, p.lead, lambda, got, want)
		}
	}
}

// tops leaves out numbers of replicas that are never worth having; the answer
// must not notice.
func TestProgramWithTopsIsTheSame(t *testing.T) {
	for seed := range uint64(6) {
		trace := Generate(Shape{Days: 0.4, Mean: 40, Day: 0.9, Noise: 4, Bursts: 20}, seed+1)
		w := mustWorld(t, Config{Peak: 5, Lead: time.Duration(seed) * 2 * time.Minute, Warmup: 10 * time.Minute}, trace)
		p := newProgram(w, 4)
		for _, lambda := range []float64{0.5, 5, 500} {
			p.cost = nil
			got := p.solve(lambda)
			whole := *p
			whole.cost = nil
			whole.top = make([]int, len(p.top))
			for i := range whole.top {
				whole.top[i] = w.cfg.Max
			}
			if want := whole.solve(lambda); math.Abs(got-want) > 1e-6 {
				t.Errorf("seed %d, price %v: %v, with every number of replicas allowed %v", seed, lambda, got, want)
			}
		}
	}
}

// One replica's worth arrives every minute but for a gap. Whether to stay on
// over the gap is known: a start costs the lead time.
func TestBoundOfAGap(t *testing.T) {
	for _, c := range []struct {
		lead time.Duration
		gap  int     // minutes
		want float64 // replica-minutes of 60 with work, and the gap
	}{
		{5 * time.Minute, 3, 60 + 3},
		{5 * time.Minute, 20, 60 + 5},
		{15 * time.Minute, 20, 60 + 15},
	} {
		var work []float64
		work = append(work, repeat(60, 30)...)
		work = append(work, repeat(0, c.gap)...)
		work = append(work, repeat(60, 30)...)
		w := mustWorld(t, Config{Peak: 1, Max: 3, Min: -1, Lead: c.lead, Warmup: tick, SLO: 1}, flat(work...))
		w.scored = 0
		got := w.Bound(1).GPUHours * 60
		// Two units of slack, and the backlog of the last minute of each part,
		// may stay undone.
		if got > c.want+1e-9 || got < c.want-2.5 {
			t.Errorf("lead %s, gap %d min: %.2f replica-minutes, want at most %.0f and not much less", c.lead, c.gap, got, c.want)
		}
	}
}

// No policy pays less than the bound for the attainment that it reached, in
// many worlds. This tests simulator and bound against each other.
func TestNoPolicyBeatsTheBound(t *testing.T) {
	traces := []Trace{
		Generate(Shape{Name: "calm", Days: 0.5, Mean: 200, Day: 0.6, Noise: 2}, 1),
		Generate(Shape{Name: "noisy", Days: 0.5, Mean: 60, Noise: 10, Wander: 0.3}, 2),
		Generate(Shape{Name: "bursty", Days: 0.5, Mean: 300, Day: 0.8, Noise: 4, Bursts: 20}, 3),
		Generate(Shape{Name: "jumps", Days: 0.5, Mean: 300, Noise: 4, Jumps: []Jump{{0.15, 3}, {0.25, 0.2}, {0.35, 4}}}, 4),
	}
	configs := []Config{
		{Peak: 10},
		{Peak: 4, Lead: 15 * time.Minute},
		{Peak: 10, Lead: time.Minute, SLOWait: 10 * time.Second},
		{Peak: 10, Interval: 30 * time.Second, Lead: 90 * time.Second, SLOWait: 2 * time.Minute},
		{Peak: 10, Jitter: 0.6, StartFailure: 0.05},
		{Peak: 10, Hosts: Hosts{Instances: 4}},
	}
	for _, trace := range traces {
		for i, cfg := range configs {
			cfg.Warmup = 2 * time.Hour
			w := mustWorld(t, cfg, trace)
			// The bound holds for every λ; a handful keeps the test short.
			p := newProgram(w, 4)
			prices := []float64{1, 3, 10, 30, 100, 1e5}
			least := make([]float64, len(prices))
			for k, lambda := range prices {
				least[k] = p.solve(lambda) * boundStep(w.cfg).Hours()
			}
			atSLO := w.Bound(w.cfg.SLO).GPUHours
			for _, spec := range Policies() {
				r := w.Run(spec, spec.Knob.Default)
				for k, lambda := range prices {
					bound := least[k] - lambda*(1-r.Attainment)*p.all*boundStep(w.cfg).Hours()
					if r.GPUHours < bound*(1-1e-9) {
						t.Errorf("%s, config %d, λ %g: %s pays %.3f GPU-hours for %.5f on time, the bound is %.3f",
							trace.Name, i, lambda, spec.Name, r.GPUHours, r.Attainment, bound)
					}
				}
				if r.Attainment >= w.cfg.SLO && r.GPUHours < atSLO {
					t.Errorf("%s, config %d: %s pays %.3f GPU-hours, the bound at the SLO is %.3f", trace.Name, i, spec.Name, r.GPUHours, atSLO)
				}
			}
			if atSLO <= 0 {
				t.Errorf("%s, config %d: the bound is %v", trace.Name, i, atSLO)
			}
		}
	}
}

// The bound is no empty promise: knowing the future comes near it.
func TestBoundIsNearWhatHindsightReaches(t *testing.T) {
	trace := Generate(Shape{Days: 1, Mean: 300, Day: 0.6, Noise: 2}, 5)
	w := mustWorld(t, Config{Peak: 20, Warmup: time.Hour}, trace)
	need := w.need()
	oracle := Spec{Name: "oracle", New: func(Setup) Policy { return &clairvoyant{need: need} }}
	r := w.Run(oracle, 0)
	b := w.Bound(r.Attainment)
	t.Logf("hindsight pays %.2f GPU-hours for %.4f on time, the bound is %.2f", r.GPUHours, r.Attainment, b.GPUHours)
	if r.Attainment < 0.95 || r.GPUHours > 1.15*b.GPUHours {
		t.Errorf("hindsight pays %.2f GPU-hours for %.4f on time, the bound is %.2f", r.GPUHours, r.Attainment, b.GPUHours)
	}
}

// clairvoyant wants what the minutes one lead time ahead will need.
type clairvoyant struct {
	need []float64
}

func (c *clairvoyant) Name() string { return "oracle" }

func (c *clairvoyant) Decide(now time.Time, o Observation) plan.Decision {
	m := int(now.Sub(DefaultStart) / time.Minute)
	top := 0.0
	for k := m; k <= m+5 && k < len(c.need); k++ {
		top = max(top, c.need[k])
	}
	return plan.Decision{Count: int(math.Round(top))}
}
