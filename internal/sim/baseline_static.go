package sim

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/gpupool/gpupool/internal/plan"
)

// static never changes its count: what most GPU pools do today. The person
// who chose the count is taken to have known the traffic, which flatters it.
type static struct {
	name  string
	count int
	why   string
}

func (s static) Name() string { return s.name }

func (s static) Decide(time.Time, Observation) plan.Decision {
	return plan.Decision{Count: s.count, Rule: "static", Reason: s.why}
}

// newStatic returns the policy that keeps enough for all but a share of the
// minutes, times the knob.
func newStatic(name string, quantile float64) func(Setup) Policy {
	return func(s Setup) Policy {
		need := slices.Clone(s.Need)
		slices.Sort(need)
		top := 0.0
		if len(need) > 0 {
			top = need[min(int(quantile*float64(len(need))), len(need)-1)]
		}
		n := int(math.Ceil(top * s.Knob))
		return static{name, n, fmt.Sprintf("always %d", n)}
	}
}
