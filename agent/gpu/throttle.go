package gpu

import (
	"fmt"
	"math/bits"

	"github.com/gpupool/gpupool/internal/fleet"
)

// reasons are the names of the bits of a mask. A bit without a name is newer
// than the agent.
func reasons(mask uint64) (names []string) {
	for ; mask != 0; mask &= mask - 1 {
		names = append(names, reasonNames[bits.TrailingZeros64(mask)])
	}
	return names
}

// reasonNames has a name for every bit.
var reasonNames = func() (names [64]string) {
	for bit := range names {
		names[bit] = fmt.Sprintf("bit_%d", bit)
	}
	for _, r := range fleet.ThrottleReasons {
		names[bits.TrailingZeros64(r.Mask)] = r.Name
	}
	return names
}()
