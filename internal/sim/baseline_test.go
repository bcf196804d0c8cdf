package sim

import (
	"slices"
	"testing"
	"time"

	"github.com/gpupool/gpupool/internal/demand"
)

// noon is where the cases of this file begin: a Monday, on the hour.
var noon = DefaultStart.Add(12 * time.Hour)

// pool is what policies are told of the pool in these cases: replicas of ten
// slots, samples each 30 s that are visible at once.
func pool(knob float64) Setup {
	return Setup{Slots: 10, Min: 1, Max: 1000, Lead: 5 * time.Minute, Interval: time.Minute, Sample: 30 * time.Second,
		SLOWait: time.Minute, SLO: 0.99, Start: DefaultStart, Knob: knob}
}

// metrics is samples in the making.
type metrics struct {
	at time.Time
	o  Observation
}

// sample is what one sample says.
type sample struct {
	ready                    int
	busy, waiting, rate, end float64 // slots, requests, arrivals and completions a second
}

// until adds the same sample each 30 s up to and including t.
func (m *metrics) until(t time.Time, s sample) {
	for ; !m.at.After(t); m.at = m.at.Add(30 * time.Second) {
		put := func(to *demand.Series, v float64) { *to = append(*to, demand.Point{At: m.at, Value: v}) }
		put(&m.o.InService, s.busy)
		put(&m.o.Waiting, s.waiting)
		put(&m.o.Arrivals, s.rate)
		put(&m.o.Completions, s.end)
		put(&m.o.ReadyCount, float64(s.ready))
		if s.ready > 0 {
			put(&m.o.Utilization, s.busy/float64(10*s.ready))
		}
	}
}

// see is the observation with the given counts; what is wanted and not ready
// starts.
func (m *metrics) see(wanted, ready int) Observation {
	o := m.o
	o.Wanted, o.Ready = wanted, ready
	for range wanted - ready {
		o.Starting = append(o.Starting, m.at)
	}
	return o
}

// steady is an observation at noon of a pool that was so for half an hour.
func steady(wanted, ready int, s sample) Observation {
	m := metrics{at: noon.Add(-30 * time.Minute)}
	s.ready = ready
	m.until(noon, s)
	return m.see(wanted, ready)
}

func mustCount(t *testing.T, what string, got, want int) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %d replicas, want %d", what, got, want)
	}
}

func TestPeriodicRunsAtItsOwnPeriod(t *testing.T) {
	p := periodic{period: 15 * time.Second}
	var got []time.Duration
	for _, at := range []time.Duration{0, time.Minute, time.Minute + 5*time.Second, 80 * time.Second} {
		for run := range p.until(noon.Add(at)) {
			got = append(got, run.Sub(noon)/time.Second)
		}
	}
	if want := []time.Duration{0, 15, 30, 45, 60, 75}; !slices.Equal(got, want) {
		t.Errorf("ran at %v s, want %v", got, want)
	}
}

func TestNewestIsLateAndGoesStale(t *testing.T) {
	s := demand.Series{{At: noon, Value: 1}, {At: noon.Add(time.Minute), Value: 2}}
	for _, c := range []struct {
		after time.Duration
		want  float64
		ok    bool
	}{
		{14 * time.Second, 0, false},
		{15 * time.Second, 1, true},
		{74 * time.Second, 1, true},
		{75 * time.Second, 2, true},
		{75*time.Second + 5*time.Minute - 1, 2, true},
		{75*time.Second + 5*time.Minute, 0, false},
	} {
		if got, ok := newest(s, noon.Add(c.after), 15*time.Second); got != c.want || ok != c.ok {
			t.Errorf("after %s: %v, %t, want %v, %t", c.after, got, ok, c.want, c.ok)
		}
	}
}

// Demand that never changes must settle: a baseline that swings by itself is
// modelled wrongly.
func TestBaselinesSettleOnFlatDemand(t *testing.T) {
	w := mustWorld(t, Config{Peak: 20.6, Dispersion: 1e-6, Warmup: 12 * time.Hour, Loss: -1}, flat(repeat(600, 2*24*60)...))
	for _, spec := range Policies() {
		// 20.6 over no default target is a whole number, about which rounding
		// could swing.
		r := w.Run(spec, spec.Knob.Default)
		if r.PowerCycles > 0 || r.Attainment < 1 {
			t.Errorf("%s: %d starts, %.4f on time", spec.Name, r.PowerCycles, r.Attainment)
		}
	}
}

// A metric store that is down must not make a baseline drop its pool, nor one
// that never had a sample.
func TestBaselinesHoldWithoutMetrics(t *testing.T) {
	stale := steady(7, 7, sample{busy: 50, rate: 5, end: 5})
	for _, spec := range Policies() {
		switch spec.Name {
		case "static-peak", "static-p99", "cron": // do not look
			continue
		}
		s := pool(spec.Knob.Default)
		s.Need = repeat(7, 60)
		mustCount(t, spec.Name+" an hour after the last sample", spec.New(s).Decide(noon.Add(time.Hour), stale).Count, 7)
		mustCount(t, spec.Name+" without any", spec.New(s).Decide(noon, Observation{Wanted: 7, Ready: 7}).Count, 7)
		if n := spec.New(s).Decide(noon, Observation{}).Count; n > s.Min {
			t.Errorf("%s: %d replicas out of nothing", spec.Name, n)
		}
	}
}

func TestEachPolicySaysWhatItFollows(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range Policies() {
		if s.About == "" || s.Source == "" || s.Knob.Name == "" || len(s.Knob.Sweep) < 2 || seen[s.Name] {
			t.Errorf("%q is incomplete or there twice", s.Name)
		}
		if !slices.Contains(s.Knob.Sweep, s.Knob.Default) {
			t.Errorf("%s: the default %g is not on its front", s.Name, s.Knob.Default)
		}
		setup := pool(s.Knob.Default)
		setup.Need = repeat(3, 60)
		if p := s.New(setup); p.Name() != s.Name {
			t.Errorf("%s calls itself %s", s.Name, p.Name())
		}
		seen[s.Name] = true
	}
}
