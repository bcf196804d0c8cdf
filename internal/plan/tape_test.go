package plan

import (
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// A pool that is played over a whole tape at once comes out as one that is
// played step by step.
func TestTapeIsPlayedInAnyPieces(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := Rules{Units: 8, Max: 60, Lead: rapid.SampledFrom([]time.Duration{0, time.Minute, 8 * time.Minute}).Draw(t, "lead"), Interval: time.Minute}.withDefaults()
		p := newReplay(r, []time.Duration{5 * time.Minute, 20 * time.Minute}, rapid.Bool().Draw(t, "flow"))
		replayed, steps := steps(r.Lead), make([]pool, len(p.candidates))
		for i := range steps {
			steps[i] = newPool(replayed, p.candidates[i].keeps)
		}
		level := 0.0
		for range 2 * tapeSteps {
			if rapid.IntRange(0, 9).Draw(t, "new level") == 0 {
				level = rapid.Float64Range(0, 400).Draw(t, "level")
			}
			for i := range p.planned {
				p.planned[i] = level * float64(i+1) / 10
			}
			load := level
			if rapid.IntRange(0, 50).Draw(t, "hole") == 0 {
				load = math.NaN()
			}
			p.show(load, situation{recent: level, center: level}, p.k > 5)
			for i, c := range p.candidates {
				p.workOut(c.target)
				p.play(&steps[i], c, len(p.tape.load)-1)
			}
			p.k++
			if p.k%tapeSteps == 0 {
				p.catchUp()
			}
		}
		if diff := cmp.Diff(steps, p.pools[:len(steps)], cmp.AllowUnexported(pool{})); diff != "" {
			t.Fatal(diff)
		}
	})
}
