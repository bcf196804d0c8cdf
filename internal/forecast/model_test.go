package forecast_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/gpupool/gpupool/internal/forecast"
)

// Steps of five minutes keep tests short: a day has 288.
const (
	hour = 12
	day  = 24 * hour
)

func config(q ...float64) forecast.Config {
	return forecast.Config{Day: day, Hour: hour, Ahead: 3, Width: 1, Quantiles: q}
}

func flat(int) float64 { return 50 }

func sine(k int) float64 { return 100 + 80*math.Sin(2*math.Pi*float64(k)/day) }

func quietSunday(k int) float64 {
	if k/day%7 == 6 {
		return sine(k) / 4
	}
	return sine(k)
}

func TestExperts(t *testing.T) {
	for _, c := range []struct {
		name   string
		series func(int) float64
		days   int
		expert string
		within float64 // share of what comes
	}{
		{"a flat line is known to all: now", flat, 2, "now", 0.001},
		{"level", flat, 2, "level", 0.001},
		{"day", flat, 2, "day", 0.001},
		{"week", flat, 8, "week", 0.001},
		{"regression", flat, 2, "regression", 0.01},
		{"a day cycle repeats", sine, 3, "day", 0.02},
		{"and regression learns it", sine, 4, "regression", 0.05},
		{"a quiet Sunday is known from the Sunday before", quietSunday, 14, "week", 0.05},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := forecast.New(config(0.5))
			for k := range c.days*day + 7 {
				m.Add(c.series(k))
			}
			want := c.series(c.days*day + 6 + 3)
			for _, w := range m.Weights() {
				if w.Expert == c.expert && math.Abs(w.Forecast-want) > c.within*want {
					t.Errorf("%s says %v, %v came", w.Expert, w.Forecast, want)
				}
			}
		})
	}
}

// The weight goes to who is right, and comes back when that ends.
func TestHedgeFollowsTheBestExpert(t *testing.T) {
	m := forecast.New(config(0.5))
	weight := func(name string) float64 {
		for _, w := range m.Weights() {
			if w.Expert == name {
				return w.Share
			}
		}
		t.Fatalf("no expert %s", name)
		return 0
	}
	rng := rand.New(rand.NewPCG(1, 1))
	steep := func(k int) float64 { // each hour of the day another level, the same every day
		return 50 + 100*math.Abs(math.Sin(float64(k%day/2)*12.9898))
	}
	for k := range 4 * day {
		m.Add(steep(k) * (1 + 0.01*rng.NormFloat64()))
	}
	if day, now := weight("day"), weight("now"); day < 2*now {
		t.Errorf("the day repeats to the step: weights day %v, now %v", day, now)
	}
	level := 100.0
	for range 3 * day {
		level = max(20, level+5*rng.NormFloat64())
		m.Add(level)
	}
	if day, now := weight("day"), weight("now"); now < 2*day {
		t.Errorf("a random walk: weights day %v, now %v", day, now)
	}
}

// One day is enough to expect the next morning while it is still night.
func TestSecondMorningIsExpected(t *testing.T) {
	m := forecast.New(config(0.5))
	rng := rand.New(rand.NewPCG(3, 1))
	const dawn = 8 * hour
	for k := range day + dawn - 1 {
		level := 10.0
		if at := k % day; at >= dawn && at < 20*hour {
			level = 70
		}
		m.Add(level * (1 + 0.03*rng.NormFloat64()))
	}
	if m.Center() < 30 {
		t.Errorf("three steps before 10 become 70 as yesterday, %.1f is expected", m.Center())
	}
}

// Each quantile is true to its name within two points on every kind of series,
// once there was a day to learn.
func TestCoverage(t *testing.T) {
	quantiles := []float64{0.5, 0.8, 0.9, 0.95, 0.99}
	noisy := func(share float64) func(*rand.Rand, int) float64 {
		return func(rng *rand.Rand, k int) float64 { return max(sine(k)*(1+share*rng.NormFloat64()), 0) }
	}
	walk := 100.0
	for name, series := range map[string]func(*rand.Rand, int) float64{
		"noise":         func(rng *rand.Rand, _ int) float64 { return max(100+20*rng.NormFloat64(), 0) },
		"day and noise": noisy(0.1),
		"random walk": func(rng *rand.Rand, _ int) float64 {
			walk = min(max(walk*math.Exp(0.05*rng.NormFloat64()), 10), 1000)
			return walk
		},
		"bursts": func(rng *rand.Rand, k int) float64 {
			if k/6%16 == 0 {
				return 300 + 30*rng.NormFloat64()
			}
			return max(100+10*rng.NormFloat64(), 0)
		},
		"level jumps": func(rng *rand.Rand, k int) float64 {
			return (50 + 100*float64(k/(2*day)%3)) * math.Exp(0.1*rng.NormFloat64())
		},
		"calm and wild days": func(rng *rand.Rand, k int) float64 {
			return 100 * math.Exp((0.02+0.2*float64(k/day%2))*rng.NormFloat64())
		},
	} {
		t.Run(name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(7, 7))
			m := forecast.New(config(quantiles...))
			covered := make([]float64, len(quantiles))
			n := 0.0
			var upper [][]float64
			for k := range 40 * day {
				v := series(rng, k)
				m.Add(v)
				upper = append(upper, append([]float64(nil), m.Quantiles()...))
				if k > day {
					n++
					for i, u := range upper[k-3] {
						if v <= u {
							covered[i]++
						}
					}
				}
			}
			for i, q := range quantiles {
				if got := covered[i] / n; math.Abs(got-q) > 0.02 {
					t.Errorf("the %v quantile covers %.3f", q, got)
				}
			}
		})
	}
}

// When the clocks change, the day is off by an hour for one day only.
func TestShiftedDayIsLearnedInADay(t *testing.T) {
	m := forecast.New(config(0.5))
	rng := rand.New(rand.NewPCG(3, 3))
	miss := make([]float64, 12)
	var said []float64
	for k := range 12 * day {
		at := k
		if k >= 8*day {
			at += hour
		}
		v := sine(at) * (1 + 0.03*rng.NormFloat64())
		m.Add(v)
		said = append(said, m.Center())
		if k >= 3 {
			miss[k/day] += math.Abs(said[k-3]-v) / day
		}
	}
	if before, after := miss[7], miss[9]; after > 1.25*before {
		t.Errorf("a day after the change the mean miss is %v, was %v", after, before)
	}
}

// A hole is not a zero: the forecast after one is near what was before.
func TestHole(t *testing.T) {
	m := forecast.New(config(0.5))
	for range 2 * day {
		m.Add(80)
	}
	for range hour / 2 {
		m.Add(math.NaN())
	}
	for range 3 {
		m.Add(80)
	}
	if got := m.Center(); math.Abs(got-80) > 1 {
		t.Errorf("after a hole in a line at 80 the forecast is %v", got)
	}
}

// Whatever comes, quantiles are finite, ordered and not negative.
func TestAnySeries(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 5))
			m := forecast.New(config(0.1, 0.5, 0.9, 0.99))
			for range 3 * day {
				v := 0.0
				switch rng.IntN(5) {
				case 0:
					v = math.NaN()
				case 1:
					v = math.Exp(25 * rng.Float64())
				case 2:
					v = rng.Float64()
				}
				m.Add(v)
				last := 0.0
				for _, q := range m.Quantiles() {
					if math.IsNaN(q) || math.IsInf(q, 0) || q < last {
						t.Fatalf("quantiles %v", m.Quantiles())
					}
					last = q
				}
			}
		})
	}
}

func BenchmarkAdd(b *testing.B) {
	m := forecast.New(forecast.Config{Day: 2880, Hour: 120, Ahead: 13, Every: 2, Width: 4, Quantiles: []float64{0.3, 0.5, 0.65, 0.8, 0.9, 0.95, 0.98, 0.995}})
	for k := 0; b.Loop(); k++ {
		m.Add(sine(k))
	}
}
