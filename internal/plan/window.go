package plan

import "time"

// window is the largest of the last values, over a length of time, in constant
// time: it keeps the values that a later and larger one did not yet overtake.
type window struct {
	value, at  []int // rings
	size       int   // so many values before the newest one count too
	head, tail int   // positions of the largest, and after the newest
	k          int   // values ever taken in
}

func newWindow(long time.Duration) window {
	size := steps(long)
	n := ring(size + 2)
	return window{value: make([]int, n), at: make([]int, n), size: size}
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

// slide takes the next values in and writes the largest that counts with each
// of them to most, which is as long.
func (w *window) slide(values, most []int) {
	mask, head, tail := len(w.value)-1, w.head, w.tail
	for i, v := range values {
		for tail > head && w.value[(tail-1)&mask] <= v {
			tail--
		}
		w.value[tail&mask], w.at[tail&mask] = v, w.k
		tail++
		if w.at[head&mask] < w.k-w.size {
			head++
		}
		most[i] = w.value[head&mask]
		w.k++
	}
	w.head, w.tail = head, tail
}

// max is the largest now; 0 before there is any.
func (w *window) max() int { return w.value[w.head&(len(w.value)-1)] }
