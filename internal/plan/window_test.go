package plan

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// The window is the largest of what it covers, also where every value is less
// than the one before it.
func TestWindow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.IntRange(0, 17).Draw(t, "size")
		values := rapid.SliceOfN(rapid.IntRange(0, 50), 1, 60).Draw(t, "values")
		if rapid.Bool().Draw(t, "falling") {
			for i := range values {
				values[i] = 100 - i
			}
		}
		w, got := newWindow(time.Duration(size)*step), make([]int, len(values))
		if w.max() != 0 {
			t.Fatalf("the largest of none is %d", w.max())
		}
		cut := rapid.IntRange(0, len(values)).Draw(t, "cut") // in whatever pieces they come
		w.slide(values[:cut], got[:cut])
		w.slide(values[cut:], got[cut:])
		for i := range values {
			if most := slices.Max(values[max(i-size, 0) : i+1]); got[i] != most {
				t.Fatalf("after %v the largest of the last %d is %d, not %d", values[:i+1], size+1, most, got[i])
			}
		}
		if w.max() != got[len(got)-1] {
			t.Fatalf("the largest now is %d, not %d", got[len(got)-1], w.max())
		}
	})
}
