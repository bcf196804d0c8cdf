package plan

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// The window is the largest of what it covers, also where every value is less
// than the one before it.
func TestWindow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		first := rapid.IntRange(0, 17).Draw(t, "first")
		sizes := []int{first, first + rapid.IntRange(0, 9).Draw(t, "more")}
		values := rapid.SliceOfN(rapid.IntRange(0, 50), 1, 60).Draw(t, "values")
		if rapid.Bool().Draw(t, "falling") {
			for i := range values {
				values[i] = 100 - i
			}
		}
		w := newWindow([]time.Duration{time.Duration(sizes[0]) * step, time.Duration(sizes[1]) * step})
		for i, v := range values {
			w.add(v)
			for n, size := range sizes {
				most := 0
				for _, v := range values[max(i-size, 0) : i+1] {
					most = max(most, v)
				}
				if w.max(n) != most {
					t.Fatalf("after %v the largest of the last %d is %d, not %d", values[:i+1], size+1, most, w.max(n))
				}
			}
		}
	})
}
