package sim

import (
	"fmt"
	"math"
	"math/rand/v2"
)

// Shape describes demand to generate. The zero value is a flat line.
type Shape struct {
	Name    string
	Days    float64
	Mean    float64 // requests a minute
	Day     float64 // swing of the day cycle: 0.8 is from 0.2 to 1.8 of the mean
	Weekend float64 // how much less Saturday and Sunday have, as a share
	Noise   float64 // dispersion of the minutes: variance over mean; 1 is Poisson
	Wander  float64 // standard deviation, as a share, of a drift with a memory of an hour
	Bursts  float64 // bursts a day, each 5 to 45 minutes of 1.5 to 3 times the demand
	Jumps   []Jump
}

// Jump multiplies the demand from one time on, as a large client that joins or
// leaves does.
type Jump struct{ Day, Factor float64 }

// Week is the demand that is replayed when no trace is given: a chat-like
// service with a day cycle, a quiet weekend, bursts nobody announced and one
// client that joins on Wednesday and leaves on Saturday.
func Week(seed uint64) Trace {
	return Generate(Shape{Name: "generated week", Days: 7, Mean: 600, Day: 0.7, Weekend: 0.35, Noise: 5, Wander: 0.08, Bursts: 1.5,
		Jumps: []Jump{{2.45, 1.6}, {5.3, 1 / 1.6}}}, seed)
}

// Shop is a week of a shop's recommender: quiet nights, full evenings, fuller
// weekends and a sale or two.
func Shop(seed uint64) Trace {
	return Generate(Shape{Name: "generated shop", Days: 7, Mean: 900, Day: 0.75, Weekend: -0.3, Noise: 4, Wander: 0.06, Bursts: 0.6}, seed)
}

// Generate makes demand of the shape; the same seed gives the same demand.
func Generate(s Shape, seed uint64) Trace {
	rng := rand.New(rand.NewPCG(seed, 0x67656e65))
	n := int(math.Round(s.Days * 24 * 60))
	t := Trace{Name: s.Name, Start: DefaultStart, Arrivals: make([]float64, n)}
	if t.Name == "" {
		t.Name = "generated"
	}
	t.Notes = []string{fmt.Sprintf("the demand is generated, with seed %d", seed)}
	burst := bursts(s, n, rng)
	drift := 0.0
	keep := math.Exp(-1.0 / 60)
	for i := range t.Arrivals {
		day := float64(i) / (24 * 60)
		level := s.Mean * daily(s, day) * burst[i]
		if wd := math.Mod(day, 7); wd >= 5 {
			level *= 1 - s.Weekend
		}
		for _, j := range s.Jumps {
			if day >= j.Day {
				level *= j.Factor
			}
		}
		if s.Wander > 0 {
			drift = keep*drift + math.Sqrt(1-keep*keep)*s.Wander*rng.NormFloat64()
			level *= math.Exp(drift - s.Wander*s.Wander/2)
		}
		if s.Noise > 0 && level > 0 {
			level = s.Noise * gamma(rng, level/s.Noise)
		}
		t.Arrivals[i] = math.Round(level)
	}
	return t
}

// daily is the day cycle: a broad afternoon, a dip at four in the morning.
func daily(s Shape, day float64) float64 {
	h := 2 * math.Pi * (day - 16.0/24)
	return max(1+s.Day*(0.85*math.Cos(h)+0.15*math.Cos(2*h)), 0)
}

// bursts returns a factor for each minute.
func bursts(s Shape, n int, rng *rand.Rand) []float64 {
	f := make([]float64, n)
	for i := range f {
		f[i] = 1
	}
	for range int(math.Round(s.Bursts * s.Days)) {
		at, long, high := rng.IntN(max(n, 1)), 5+rng.IntN(41), 0.5+1.5*rng.Float64()
		for i := at; i < min(at+long, n); i++ {
			f[i] += high * math.Sin(math.Pi*(float64(i-at)+0.5)/float64(long))
		}
	}
	return f
}

// gamma draws from the Gamma distribution with the given shape and scale 1, by
// the method of Marsaglia and Tsang, "A simple method for generating gamma
// variables", ACM TOMS 26 (2000).
func gamma(rng *rand.Rand, shape float64) float64 {
	if shape <= 0 {
		return 0
	}
	if shape < 1 {
		u := 1 - rng.Float64()
		return gamma(rng, shape+1) * math.Pow(u, 1/shape)
	}
	d := shape - 1.0/3
	c := 1 / math.Sqrt(9*d)
	for {
		x := rng.NormFloat64()
		v := 1 + c*x
		if v <= 0 {
			continue
		}
		v = v * v * v
		u := 1 - rng.Float64()
		if math.Log(u) < 0.5*x*x+d-d*v+d*math.Log(v) {
			return d * v
		}
	}
}
