package sim

import (
	"testing"
	"time"
)

// fortnight is 14 days of minutes like those of a busy model server.
func fortnight() Trace {
	return Generate(Shape{Name: "fortnight", Days: 14, Mean: 1200, Day: 0.6, Weekend: 0.3, Noise: 5, Wander: 0.1, Bursts: 1,
		Jumps: []Jump{{4.4, 1.5}, {9.6, 0.6}}}, 1)
}

func benchmarkRun(b *testing.B, cfg Config, policy string) {
	w, err := NewWorld(cfg, fortnight())
	if err != nil {
		b.Fatal(err)
	}
	spec, ok := Lookup(policy)
	if !ok {
		b.Fatalf("no policy %s", policy)
	}
	b.ReportAllocs()
	for b.Loop() {
		w.Run(spec, spec.Knob.Default)
	}
}

func BenchmarkRun14Days(b *testing.B) {
	for _, p := range []string{"static-peak", "tracking-queue", "predictive"} {
		b.Run("fluid/"+p, func(b *testing.B) { benchmarkRun(b, Config{}, p) })
	}
	b.Run("requests/tracking-queue", func(b *testing.B) { benchmarkRun(b, Config{Engine: Requests}, "tracking-queue") })
}

func BenchmarkWorld14Days(b *testing.B) {
	t := fortnight()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := NewWorld(Config{}, t); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkBound(b *testing.B) {
	for _, lead := range []time.Duration{5 * time.Minute, 15 * time.Minute} {
		b.Run("lead="+lead.String(), func(b *testing.B) {
			w, err := NewWorld(Config{Lead: lead}, fortnight())
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				w.Bound(0.99)
			}
		})
	}
}
