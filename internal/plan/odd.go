package plan

import (
	"fmt"
	"math"
	"time"

	"github.com/gpupool/gpupool/internal/demand"
	"github.com/gpupool/gpupool/internal/forecast"
)

// zeros tells a demand that ended from samples that were lost and written as
// zeros. A busy, steady series does not fall to exactly nothing at once: such a
// run counts as a hole for a while, and is believed when it lasts.
type zeros struct {
	run    int     // steps of the run so far
	before float64 // units before it
	odd    bool
}

const (
	zerosBelieved = 30 * time.Minute // from then on a run of zeros is what it says
	zerosBefore   = 10 * time.Minute // over which the demand before it is averaged
	zerosUnits    = 8                // fewer units may well end together
	zerosSpread   = 0.3              // demand that is less steady may do anything
)

// see takes the next value and returns it, or that it is a hole.
func (z *zeros) see(v float64, m *forecast.Model) float64 {
	if v != 0 {
		if !math.IsNaN(v) {
			*z = zeros{}
		}
		return v
	}
	if z.run == 0 {
		z.before = m.Recent(steps(zerosBefore))
		z.odd = m.Matured() >= enough && z.before >= zerosUnits && z.before >= m.Scale()/4 && m.Spread() < zerosSpread
	}
	z.run++
	if z.doubted() {
		return math.NaN()
	}
	return v
}

// doubted says whether the run is taken for a hole.
func (z *zeros) doubted() bool { return z.odd && z.run <= steps(zerosBelieved) }

// why is the reason for holding the count.
func (z *zeros) why(r Rules) string {
	return fmt.Sprintf("demand fell from %s units to exactly 0 at once, which is taken for lost samples for up to %s", number(z.before), short(r.Of(zerosBelieved)))
}

const (
	cappedFlat  = time.Hour      // demand lies at what serves for so long,
	cappedUsual = 24 * time.Hour // though for so long before
	cappedMoves = 0.02           // it moved by so much from sample to sample, as a share
	cappedRoom  = 0.8            // of what is there is then taken to be needed by it
)

// capped says whether the series shows what the pool can serve and not what is
// asked of it: it used to move and now lies flat at the capacity. Growth can
// then be seen only by growing.
func capped(s demand.Series, in Input, r Rules) bool {
	ready := float64(max(in.Count-len(in.Starting), 0)) * r.Units
	if ready <= 0 {
		return false
	}
	flat := s.Window(in.Now.Add(-r.Of(cappedFlat)), in.Now)
	for _, p := range flat {
		if math.Abs(p.Value-ready) > 0.005*ready {
			return false
		}
	}
	usual := s.Window(in.Now.Add(-r.Of(cappedFlat+cappedUsual)), in.Now.Add(-r.Of(cappedFlat)))
	if len(flat) < 10 || len(usual) < 100 {
		return false
	}
	moved, sum := 0.0, 0.0
	for i := 1; i < len(usual); i++ {
		moved += math.Abs(usual[i].Value - usual[i-1].Value)
		sum += usual[i].Value
	}
	return sum > 0 && moved > cappedMoves*sum
}
