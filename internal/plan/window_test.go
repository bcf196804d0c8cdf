package plan

import (
	"testing"

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
		w := newWindow(size)
		for i, v := range values {
			w.add(v)
			most := 0
			for _, v := range values[max(i-size, 0) : i+1] {
				most = max(most, v)
			}
			if w.max() != most {
				t.Fatalf("after %v the largest of the last %d is %d, not %d", values[:i+1], size+1, most, w.max())
			}
		}
	})
}
