package plan

import "time"

// window is the largest of the last values, over each of several lengths of
// time, in constant time: it keeps the values that a later and larger one did
// not yet overtake, and for each length where in them it begins.
type window struct {
	value, at []int // rings
	sizes     []int // ascending: so many values before the newest one count too
	heads     []int // for each size: position of the first value within it
	tail      int   // position after the newest value
	k         int   // values ever added
}

// newWindow takes the lengths in ascending order.
func newWindow(long []time.Duration) window {
	w := window{heads: make([]int, len(long))}
	for _, d := range long {
		w.sizes = append(w.sizes, steps(d))
	}
	n := ring(w.sizes[len(long)-1] + 2)
	w.value, w.at = make([]int, n), make([]int, n)
	return w
}

// ring is the size of a ring for n values: a power of two, so that a position
// in it costs no division.
func ring(n int) int {
	size := 1
	for size < n {
		size *= 2
	}
	return size
}

func (w *window) add(v int) {
	mask := len(w.value) - 1
	first := w.heads[len(w.heads)-1] // of the longest
	for w.tail > first && w.value[(w.tail-1)&mask] <= v {
		w.tail--
	}
	w.value[w.tail&mask], w.at[w.tail&mask] = v, w.k
	for i, size := range w.sizes {
		head := min(w.heads[i], w.tail)
		for w.at[head&mask] < w.k-size {
			head++
		}
		w.heads[i] = head
	}
	w.tail++
	w.k++
}

// max is the largest over the i-th length; 0 before there is any.
func (w *window) max(i int) int {
	if w.tail == 0 {
		return 0
	}
	return w.value[w.heads[i]&(len(w.value)-1)]
}
