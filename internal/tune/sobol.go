package tune

import (
	"math/bits"
	"math/rand/v2"
)

// maxDims is the number of dimensions that there are direction numbers for.
const maxDims = 8

// direction has, for the second dimension and those after it, the coefficients
// of a primitive polynomial and the initial direction numbers: the first rows of
// new-joe-kuo-6.21201, from S. Joe and F. Y. Kuo, "Constructing Sobol sequences
// with better two-dimensional projections", SIAM J. Sci. Comput. 30 (2008),
// 2635–2654.
var direction = [maxDims - 1]struct {
	coefficients uint32   // a: those between the first and the last, which are 1
	initial      []uint32 // m: as many as the polynomial has degrees
}{
	{0, []uint32{1}},
	{1, []uint32{1, 3}},
	{1, []uint32{1, 3, 1}},
	{2, []uint32{1, 1, 1}},
	{1, []uint32{1, 1, 3, 3}},
	{4, []uint32{1, 3, 5, 13}},
	{2, []uint32{1, 1, 5, 5, 17}},
}

// sobol returns the first n points of Sobol's sequence in [0, 1)^dims, each
// coordinate combined by exclusive or with the same element of shift, which may
// be nil. The shift keeps what the sequence is for: of any 2^k points from a
// multiple of 2^k on, each 2^k-th of each coordinate's range holds one. dims is
// at most maxDims.
//
// The order is that of the Gray code: I. A. Antonov and V. M. Saleev, USSR
// Comput. Math. Math. Phys. 19 (1979), 252–256.
func sobol(n, dims int, shift []uint32) [][]float64 {
	numbers := make([][32]uint32, dims)
	for d := range numbers {
		numbers[d] = directions(d)
	}
	x := make([]uint32, dims)
	copy(x, shift)
	points := make([][]float64, n)
	for i := range points {
		if i > 0 {
			for d := range x {
				x[d] ^= numbers[d][bits.TrailingZeros32(uint32(i))]
			}
		}
		points[i] = make([]float64, dims)
		for d, v := range x {
			points[i][d] = float64(v) / (1 << 32)
		}
	}
	return points
}

// directions is the direction numbers of one dimension, as binary fractions.
func directions(d int) (v [32]uint32) {
	if d == 0 {
		for k := range v {
			v[k] = 1 << (31 - k)
		}
		return v
	}
	p := direction[d-1]
	s := len(p.initial)
	for k := range v {
		if k < s {
			v[k] = p.initial[k] << (31 - k)
			continue
		}
		v[k] = v[k-s] ^ v[k-s]>>s
		for j := 1; j < s; j++ {
			if p.coefficients>>(s-1-j)&1 == 1 {
				v[k] ^= v[k-j]
			}
		}
	}
	return v
}

// shift draws a digital shift.
func shift(dims int, seed uint64) []uint32 {
	rng := rand.New(rand.NewPCG(seed, 0x736f626f6c))
	s := make([]uint32, dims)
	for d := range s {
		s[d] = rng.Uint32()
	}
	return s
}
